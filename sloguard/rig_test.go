package sloguard

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const testHeartbeat = 100 * time.Millisecond

// rig is a broker, and a test that plays the scheduler and the hosts.
type rig struct {
	testing.TB
	broker *broker.Broker
	nc     *nats.Conn
	js     jetstream.JetStream
	dial   func() (*nats.Conn, error)
	// prometheus is what the guard asks, if anything.
	prometheus Asker

	mu     sync.Mutex
	events map[rollout.Host]uint64
	alive  map[rollout.Host]bool
}

func newRig(t testing.TB, options broker.Options) *rig {
	t.Helper()
	options.Dir = t.TempDir()
	b, err := broker.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	r := &rig{TB: t, broker: b, events: map[rollout.Host]uint64{}, alive: map[rollout.Host]bool{}}
	r.dial = func() (*nats.Conn, error) { return bus.Connect(bus.ConnectOptions{InProcess: b.InProcess()}) }
	r.nc = r.connect()
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(context.Background(), r.js, 1); err != nil {
		t.Fatal(err)
	}
	beating, end := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { r.beat(beating) })
	t.Cleanup(func() { end(); done.Wait() })
	return r
}

func (r *rig) connect() *nats.Conn {
	r.Helper()
	nc, err := r.dial()
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(nc.Close)
	return nc
}

// beat sends the heartbeats of hosts that live.
func (r *rig) beat(ctx context.Context) {
	tick := time.NewTicker(testHeartbeat / 2)
	defer tick.Stop()
	for {
		r.mu.Lock()
		for h, alive := range r.alive {
			if alive {
				_ = r.nc.Publish(subjects.Alive(h), []byte("b1")) // lost ones are made up for
			}
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// guard starts a guard; the function that comes back stops it, as kill -9 does
// where kill is said: it gives nothing back.
func (r *rig) guard() (stop func()) {
	r.Helper()
	nc := r.connect()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	o := Options{
		Conn: nc, Name: "test", Heartbeat: testHeartbeat, Renew: 200 * time.Millisecond, Lease: time.Second, TakeAtOnce: true,
		Logger: slog.New(slog.NewTextHandler(testLog{}, nil)), Prometheus: r.prometheus,
	}
	go func() { done <- Run(ctx, o) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.Errorf("guard: %v", err)
		}
	})
	r.Cleanup(stop)
	return stop
}

type testLog struct{}

func (testLog) Write(b []byte) (int, error) {
	if testing.Verbose() {
		return os.Stderr.Write(b)
	}
	return len(b), nil
}

func (r *rig) put(subject string, header subjects.Header, v any) uint64 {
	r.Helper()
	body, err := subjects.Encode(v)
	if err != nil {
		r.Fatal(err)
	}
	return r.raw(subject, header, body)
}

func (r *rig) raw(subject string, header subjects.Header, body []byte) uint64 {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	seq, err := bus.Put(ctx, r.js, bus.Message{Subject: subject, Header: header, Data: body})
	if err != nil {
		r.Fatal(err)
	}
	return seq
}

// own is the header of the scheduler's own records.
func own() subjects.Header {
	return subjects.Header{subjects.HeaderTime: {time.Now().UTC().Format(time.RFC3339Nano)}, subjects.HeaderActor: {"scheduler"}}
}

// objective puts an objective, by default one that judges quickly.
func (r *rig) objective(name string, change func(*slo.Objective)) {
	r.Helper()
	o := &slo.Objective{
		Name: field.ID(name), Check: "app", For: new(field.Duration(0)), Grace: new(field.Duration(100 * time.Millisecond)), Freshness: field.Duration(2 * time.Second),
		WithinOfChange: &slo.Within{AtMost: 1, Window: field.Duration(time.Hour)},
	}
	if change != nil {
		change(o)
	}
	r.put(subjects.KindObjective.Subject(name), own(), o)
}

// rollout puts the record of a rollout of version to 2.
func (r *rig) rollout(id string, change func(*rollout.Record)) uint64 {
	r.Helper()
	to, err := rollout.StringValue("2")
	if err != nil {
		r.Fatal(err)
	}
	now := time.Now().UTC()
	record := &rollout.Record{
		Spec: rollout.Spec{
			Name: rollout.ID(id), Variable: "version", To: to, Ramp: rollout.Ramp{Over: rollout.Duration(time.Hour)},
			Guard: &rollout.Guard{Objectives: []rollout.ID{"healthy"}},
		},
		State: rollout.StateRunning, By: "ann", Author: "ann", Created: now, Changed: now, Salt: "s", Clock: now, Length: time.Hour,
	}
	if change != nil {
		change(record)
	}
	return r.put(subjects.KindRollout.Subject(id), own(), record)
}

// hosts reports hosts that run version 1 and pass the check, and lets them live.
func (r *rig) hosts(role string, n int) (all []rollout.Host) {
	r.Helper()
	one, err := rollout.StringValue("1")
	if err != nil {
		r.Fatal(err)
	}
	for i := range n {
		h := rollout.Host(fmt.Sprintf("%s%d.example.net", role, i+1))
		r.put(subjects.HostSubject(h), nil, rollout.Report{
			Role: rollout.Word(role), Boot: "b1", Actual: rollout.Document{"version": one}, Checks: map[rollout.ID]rollout.Check{"app": {Status: rollout.Passing}},
		})
		all = append(all, h)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range all {
		r.alive[h] = true
	}
	return all
}

// tell tells a host version 2.
func (r *rig) tell(id string, h rollout.Host, generation uint64) uint64 {
	r.Helper()
	two, err := rollout.StringValue("2")
	if err != nil {
		r.Fatal(err)
	}
	now := time.Now()
	c := subjects.Change{
		Host: h, Rollout: rollout.ID(id), Variable: "version", Actor: "ann", Reason: rollout.Reason{Code: rollout.ByRamp}, Time: now,
		Desired: rollout.Desired{
			Generation: generation, Values: rollout.Document{"version": two},
			Told: map[rollout.Name]rollout.Told{"version": {Rollout: rollout.ID(id), Generation: generation, Time: now}},
		},
	}
	header, body, err := c.Encode()
	if err != nil {
		r.Fatal(err)
	}
	return r.raw(subjects.KindDesired.Subject(string(h)), header, body)
}

// fail says that a host's check fails.
func (r *rig) fail(id string, h rollout.Host, generation uint64) {
	r.Helper()
	r.check(id, h, generation, rollout.Failing, "connection refused")
}

func (r *rig) check(id string, h rollout.Host, generation uint64, status rollout.CheckStatus, output string) {
	r.Helper()
	r.events[h]++
	r.put(subjects.Health(h), nil, subjects.HealthEvent{
		Kind: subjects.HealthCheck, Boot: "b1", Sequence: r.events[h], Time: time.Now(), Generation: generation, Rollout: rollout.ID(id),
		Check: "app", Status: string(status), Output: output,
	})
}

// die ends a host's heartbeats.
func (r *rig) die(h rollout.Host) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alive[h] = false
}

// live lets it be heard again.
func (r *rig) live(h rollout.Host) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alive[h] = true
}

