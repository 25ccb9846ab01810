package bench

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/scheduler"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// BenchmarkFirstDocuments has 20,000 hosts, known to the inventory and never
// told anything, come online at one instant, and measures until the scheduler
// has told the last of them: heartbeats, decisions, encoding, commits and the
// mirror that follows them. The floor commits the same documents to another
// broker in the same batches, ready-made and without a scheduler. audited-ms
// is when the audit log held them all.
func BenchmarkFirstDocuments(b *testing.B) {
	hosts := fleet(20_000)
	var told, audited, floor []time.Duration
	for b.Loop() {
		b.StopTimer()
		r := inventoried(b, hosts)
		stop := r.schedule(b)
		echoes := make(chan *nats.Msg, len(hosts))
		sub, err := r.nc.ChanSubscribe(subjects.KindDesired.Echo("*.lon2.example.net"), echoes)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.nc.Flush(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		start := time.Now()
		documents := r.firstDocuments(b, hosts, echoes)
		told = append(told, time.Since(start))
		b.StopTimer()
		until(b, "the audit log holds every document", 5*time.Millisecond, func(ctx context.Context) bool {
			return r.last(ctx, subjects.AuditStream) >= uint64(len(hosts)+1) // and the variable
		})
		audited = append(audited, time.Since(start))
		if err := sub.Unsubscribe(); err != nil {
			b.Fatal(err)
		}
		stop()
		r.broker.Shutdown()

		// The evidence sources reports and documents for a while yet on the other
		// broker, so this one is started afterwards.
		r = inventoried(b, hosts)
		floor = append(floor, r.commitAll(b, documents))
		r.broker.Shutdown()
		b.StartTimer()
	}
	report(b, told, floor)
	b.ReportMetric(float64(len(hosts))/median(told).Seconds(), "hosts/s")
	b.ReportMetric(millis(median(audited)), "audited-ms")
}

// inventoried starts a broker whose inventory holds a report of every host.
func inventoried(b *testing.B, hosts []rollout.Host) *rig {
	b.Helper()
	dir := b.TempDir()
	// Getting there isn't measured, so nothing of it is synced.
	r := newRig(b, broker.Options{Dir: dir, Unsynced: true}, false)
	reports := make([]*nats.Msg, len(hosts))
	for i, h := range hosts {
		reports[i] = &nats.Msg{Subject: subjects.HostSubject(h), Data: encode(b, rollout.Report{
			Role: "web", Labels: map[rollout.Word]rollout.Word{"zone": "lon2-a", "rack": "r12"},
			Actual:  rollout.Document{variable: value(b, "1.10.3")},
			Checks:  map[rollout.ID]rollout.Check{"docker": {Status: rollout.Passing}},
			Version: "1.0.0", Boot: "0011223344556677",
		})}
	}
	publishAll(b, r.js, reports)
	r.settle(b)
	r.nc.Close()
	r.broker.Shutdown()
	return newRig(b, broker.Options{Dir: dir}, false)
}

// schedule starts a scheduler that leads and knows the variable. What it
// returns stops it.
func (r *rig) schedule(b *testing.B) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	leads, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	o := scheduler.Options{
		Conn: r.connect(b), Name: "tsunami1.example.net", Version: "1.0.0", TakeAtOnce: true,
		Ready: func(leading bool) {
			if leading {
				once.Do(func() { close(leads) })
			}
		},
	}
	go func() { ended <- scheduler.Run(ctx, o) }()
	select {
	case <-leads:
	case err := <-ended:
		b.Fatalf("the scheduler ended: %v", err)
	case <-time.After(patience):
		b.Fatal("never: the scheduler leads")
	}
	client, err := control.NewClient(r.nc, "anna")
	if err != nil {
		b.Fatal(err)
	}
	v := rollout.Variable{Name: variable, Type: rollout.String, Initial: value(b, "1.10.3")}
	if err := client.Call(b.Context(), control.Apply, control.ApplyRequest{Documents: []control.Document{{Variable: &v}}}, nil); err != nil {
		b.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-ended; err != nil {
			b.Errorf("the scheduler ended: %v", err)
		}
	}
}

// firstDocuments sends a heartbeat of every host and returns when each was
// told, with what was echoed. A heartbeat may be dropped, as any may, so those
// who were not told send another.
func (r *rig) firstDocuments(b *testing.B, hosts []rollout.Host, echoes <-chan *nats.Msg) []*nats.Msg {
	b.Helper()
	untold := make(map[rollout.Host]bool, len(hosts))
	for _, h := range hosts {
		untold[h] = true
	}
	documents := make([]*nats.Msg, 0, len(hosts))
	beat := time.NewTicker(2 * time.Second)
	defer beat.Stop()
	give := time.After(patience)
	for all := true; ; {
		if all {
			for _, h := range hosts {
				if untold[h] {
					if err := r.nc.Publish(subjects.Alive(h), []byte("0011223344556677")); err != nil {
						b.Fatal(err)
					}
				}
			}
			all = false
		}
		select {
		case m := <-echoes:
			host, err := subjects.HostOf(m.Subject)
			if err != nil || !untold[host] {
				b.Fatalf("an echo on %s that isn't a first document: %v", m.Subject, err)
			}
			delete(untold, host)
			documents = append(documents, m)
			if len(untold) == 0 {
				return documents
			}
		case <-beat.C:
			all = true
		case <-give:
			b.Fatalf("never: %d hosts are told", len(untold))
		}
	}
}

// commitAll commits documents in batches like the scheduler's.
func (r *rig) commitAll(b *testing.B, documents []*nats.Msg) time.Duration {
	b.Helper()
	var s stepper
	var batches [][]bus.Message
	stop := &bus.Expect{Subject: subjects.KindStop.Subject("")}
	for i, m := range documents {
		if i%rollout.MaxTells == 0 {
			batches = append(batches, []bus.Message{s.renewal(b, time.Now(), "0")})
		}
		host, err := subjects.HostOf(m.Subject)
		if err != nil {
			b.Fatal(err)
		}
		header := make(subjects.Header)
		for _, k := range []string{
			subjects.HeaderGeneration, subjects.HeaderReason, subjects.HeaderTime, subjects.HeaderActor, subjects.HeaderTold,
		} {
			header[k] = m.Header[k]
		}
		last := &batches[len(batches)-1]
		*last = append(*last, bus.Message{Subject: subjects.KindDesired.Subject(string(host)), Header: header, Data: m.Data, Expect: stop})
	}
	start := time.Now()
	for _, batch := range batches {
		s.commit(b, r.js, batch)
	}
	return time.Since(start)
}
