//go:build unix

package bench

import (
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// connected is how many agents there are to deliver to.
const connected = 5_000

// BenchmarkDelivery tells 5,000 connected hosts, 490 a step, and measures from
// the first commit until the last of them has its document. The floor
// publishes the same documents to the same subscriptions with core NATS, which
// stores nothing.
//
// A host here is an agent's way of hearing (package hostagent's): a connection
// of its own, a subscription to its own echo, and the record decoded and taken
// by generation. What follows in an agent is the host's own disk, which 5,000
// hosts don't share.
//
// In streams, the audit log and the evidence source what is committed at the
// same time, as in production; each syncs every record of its own. In bucket,
// nothing else takes it in. The others each change one thing about bucket, to
// show what it costs: more hosts a step than the scheduler puts into one, no
// syncing, and documents with the shortest headers that can be read.
//
// x-cpu is the ratio to the floor of the time on a processor, of the broker and
// all hosts together. It is steadier than that of the time on the clock where
// others share the machine.
func BenchmarkDelivery(b *testing.B) {
	for _, c := range []delivery{
		{name: "streams"},
		{name: "bucket", alone: true},
		{name: "bucket-998-a-step", alone: true, tells: bus.MaxBatch - 2},
		{name: "bucket-unsynced", alone: true, unsynced: true},
		{name: "bucket-short-headers", alone: true, short: true},
	} {
		b.Run(c.name, c.benchmark)
	}
}

// delivery is a way to deliver.
type delivery struct {
	name     string
	alone    bool // neither the audit log nor the evidence
	unsynced bool
	tells    int // in a step; 0 is the scheduler's
	short    bool
}

func (d *delivery) benchmark(b *testing.B) {
	r := newRig(b, broker.Options{Unsynced: d.unsynced}, d.alone)
	if d.tells == 0 {
		d.tells = rollout.MaxTells
	}
	hosts := fleet(connected)
	l := &listeners{done: make(chan time.Time, 1)}
	for _, h := range hosts {
		l.listen(b, r.connect(b), h)
	}
	var s stepper
	var committed, delivered, floor, cpu, floorCPU []time.Duration
	for b.Loop() {
		b.StopTimer()
		r.settle(b)
		s.generation++
		var steps [][]bus.Message
		for some := range slices.Chunk(hosts, d.tells) {
			steps = append(steps, d.shorten(s.step(b, some)))
		}
		l.expect(s.generation)
		burnt := burn(b)
		b.StartTimer()
		start := time.Now()
		for _, msgs := range steps {
			s.commit(b, r.js, msgs)
		}
		committed = append(committed, time.Since(start))
		delivered = append(delivered, l.wait(b).Sub(start))
		b.StopTimer()
		cpu = append(cpu, burn(b)-burnt)

		r.settle(b)
		s.generation++
		plain := plainly(d.shorten(s.tells(b, hosts, time.Now())))
		for i, m := range plain {
			m.Subject = subjects.KindDesired.Echo(string(hosts[i]))
		}
		l.expect(s.generation)
		burnt = burn(b)
		start = time.Now()
		for _, m := range plain {
			if err := r.nc.PublishMsg(m); err != nil {
				b.Fatal(err)
			}
		}
		floor = append(floor, l.wait(b).Sub(start))
		floorCPU = append(floorCPU, burn(b)-burnt)
		b.StartTimer()
	}
	report(b, delivered, floor)
	b.ReportMetric(millis(median(committed)), "committed-ms")
	b.ReportMetric(float64(median(cpu))/float64(median(floorCPU)), "x-cpu")
}

// shorten takes from documents what an agent can do without.
func (d *delivery) shorten(msgs []bus.Message) []bus.Message {
	if !d.short {
		return msgs
	}
	for _, m := range msgs {
		if m.Header.Get(subjects.HeaderTold) == "" {
			continue
		}
		for _, k := range []string{subjects.HeaderRollout, subjects.HeaderVariable, subjects.HeaderPrevious} {
			delete(m.Header, k)
		}
		m.Header[subjects.HeaderReason], m.Header[subjects.HeaderTold] = []string{"{}"}, []string{"{}"}
	}
	return msgs
}

// burn is the time that this process has spent on processors.
func burn(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// listeners are hosts that hear.
type listeners struct {
	generation atomic.Uint64 // the one that is waited for
	left       atomic.Int64  // how many don't have it yet
	done       chan time.Time
}

func (l *listeners) listen(b *testing.B, nc *nats.Conn, host rollout.Host) {
	b.Helper()
	echoes := make(chan *nats.Msg, 64)
	subject := subjects.KindDesired.Echo(string(host))
	if _, err := nc.ChanSubscribe(subject, echoes); err != nil {
		b.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		b.Fatal(err)
	}
	ctx := b.Context()
	go func() {
		var taken uint64
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-echoes:
				if m.Subject != subject {
					continue
				}
				c, err := subjects.DecodeChange(host, subjects.Header(m.Header), m.Data)
				if err != nil || c.Desired.Generation <= taken {
					continue
				}
				taken = c.Desired.Generation
				if taken == l.generation.Load() && l.left.Add(-1) == 0 {
					l.done <- time.Now()
				}
			}
		}
	}()
}

// expect says which generation is waited for next.
func (l *listeners) expect(generation uint64) {
	l.left.Store(connected)
	l.generation.Store(generation)
}

// wait returns when the last host had it.
func (l *listeners) wait(b *testing.B) time.Time {
	b.Helper()
	select {
	case at := <-l.done:
		return at
	case <-time.After(patience):
		b.Fatalf("never: %d hosts have their documents", l.left.Load())
		return time.Time{}
	}
}
