package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func document(t *testing.T, doc string) control.Document {
	t.Helper()
	var d control.Document
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// lead gives a scheduler without its loop that leads, with its hosts' reports
// taken in and the hosts online.
func (r *rig) lead(reports map[rollout.Host]rollout.Report) *scheduler {
	r.t.Helper()
	for h, report := range reports {
		if _, err := r.js.Publish(r.t.Context(), subjects.HostSubject(h), must(subjects.Encode(report))); err != nil {
			r.t.Fatal(err)
		}
	}
	s := r.bare(Options{Heartbeat: testHeartbeat, Renew: 500 * time.Millisecond})
	s.take(r.t.Context())
	if !s.leading {
		r.t.Fatal("not leading")
	}
	r.t.Cleanup(s.stopServe)
	for h := range reports {
		s.beat(heartbeat{host: h})
	}
	return s
}

// settleDown acts until there is nothing to do now.
func (r *rig) settleDown(s *scheduler) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		s.drain(r.t.Context())
		s.audit.next = time.Time{}
		next, err := s.act(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		if !s.changed && time.Until(next) > 50*time.Millisecond {
			return
		}
	}
	r.t.Fatal("there is always something to do")
}

func reports(n int) map[rollout.Host]rollout.Report {
	out := make(map[rollout.Host]rollout.Report, n)
	for i := range n {
		out[rollout.Host(fmt.Sprintf("h%03d.example.net", i))] = rollout.Report{Role: "web", Boot: "b"}
	}
	return out
}

func (r *rig) told(h rollout.Host) bool {
	_, err := bus.Last(r.t.Context(), r.js, subjects.Stream, subjects.KindDesired.Subject(string(h)))
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		r.t.Fatal(err)
	}
	return err == nil
}