func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.Fatalf("%s: not within 15 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// last is the newest record on a subject of the bucket.
func (r *rig) last(subject string) *bus.Msg {
	r.Helper()
	m, err := bus.Last(context.Background(), r.js, subjects.Stream, subject)
	if err != nil {
		r.Fatal(err)
	}
	return m
}

// sourced waits until the evidence has a record of the bucket, by its sequence
// there.
func (r *rig) sourced(kind subjects.Kind, name string, sequence uint64) {
	r.Helper()
	r.eventually("the evidence has "+kind.Key(name), func() bool {
		m, err := bus.Last(context.Background(), r.js, subjects.EvidenceStream, subjects.EvidenceOf(kind, name))
		if err != nil {
			return false
		}
		source := strings.Fields(m.Header.Get("Nats-Stream-Source"))
		if len(source) < 2 {
			return false
		}
		has, err := strconv.ParseUint(source[1], 10, 64)
		return err == nil && has >= sequence
	})
}

// lease is the guard's, as it stands in the bucket.
func (r *rig) lease() subjects.Guard {
	r.Helper()
	m, err := bus.Last(context.Background(), r.js, subjects.Stream, subjects.KindGuard.Subject(""))
	if err != nil {
		return subjects.Guard{}
	}
	var g subjects.Guard
	if json.Unmarshal(m.Data, &g) != nil {
		return subjects.Guard{} // a test has put something else there
	}
	return g
}

// clear waits until the guard says that a rollout may go on.
func (r *rig) clear(id string) {
	r.Helper()
	r.eventually(id+" is clear", func() bool {
		c := r.lease().Rollouts[rollout.ID(id)]
		return c != nil && c.For > 0
	})
}

// unclear waits until it says that a rollout may not, and why.
func (r *rig) unclear(id string) string {
	r.Helper()
	why := ""
	r.eventually(id+" isn't clear", func() bool {
		if c := r.lease().Rollouts[rollout.ID(id)]; c != nil && c.For == 0 {
			why = c.Why
		}
		return why != ""
	})
	return why
}

// aborts are the revisions of a rollout's abort.
func (r *rig) aborts(id string) (all []subjects.Abort) {
	r.Helper()
	messages, err := bus.History(context.Background(), r.js, subjects.Stream, subjects.KindAbort.Subject(id))
	if err != nil {
		r.Fatal(err)
	}
	for _, m := range messages {
		all = append(all, subjects.DecodeAbort(m.Header, m.Data, m.Sequence))
	}
	return all
}

// aborted waits for the first abort, and reads its verdict.
func (r *rig) aborted(id string) (subjects.Abort, slo.Verdict) {
	r.Helper()
	r.eventually(id+" is aborted", func() bool { return len(r.aborts(id)) > 0 })
	a := r.aborts(id)[0]
	var v slo.Verdict
	if err := json.Unmarshal(a.Evidence, &v); err != nil {
		r.Fatalf("the evidence of %q: %v", a.Why, err)
	}
	return a, v
}

// standing is the evidence in the lease of a rollout with one objective.
func (r *rig) standing(id string) slo.Standing {
	r.Helper()
	c := r.lease().Rollouts[rollout.ID(id)]
	if c == nil || len(c.Standings) != 1 {
		return slo.Standing{}
	}
	return c.Standings[0]
}
