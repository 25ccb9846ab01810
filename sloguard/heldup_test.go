package sloguard

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/evidence"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// idle is a guard that leads, and whose loop the test is.
func idle(t *testing.T, r *rig, ctx context.Context) *guard {
	o := Options{Conn: r.connect(), Name: "test", Heartbeat: testHeartbeat}.withDefaults()
	g, err := open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	g.loaded, g.leading = true, true
	return g
}

func reportOf(t *testing.T, h rollout.Host, seq uint64) evidence.Message {
	body, err := subjects.Encode(rollout.Report{Role: "web", Boot: "b1", Checks: map[rollout.ID]rollout.Check{"app": {Status: rollout.Passing}}})
	if err != nil {
		t.Fatal(err)
	}
	return evidence.Message{Subject: subjects.EvidenceOf(subjects.KindHost, string(h)), Data: body, Sequence: seq, Time: time.Now()}
}

// TestHeardBeforeTheEcho: a host whose heartbeat comes between the word that it is
// silent and that word's echo is said to be heard at once.
func TestHeardBeforeTheEcho(t *testing.T) {
	r := newRig(t, broker.Options{Unsynced: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := idle(t, r, ctx)
	h := rollout.Host("web1.example.net")
	if _, err := g.fold.Take(reportOf(t, h, 1)); err != nil {
		t.Fatal(err)
	}
	said := make(chan subjects.SilenceKind, 10)
	if _, err := r.nc.Subscribe(subjects.SilenceOf(h), func(m *nats.Msg) {
		var s subjects.Silence
		_ = json.Unmarshal(m.Data, &s)
		said <- s.Kind
	}); err != nil {
		t.Fatal(err)
	}
	_ = r.nc.Flush()
	g.listening = time.Now().Add(-time.Hour)
	g.speak(time.Now())
	if k := <-said; k != subjects.HostSilent {
		t.Fatal(k)
	}
	g.beat(h) // its heartbeat, before the fold has the echo
	_ = g.o.Conn.Flush()
	select {
	case k := <-said:
		if k != subjects.HostHeard {
			t.Fatal(k)
		}
	case <-time.After(200 * time.Millisecond):
		t.Error("the guard has heard the host, has said that it is silent, and doesn't say that it was heard")
	}
}

// TestSilentThoughItsHeartbeatWaits: a heartbeat that waits in the channel, because
// evidence goes first, isn't missing.
func TestSilentThoughItsHeartbeatWaits(t *testing.T) {
	r := newRig(t, broker.Options{Unsynced: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := idle(t, r, ctx)
	h := rollout.Host("web1.example.net")
	if _, err := g.fold.Take(reportOf(t, h, 1)); err != nil {
		t.Fatal(err)
	}
	// A stream that has more than one drain takes.
	stream := make(chan bus.Msg, 1<<14)
	for i := range 1 << 14 {
		stream <- bus.Msg(reportOf(t, rollout.Host(fmt.Sprint("x", i%10)), uint64(i+2)))
	}
	g.stream = stream
	g.alive <- h // it lives
	g.listening = time.Now().Add(-time.Hour)
	g.heard[h] = time.Now().Add(-missed*testHeartbeat - time.Millisecond)
	g.drain(ctx)
	g.speak(time.Now())
	if s, ok := g.said[h]; ok {
		t.Errorf("said %s of a host whose heartbeat waits in the channel (%d messages, %d heartbeats there)", s.kind, len(g.stream), len(g.alive))
	}
}

// TestAGuardThatWasHeldUp: an abort that another guard has put, and that an operator
// has acknowledged meanwhile, isn't put once more by a guard that was held up.
func TestAGuardThatWasHeldUp(t *testing.T) {
	r := newRig(t, broker.Options{Unsynced: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := idle(t, r, ctx)
	hosts := r.hosts("web", 30)
	r.objective("healthy", nil)
	r.rollout("up", nil)
	for _, h := range hosts[:6] {
		r.tell("up", h, 2)
	}
	time.Sleep(500 * time.Millisecond)
	stop := r.guard() // the other one
	r.clear("up")
	var err error
	if g.stream, err = bus.Consume(ctx, g.js, subjects.EvidenceStream, bus.ConsumeOptions{Buffer: 4096}); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts[:6] { // g stands still meanwhile
		r.fail("up", h, 2)
	}
	a, _ := r.aborted("up")
	r.sourced(subjects.KindAbort, "up", a.Sequence)
	seq := r.rollout("up", func(rec *rollout.Record) { rec.Acknowledged = a.Sequence })
	r.sourced(subjects.KindRollout, "up", seq)
	stop()
	if n := len(r.aborts("up")); n != 1 {
		t.Fatalf("%d aborts", n)
	}
	time.Sleep(200 * time.Millisecond)
	// It goes on, and finds what has come.
	g.drain(ctx)
	if n := len(r.aborts("up")); n != 1 {
		t.Errorf("%d aborts: the resumed rollout is aborted again by what the operator has acknowledged", n)
	}
}
