package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// What was written again while no scheduler ran is noticed by the next one,
// however much was put on top of it.
func TestReplayedOverARestart(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	r.schedule()
	r.fleet(3)
	r.start("up", time.Hour)
	running := r.last(subjects.KindRollout, "up")
	r.mustCall(control.RolloutCancel, control.RolloutRequest{ID: "up", Why: "a mistake"}, nil)
	stop := func() uint64 {
		seq, err := bus.Put(t.Context(), r.js, bus.Message{Subject: subjects.KindStop.Subject(""), Data: []byte("incident")})
		if err != nil {
			t.Fatal(err)
		}
		return seq
	}
	status := func() (v control.StatusView) {
		r.mustCall(control.Status, control.Empty{}, &v)
		return v
	}
	seq := stop()
	r.until("it is stopped", func() bool { return status().Stopped })
	r.mustCall(control.Start, control.ReleaseRequest{Why: "over", Acknowledge: seq}, nil)
	release := r.last(subjects.KindStop, "")
	stop()
	r.until("it is stopped again", func() bool { return status().Stopped })

	r.stop()
	again := r.put(subjects.KindStop, "", release.Header, release.Data)
	r.put(subjects.KindRollout, "up", running.Header, running.Data)
	r.schedule()
	if !status().Stopped {
		t.Error("a release that was written again releases the stop")
	}
	if v := r.show("up"); v.State != rollout.StateCancelled {
		t.Errorf("the rollout that was cancelled is %s", v.State)
	}
	r.mustCall(control.Start, control.ReleaseRequest{Why: "over", Acknowledge: again}, nil)

	// The good revisions are pushed out of the history: the old one counts no
	// more for being the oldest that is left.
	r.stop()
	r.put(subjects.KindRollout, "up", running.Header, running.Data)
	for range 63 {
		r.put(subjects.KindRollout, "up", nil, []byte("x"))
	}
	r.schedule()
	var v control.RolloutView
	if err := r.call(control.RolloutShow, control.RolloutRequest{ID: "up"}, &v); err == nil && v.State == rollout.StateRunning {
		t.Error("the rollout that was cancelled goes on")
	}
}

// Progress that was written again is noticed, and the next step writes it anew.
func TestReplayedProgress(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	r.schedule()
	r.fleet(6)
	r.start("up", time.Hour)
	m := r.last(subjects.KindProgress, "up")
	r.put(subjects.KindProgress, "up", m.Header, m.Data)
	r.until("a person is told", func() bool {
		var v control.StatusView
		r.mustCall(control.Status, control.Empty{}, &v)
		return strings.Contains(fmt.Sprint(v.Warnings), "progress.up")
	})
}

// The lease bears no seal, so the leaders' clock, by which ramps go, isn't
// taken from it: a broker could otherwise let every ramp end at once.
func TestTheLeadersClockIsSealed(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	s := r.bare(Options{})
	s.take(t.Context())
	if !s.leading {
		t.Fatal("not leading")
	}
	forge := func() {
		t.Helper()
		l, err := subjects.Decode[subjects.Leader](r.last(subjects.KindLeader, "").Data)
		if err != nil {
			t.Fatal(err)
		}
		l.Led, l.Holder = 1000*time.Hour, ""
		body, err := subjects.Encode(l)
		if err != nil {
			t.Fatal(err)
		}
		r.put(subjects.KindLeader, "", nil, body)
	}
	forge()
	if err := s.reread(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.take(t.Context())
	if led := s.snap.Led(time.Now()); led > time.Hour {
		t.Errorf("while it runs: the leaders' clock shows %s", led)
	}
	s.quit()
	forge()
	next := r.bare(Options{})
	next.take(t.Context())
	if led := next.snap.Led(time.Now()); led > time.Hour {
		t.Errorf("over a restart: the leaders' clock shows %s", led)
	}
}

// The clock goes on over a restart, from where it was given back.
func TestTheLeadersClockGoesOn(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	s := r.bare(Options{})
	s.take(t.Context())
	now := time.Now()
	for range 30 { // the charge for each interval is two renewals at most
		now = now.Add(5 * time.Second)
		if err := s.write(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	led := s.leader.Led
	if led < 2*time.Minute {
		t.Fatalf("it led for %s", led)
	}
	s.quit()
	next := r.bare(Options{})
	next.take(t.Context())
	if got := next.snap.Led(time.Now()); got < led {
		t.Errorf("it goes on at %s after %s", got, led)
	}
}

// A host's older document that was written again while no scheduler ran is put
// right: the host says that it has had a newer one.
func TestDocumentSetBackOverARestart(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	r.schedule()
	r.fleet(3)
	const host = "h00.example.net"
	before := r.last(subjects.KindDesired, host)
	r.start("up", time.Second)
	r.untilState("up", rollout.StateCompleted)
	r.stop()
	seq := r.put(subjects.KindDesired, host, before.Header, before.Data)
	r.schedule()
	r.until("its document is put back", func() bool {
		m := r.last(subjects.KindDesired, host)
		return m.Sequence > seq && string(m.Data) == `{"docker_version":"1.12.3"}` && r.keyring.Verify(m.Subject, m.Header, m.Data) == nil
	})
}

// An epoch that somebody overwrote is written anew with the next renewal, and
// one is written by whoever takes the lead.
func TestTheEpochIsPutBack(t *testing.T) {
	t.Parallel()
	r := sealedRig(t)
	s := r.bare(Options{})
	s.take(t.Context())
	old := r.last(subjects.KindEpoch, "")
	proven := func() bool {
		m := r.last(subjects.KindEpoch, "")
		return m.Sequence > old.Sequence && r.keyring.Verify(m.Subject, m.Header, m.Data) == nil
	}
	r.put(subjects.KindEpoch, "", nil, []byte(`{"time":"2999-01-01T00:00:00Z"}`))
	if err := s.reread(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.write(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if !proven() {
		t.Error("the epoch isn't written anew")
	}
	s.stopServe()
	old = r.last(subjects.KindEpoch, "")
	next := r.bare(Options{TakeAtOnce: true})
	next.take(t.Context())
	if !proven() {
		t.Error("who takes the lead writes no epoch")
	}
}