// A stop that arrives between two batches of one decision refuses the second,
// also when the mirror has taken it in by then.
func TestStopBetweenTwoBatches(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.lead(reports(600))
	ctx := t.Context()
	r.settleDown(s)
	if _, err := s.applyDocuments(ctx, control.ApplyRequest{Documents: []control.Document{document(t, `{"kind":"Variable","name":"v","type":"string"}`)}}, "alice", time.Now()); err != nil {
		t.Fatal(err)
	}
	start := control.StartRequest{ToText: "2", Rollout: rollout.Spec{
		Name: "up", Variable: "v", Ramp: rollout.Ramp{Over: rollout.Duration(10 * time.Millisecond)}, InFlight: rollout.InFlight{Max: 100, PerRole: 100},
	}}
	if _, err := s.start(ctx, start, "alice", time.Now()); err != nil {
		t.Fatal(err)
	}
	run := rollout.Decide(s.snap, time.Now())
	if err := s.commit(ctx, run.Steps[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	for h := range reports(600) {
		s.beat(heartbeat{host: h})
	}
	d := rollout.Decide(s.snap, time.Now().Add(20*time.Millisecond))
	if len(d.Steps) < 2 {
		t.Fatalf("%d steps, want 2", len(d.Steps))
	}
	if err := s.commit(ctx, d.Steps[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Put(ctx, r.js, bus.Message{Subject: subjects.KindStop.Subject(""), Data: []byte("incident")}); err != nil {
		t.Fatal(err)
	}
	if err := s.reread(ctx); err != nil || !s.snap.Stopped() {
		t.Fatal("the stop isn't in the mirror", err)
	}
	if err := s.commit(ctx, d.Steps[1], time.Now()); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("after the stop: %v, want a refusal", err)
	}
}

// A leader whose answer was lost doesn't take the lease back from the one that
// has it by now, and knows that its batch was written.
func TestSettlingLeavesALivingLeaderAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := r.lead(nil)
	before := old.revisions[subjects.KindLeader.Subject("")]
	l := old.leader
	l.Step = random()
	old.lost, old.found = l.Step, false
	if _, err := bus.Commit(t.Context(), r.js, []bus.Message{old.leaderMessage(must(subjects.Encode(l)))}); err != nil {
		t.Fatal(err)
	}
	next := r.bare(Options{TakeAtOnce: true})
	next.take(t.Context())
	defer next.stopServe()
	if err := old.settle(t.Context(), l, before); err != nil {
		t.Errorf("what was written is said to be lost: %v", err)
	}
	if old.leader.Holder != next.holder || old.leading {
		t.Error("the lease was taken back from a living leader")
	}
	if err := old.commit(t.Context(), rollout.Step{}, time.Now()); !errors.Is(err, errDeposed) {
		t.Errorf("the deposed leader's renewal: %v", err)
	}
}

// One host whose document can't be written is left alone, and said; all others
// are told.
func TestOneHostThatCantBeTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := rollout.Report{Role: "web", Boot: "b", Checks: map[rollout.ID]rollout.Check{}}
	for i := range 64 {
		bad.Checks[rollout.ID(fmt.Sprintf("c%062d", i))] = rollout.Check{Status: rollout.Passing}
	}
	all := reports(3)
	all["bad.example.net"] = bad
	s := r.lead(nil)
	var docs []control.Document
	for i := range 60 {
		docs = append(docs, document(t, fmt.Sprintf(`{"kind":"Variable","name":"v%d","type":"string","initial":"x"}`, i)))
	}
	if _, err := s.applyDocuments(t.Context(), control.ApplyRequest{Documents: docs}, "alice", time.Now()); err != nil {
		t.Fatal(err)
	}
	for h, report := range all {
		if _, err := r.js.Publish(t.Context(), subjects.HostSubject(h), must(subjects.Encode(report))); err != nil {
			t.Fatal(err)
		}
	}
	for range all {
		s.report(<-s.inventory)
	}
	r.settleDown(s)
	for h := range maps.Keys(reports(3)) {
		if !r.told(h) {
			t.Errorf("%s isn't told", h)
		}
	}
	if r.told("bad.example.net") {
		t.Error("the document that is too large was written")
	}
	if w := strings.Join(s.status().Warnings, "\n"); !strings.Contains(w, "bad.example.net") {
		t.Errorf("nobody is told of it: %s", w)
	}
}

// A lease that was deleted while nobody led doesn't set the leaders' clock, and
// with it every ramp's, back.
func TestLeaseDeletedByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.lead(nil)
	first.snap.PutLead(time.Hour, time.Now())
	if err := first.commit(t.Context(), rollout.Step{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	seed := first.leader.Seed
	del := subjects.Header{"KV-Operation": {"DEL"}}
	for _, m := range []bus.Message{{Header: del}, {Data: []byte("{}")}} {
		m.Subject = subjects.KindLeader.Subject("")
		if _, err := bus.Put(t.Context(), r.js, m); err != nil {
			t.Fatal(err)
		}
		s := r.bare(Options{})
		if s.leader.Led < time.Hour || s.leader.Seed != seed {
			t.Errorf("the leaders' clock shows %s, want 1h or more; seed kept: %v", s.leader.Led, s.leader.Seed == seed)
		}
	}
}

// A scheduler that was held up for longer than three heartbeats calls nobody
// offline on the strength of what it couldn't hear.
func TestHeldUpSchedulerCallsNobodyOffline(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.lead(reports(1))
	r.settleDown(s)
	s.sweep(time.Now().Add(10 * testHeartbeat))
	h := must(s.snap.Host("h000.example.net"))
	if h.Presence != rollout.Unheard {
		t.Errorf("the host is %s, want unheard", h.Presence)
	}
}

// A document that bears the scheduler's marks and can't be read, of a newer
// version, is left alone: no older one is put in its place.
func TestNewerRecordIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.lead(reports(2))
	r.settleDown(s)
	subject := subjects.KindDesired.Subject("h000.example.net")
	last := must(bus.Last(t.Context(), r.js, subjects.Stream, subject))
	m := &nats.Msg{Subject: subject, Data: []byte(`{"v":"3"}`), Header: nats.Header{}}
	for k, v := range last.Header {
		if strings.HasPrefix(k, "Tsunami-") {
			m.Header[k] = v
		}
	}
	m.Header.Set(subjects.HeaderGeneration, "99")
	m.Header.Set(subjects.HeaderReason, `{"code":"ramp","approvedBy":"bob"}`)
	ack := must(r.js.PublishMsg(t.Context(), m))
	if err := s.reread(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settleDown(s)
	if now := must(bus.Last(t.Context(), r.js, subjects.Stream, subject)); now.Sequence != ack.Sequence {
		t.Errorf("%s was put in its place", now.Data)
	}
	if w := strings.Join(s.status().Warnings, "\n"); !strings.Contains(w, "h000.example.net") {
		t.Errorf("nobody is told of it: %s", w)
	}
}

// A blackout of a newer version can't be read: until it can, nobody is told
// anything by a rollout.
func TestNewerBlackoutHoldsAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.lead(reports(2))
	r.settleDown(s)
	m := &nats.Msg{Subject: subjects.KindBlackout.Subject("eclipse"), Data: []byte(`{"name":"eclipse","moonPhase":"new"}`), Header: nats.Header{}}
	m.Header.Set(subjects.HeaderTime, time.Now().UTC().Format(time.RFC3339Nano))
	must(r.js.PublishMsg(t.Context(), m))
	if err := s.reread(t.Context()); err != nil {
		t.Fatal(err)
	}
	if in, _, _ := s.snap.BlackoutStatus("eclipse", time.Now()); !in {
		t.Error("it isn't in force")
	}
	if w := strings.Join(s.status().Warnings, "\n"); !strings.Contains(w, "blackout.eclipse") {
		t.Errorf("nobody is told of it: %s", w)
	}
}

// A variable that is widened and a rollout to the new value can be applied
// together; a rollout may wait for one before it.
func TestApplyTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.lead(nil)
	apply := func(docs ...string) error {
		q := control.ApplyRequest{}
		for _, d := range docs {
			q.Documents = append(q.Documents, document(t, d))
		}
		_, err := s.applyDocuments(t.Context(), q, "alice", time.Now())
		return err
	}
	if err := apply(`{"kind":"Variable","name":"v","type":"string","allowed":["1"]}`); err != nil {
		t.Fatal(err)
	}
	if err := apply(
		`{"kind":"Variable","name":"v","type":"string","allowed":["1","2"]}`,
		`{"kind":"Rollout","name":"first","variable":"v","to":"2","ramp":{"over":"1h"}}`,
		`{"kind":"Variable","name":"w","type":"integer"}`,
		`{"kind":"Rollout","name":"second","variable":"w","to":2,"after":"first","ramp":{"over":"1h"}}`,
	); err != nil {
		t.Error(err)
	}
	if err := apply(`{"kind":"Variable","name":"v","type":"string","allowed":["1"]}`); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("a value that a rollout moves to was taken away: %v", err)
	}
}

