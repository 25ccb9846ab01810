package sloguard

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/evidence"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// BenchmarkFreeze measures the time from the health event that tips the verdict
// until the abort is committed, as a subscriber to its echo hears it, on a broker
// that syncs every write and over loopback. The floor is a bare publish of the
// same abort with its acknowledgement. Run it with -benchtime 1000x.
func BenchmarkFreeze(b *testing.B) {
	r := newRig(b, broker.Options{Listen: "127.0.0.1:0"})
	r.dial = func() (*nats.Conn, error) { return bus.Connect(bus.ConnectOptions{URL: r.broker.ClientURL()}) }
	r.nc = r.connect()
	r.guard()
	hosts := r.hosts("web", 30)
	r.objective("healthy", nil)
	r.rollout("first", nil)
	r.eventually("all hosts are watched", func() bool { return r.standing("first").Control == len(hosts) })
	r.rollout("first", func(rec *rollout.Record) { rec.State = rollout.StateCancelled })
	echoes := make(chan time.Time, 16)
	sub, err := r.connect().Subscribe(subjects.KindAbort.Echo(">"), func(*nats.Msg) { echoes <- time.Now() })
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var freezes, floors []time.Duration
	generation := uint64(1)
	for b.Loop() {
		id := fmt.Sprintf("up-%d", len(freezes))
		r.rollout(id, nil)
		generation++
		r.tell(id, hosts[0], generation)
		r.sourced(subjects.KindDesired, string(hosts[1]), r.tell(id, hosts[1], generation))
		r.fail(id, hosts[0], generation)
		start := time.Now()
		r.fail(id, hosts[1], generation)
		select {
		case at := <-echoes:
			freezes = append(freezes, at.Sub(start))
		case <-time.After(10 * time.Second):
			b.Fatalf("%s isn't frozen", id)
		}

		body := r.last(subjects.KindAbort.Subject(id)).Data
		start = time.Now()
		r.raw(subjects.KindAbort.Subject(id), nil, body)
		floors = append(floors, time.Since(start))
		<-echoes
		for _, h := range hosts[:2] {
			r.check(id, h, generation, rollout.Passing, "")
		}
		r.sourced(subjects.KindRollout, id, r.rollout(id, func(rec *rollout.Record) { rec.State = rollout.StateCancelled }))
	}
	report := func(name string, all []time.Duration) (p99 float64) {
		slices.Sort(all)
		at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000 }
		b.ReportMetric(at(0.5), name+"-p50-ms")
		b.ReportMetric(at(0.99), name+"-p99-ms")
		return at(0.99)
	}
	b.ReportMetric(report("freeze", freezes)/report("floor", floors), "p99-ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFold measures how fast a guard takes in health events that are
// stored: through the consumer, decoded, weighed in one rollout. The floor is
// consuming them alone. Run it with -cpu 1: the broker shares the processor.
func BenchmarkFold(b *testing.B) {
	const events = 100_000
	r := newRig(b, broker.Options{Unsynced: true})
	hosts := r.hosts("web", 1000)
	r.objective("healthy", nil)
	r.rollout("up", nil)
	for i := range events {
		h := hosts[i%len(hosts)]
		status := rollout.Passing
		if i/len(hosts)%2 == 1 {
			status = rollout.Pending
		}
		r.events[h]++
		body, err := subjects.Encode(subjects.HealthEvent{
			Kind: subjects.HealthCheck, Boot: "b1", Sequence: r.events[h], Time: time.Now(), Generation: 1, Check: "app", Status: string(status),
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.js.PublishAsync(subjects.Health(h), body); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			<-r.js.PublishAsyncComplete()
		}
	}
	read := func(take func(bus.Msg)) float64 {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		start := time.Now()
		stream, err := bus.Consume(ctx, r.js, subjects.EvidenceStream, bus.ConsumeOptions{Buffer: 4096})
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for m := range stream {
			if m.Subject == "" {
				break
			}
			take(m)
			n++
		}
		return float64(n) / time.Since(start).Seconds()
	}
	for b.Loop() {
		fold := evidence.New()
		folded := read(func(m bus.Msg) {
			if _, err := fold.Take(evidence.Message(m)); err != nil {
				b.Fatal(err)
			}
		})
		floor := read(func(bus.Msg) {})
		b.ReportMetric(folded, "events/s")
		b.ReportMetric(floor, "floor-events/s")
		b.ReportMetric(floor/folded, "floor-ratio")
	}
	b.ReportMetric(0, "ns/op")
}
