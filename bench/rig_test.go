package bench

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	variable = rollout.Name("docker_version")
	moving   = rollout.ID("docker-version-1-12-3")

	// patience bounds every wait, so that a fault ends a benchmark instead of
	// hanging it.
	patience = 2 * time.Minute
)

// rig is a broker with the streams, and a connection to it.
type rig struct {
	broker *broker.Broker
	nc     *nats.Conn
	js     jetstream.JetStream
}

// newRig starts a broker as tsunamid does. In alone, nothing but the bucket is
// kept: neither the audit log nor the evidence takes what is written to it.
func newRig(b *testing.B, o broker.Options, alone bool) *rig {
	b.Helper()
	if o.Dir == "" {
		o.Dir = b.TempDir()
	}
	br, err := broker.Start(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(br.Shutdown)
	r := &rig{broker: br}
	r.nc = r.connect(b)
	// Publishing without waiting never has to, then.
	if r.js, err = jetstream.New(r.nc, jetstream.WithPublishAsyncMaxPending(1<<16)); err != nil {
		b.Fatal(err)
	}
	if err := bus.Setup(b.Context(), r.js, 1); err != nil {
		b.Fatal(err)
	}
	if alone {
		for _, stream := range []string{subjects.AuditStream, subjects.EvidenceStream} {
			if err := r.js.DeleteStream(b.Context(), stream); err != nil {
				b.Fatal(err)
			}
		}
	}
	return r
}

// connect makes a connection of the kind that tsunamid's own parts have.
func (r *rig) connect(b *testing.B) *nats.Conn {
	b.Helper()
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: r.broker.InProcess()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}

// settle waits until what was written has reached the audit log and the
// evidence, so that it doesn't burden what is measured next.
func (r *rig) settle(b *testing.B) {
	b.Helper()
	var before [2]uint64
	until(b, "the audit log and the evidence have caught up", 20*time.Millisecond, func(ctx context.Context) bool {
		now := [2]uint64{r.last(ctx, subjects.AuditStream), r.last(ctx, subjects.EvidenceStream)}
		same := now == before
		before = now
		return same
	})
}

// last is the last sequence of a stream, 0 where there is no such stream.
func (r *rig) last(ctx context.Context, stream string) uint64 {
	n, err := bus.LastSequence(ctx, r.js, stream)
	if err != nil {
		return 0
	}
	return n
}

// fleet names n hosts.
func fleet(n int) []rollout.Host {
	hosts := make([]rollout.Host, n)
	for i := range hosts {
		hosts[i] = rollout.Host(fmt.Sprintf("web%d.lon2.example.net", i))
	}
	return hosts
}

// stepper makes the messages of one step after another, as the scheduler does.
type stepper struct {
	leader     uint64 // the revision that the next step expects
	generation uint64 // of the last documents
}

// step makes the design's step: the leader's renewal, a document for each host
// and the progress, with their three fences. The documents are of the
// stepper's generation.
func (s *stepper) step(b *testing.B, hosts []rollout.Host) []bus.Message {
	b.Helper()
	now := time.Now()
	id := fmt.Sprintf("%032x", s.generation)
	all := []bus.Message{s.renewal(b, now, id)}
	all = append(all, s.tells(b, hosts, now)...)
	return append(all, bus.Message{
		Subject: subjects.KindProgress.Subject(string(moving)),
		Header:  subjects.Header{subjects.HeaderTime: {now.UTC().Format(time.RFC3339Nano)}, subjects.HeaderActor: {string(rollout.Scheduler)}},
		Data: encode(b, rollout.Progress{
			Step: id, Elapsed: time.Hour, Led: time.Hour, Running: true, CaughtUp: -1,
			Target: 20_000, Told: 4711, Confirmed: 4600, Failed: 11,
		}),
		Expect: &bus.Expect{Subject: subjects.KindAbort.Subject(string(moving))},
	})
}

func (s *stepper) renewal(b *testing.B, now time.Time, id string) bus.Message {
	b.Helper()
	leader := subjects.KindLeader.Subject("")
	return bus.Message{
		Subject: leader,
		Data: encode(b, subjects.Leader{
			Holder: fmt.Sprintf("%032x", 4711), Name: "tsunami1.example.net", Since: now.UTC(), Renewed: now.UTC(),
			Led: time.Hour, Step: id, Seed: fmt.Sprintf("%032x", 42),
		}),
		Expect: &bus.Expect{Subject: leader, Sequence: s.leader},
	}
}

// tells makes the documents of the stepper's generation.
func (s *stepper) tells(b *testing.B, hosts []rollout.Host, now time.Time) []bus.Message {
	b.Helper()
	stop := &bus.Expect{Subject: subjects.KindStop.Subject("")}
	was, is := value(b, "1.10.3"), value(b, "1.12.3")
	if s.generation%2 == 0 {
		was, is = is, was
	}
	all := make([]bus.Message, len(hosts))
	for i, h := range hosts {
		c := subjects.Change{
			Host: h, Rollout: moving, Variable: variable, Previous: was, Actor: "anna", Time: now,
			Desired: rollout.Desired{
				Values: rollout.Document{variable: is}, Generation: s.generation,
				Told: map[rollout.Name]rollout.Told{variable: {Rollout: moving, Generation: s.generation, Time: now.UTC(), Checks: []rollout.ID{"docker"}}},
			},
			Reason: rollout.Reason{Code: rollout.ByRamp, Role: "web", Position: i + 1, Target: 20_000, Told: i, Share: 0.31, Rollout: moving},
		}
		header, body, err := c.Encode()
		if err != nil {
			b.Fatal(err)
		}
		all[i] = bus.Message{Subject: subjects.KindDesired.Subject(string(h)), Header: header, Data: body, Expect: stop}
	}
	return all
}

// commit writes one step and notes the revision that the next one expects.
func (s *stepper) commit(b *testing.B, js jetstream.JetStream, msgs []bus.Message) {
	b.Helper()
	msgs[0].Expect.Sequence = s.leader
	last, err := bus.Commit(b.Context(), js, msgs)
	if err != nil {
		b.Fatal(err)
	}
	s.leader = last - uint64(len(msgs)) + 1
}

// plainly makes the same messages without their expectations.
func plainly(msgs []bus.Message) []*nats.Msg {
	all := make([]*nats.Msg, len(msgs))
	for i, m := range msgs {
		all[i] = &nats.Msg{Subject: m.Subject, Header: make(nats.Header, len(m.Header)), Data: m.Data}
		maps.Copy(all[i].Header, m.Header)
	}
	return all
}

func value(b *testing.B, s string) rollout.Value {
	b.Helper()
	v, err := rollout.StringValue(s)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func encode(b *testing.B, v any) []byte {
	b.Helper()
	body, err := subjects.Encode(v)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

// median gives the middle one.
func median(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// report gives the medians of what was measured in turns, in ms, and how many
// times the floor the first is.
func report(b *testing.B, measured, floor []time.Duration) {
	b.ReportMetric(millis(median(measured)), "median-ms")
	b.ReportMetric(millis(median(floor)), "floor-ms")
	b.ReportMetric(float64(median(measured))/float64(median(floor)), "x-floor")
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// until asks, every so often, for a condition that no message announces.
func until(b *testing.B, what string, every time.Duration, ok func(ctx context.Context) bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok(ctx) {
		select {
		case <-ctx.Done():
			b.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}