// What an operator says travels in headers, so it is bounded; what goes against
// the plan is never done without it.
func TestWhyIsChecked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.lead(nil)
	long := strings.Repeat("w", maxWhy+1)
	for _, tt := range []struct {
		verb    control.Verb
		request any
		want    string
	}{
		{control.RolloutPause, control.RolloutRequest{ID: "x", Why: long}, "1025 bytes"},
		{control.HostPin, control.PinRequest{Host: h00, Variable: "docker_version", Why: long}, "1025 bytes"},
		{control.HostPin, control.PinRequest{Host: h00, Variable: "docker_version"}, "why: is missing"},
		{control.HostUnpin, control.PinRequest{Host: h00}, "why: is missing"},
		{control.RolloutRelease, control.HostReleaseRequest{ID: "x", Host: h00}, "why: is missing"},
		{control.RolloutRollback, control.RollbackRequest{ID: "x"}, "why: is missing"},
	} {
		_, err := s.handle(t.Context(), control.Request{Actor: "alice", Verb: tt.verb, Body: must(json.Marshal(tt.request))}, time.Now())
		if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != control.Usage || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: got %v, want %q", tt.verb, err, tt.want)
		}
	}
}

// What was done by hand stays in the status after it was put right, and two
// agents under one name are noticed.
func TestNotices(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.lead(reports(2))
	r.settleDown(s)
	if _, err := bus.Put(t.Context(), r.js, bus.Message{Subject: subjects.KindDesired.Subject("h000.example.net"), Data: []byte(`{"v":"hax"}`)}); err != nil {
		t.Fatal(err)
	}
	if err := s.reread(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settleDown(s)
	last := must(bus.Last(t.Context(), r.js, subjects.Stream, subjects.KindDesired.Subject("h000.example.net")))
	if string(last.Data) != "{}" {
		t.Errorf("not put back: %s", last.Data)
	}
	for _, boot := range []string{"one", "two", "two"} { // an agent that was started again
		s.beat(heartbeat{"h000.example.net", boot})
	}
	for _, boot := range []string{"one", "two", "one"} {
		s.beat(heartbeat{"h001.example.net", boot})
	}
	w := strings.Join(s.status().Warnings, "\n")
	if !strings.Contains(w, "desired.h000.example.net was written or deleted by hand") {
		t.Errorf("the hand isn't mentioned: %s", w)
	}
	if !strings.Contains(w, "two agents call themselves h001.example.net") || strings.Contains(w, "call themselves h000") {
		t.Errorf("twins: %s", w)
	}
	s.sweep(time.Now().Add(noticed + time.Hour))
	if w := s.status().Warnings; len(w) != 0 {
		t.Errorf("a day later: %s", w)
	}
}
