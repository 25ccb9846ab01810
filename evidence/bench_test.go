package evidence

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// stocked is a fold of so many hosts with labels and checks, in four roles, and one
// rollout that is guarded by two objectives and has told the first of them.
func stocked(b *testing.B, hosts, told int) *Fold {
	p := newTape(b)
	o := docker()
	o.WithinOfChange = &slo.Within{AtMost: 1, Window: field.Duration(24 * time.Hour)}
	o.Steady = &slo.Steady{AtMost: 0.5, Per: field.Duration(24 * time.Hour)}
	p.objective(o)
	p.objective(&slo.Objective{Name: "memory", Check: "memory"})
	take := func(subject string, h subjects.Header, data []byte) {
		if _, err := p.f.Take(Message{Subject: subject, Header: h, Data: data, Sequence: p.f.Sequence() + 1, Time: p.now}); err != nil {
			b.Fatal(err)
		}
	}
	for i := range hosts {
		take(subjects.EvidenceOf(subjects.KindHost, string(fqdn(i))), nil, p.encode(&rollout.Report{
			Role: rollout.Word(fmt.Sprint("role-", i%4)), Boot: "4be1c1b07f6c4d8f9f3d", Version: "1.4.0",
			Labels: map[rollout.Word]rollout.Word{"zone": rollout.Word(fmt.Sprint("z", i%3)), "rack": rollout.Word(fmt.Sprint("r", i/40))},
			Actual: rollout.Document{"docker_version": value("1"), "kernel": value("6.12.1")},
			Checks: map[rollout.ID]rollout.Check{"docker": {Status: rollout.Passing}, "memory": {Status: rollout.Passing}},
		}))
	}
	p.start("r1", "docker-healthy", "memory")
	for i := range told {
		p.now = p.now.Add(14 * 24 * time.Hour / time.Duration(hosts))
		c := p.next(fqdn(i), "docker_version", value("2"), "r1")
		h, body, err := c.Encode()
		if err != nil {
			b.Fatal(err)
		}
		take(subjects.EvidenceOf(subjects.KindDesired, string(c.Host)), h, body)
		delete(p.desired, fqdn(i))
	}
	if v, _ := p.f.View("r1"); v.Standings[0].Treated != told || v.Standings[0].Control != hosts-told {
		b.Fatalf("%+v", v.Standings)
	}
	return p.f
}

func fqdn(i int) rollout.Host { return rollout.Host(fmt.Sprintf("host-%06d.example.net", i)) }

// feed is health events of 10,000 hosts, whose checks pass, pass yet and fail for
// a moment; each time around with higher sequences.
type feed struct {
	messages []Message
	at       []int // where the sequence stands in the data
	n        uint64
}

const firstSequence = 1_000_000_000

func newFeed(b *testing.B, hosts int) *feed {
	w := &feed{}
	for i, status := range []rollout.CheckStatus{rollout.Failing, rollout.Pending, rollout.Passing} {
		for h := range hosts {
			data, err := subjects.Encode(subjects.HealthEvent{
				Kind: subjects.HealthCheck, Boot: "4be1c1b07f6c4d8f9f3d", Sequence: firstSequence, Time: epoch, Generation: 3, Rollout: "r1",
				Check: "docker", Status: string(status), Output: "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."[:67*(1-min(i, 1))],
			})
			if err != nil {
				b.Fatal(err)
			}
			w.messages = append(w.messages, Message{Subject: subjects.Health(fqdn(h)), Data: data})
			w.at = append(w.at, bytes.Index(data, []byte(strconv.Itoa(firstSequence))))
		}
	}
	return w
}

// next is the next event, a millisecond after the last.
func (w *feed) next(f *Fold) Message {
	i := int(w.n % uint64(len(w.messages)))
	m := w.messages[i]
	w.n++
	strconv.AppendUint(m.Data[:w.at[i]], firstSequence+w.n, 10)
	m.Sequence, m.Time = f.Sequence()+1, f.Now().Add(time.Millisecond)
	return m
}

// BenchmarkTake takes health events of a fleet of 10,000 of which half are
// changed. The floor decodes the same events and does nothing with them.
func BenchmarkTake(b *testing.B) {
	const hosts = 10_000
	f := stocked(b, hosts, hosts/2)
	b.Run("fold", func(b *testing.B) {
		w := newFeed(b, hosts)
		w.n = f.Sequence()
		for b.Loop() {
			if _, err := f.Take(w.next(f)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("floor", func(b *testing.B) {
		w := newFeed(b, hosts)
		for b.Loop() {
			m := w.next(f)
			if err := json.Unmarshal(m.Data, new(subjects.HealthEvent)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
}

// BenchmarkMemory builds folds of growing fleets, all of which are changed.
func BenchmarkMemory(b *testing.B) {
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	for _, hosts := range []int{10_000, 50_000, 100_000} {
		b.Run(strconv.Itoa(hosts), func(b *testing.B) {
			used := 0.0
			for b.Loop() {
				before := heap()
				f := stocked(b, hosts, hosts)
				used = float64(heap() - before)
				runtime.KeepAlive(f)
			}
			b.ReportMetric(used/1e6, "MB")
			b.ReportMetric(used/float64(hosts), "B/host")
		})
	}
}

// BenchmarkView is what the guard does for its lease every few seconds: the
// standings of two objectives, with how many more failures each needs.
func BenchmarkView(b *testing.B) {
	for _, hosts := range []int{10_000, 100_000} {
		b.Run(strconv.Itoa(hosts), func(b *testing.B) {
			f := stocked(b, hosts, hosts/2)
			for b.Loop() {
				if _, ok := f.View("r1"); !ok {
					b.Fatal("it isn't watched")
				}
			}
		})
	}
}
