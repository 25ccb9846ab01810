package sloguard

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// begin is a guard that has cleared a rollout of 30 hosts of one role.
func begin(t *testing.T) (*rig, []rollout.Host) {
	t.Helper()
	r := newRig(t, broker.Options{Unsynced: true})
	r.guard()
	hosts := r.hosts("web", 30)
	r.objective("healthy", nil)
	r.rollout("up", nil)
	r.clear("up")
	return r, hosts
}

func TestABadChangeIsAborted(t *testing.T) {
	r, hosts := begin(t)
	failed := 0
	for i, h := range hosts {
		if len(r.aborts("up")) > 0 {
			break
		}
		r.tell("up", h, 2)
		r.fail("up", h, 2)
		failed = i + 1
		time.Sleep(50 * time.Millisecond)
	}
	a, v := r.aborted("up")
	if failed > 4 {
		t.Errorf("%d hosts had to fail", failed)
	}
	if a.Actor != "sloguard" || !strings.HasPrefix(a.Why, "healthy: the change does harm: ") || v.Kind != slo.Harm || v.Rollout != "up" || v.Objective != "healthy" {
		t.Errorf("abort %+v\nverdict %+v", a, v)
	}
	if v.Of < 2 || len(v.Failed) != v.Of || v.Failed[0].Host != hosts[0] || v.Failed[0].How != slo.FailedCheck || v.Failed[0].Output != "connection refused" || v.Failed[0].Role != "web" {
		t.Errorf("failed hosts: %+v", v.Failed)
	}
	if s := v.Standings[0]; s.E < s.Bar || s.TreatedFailed != v.Of || s.ControlFailed != 0 || s.Treated+s.Control != 30 {
		t.Errorf("standing %+v", s)
	}
	if len(v.RuledOut) == 0 {
		t.Error("nothing is ruled out")
	}
	if why := r.unclear("up"); !strings.Contains(why, "suffices") {
		t.Errorf("unclear because %q", why)
	}
	time.Sleep(300 * time.Millisecond)
	if n := len(r.aborts("up")); n != 1 {
		t.Errorf("%d aborts of one verdict", n)
	}
}

func TestAHarmlessChangeIsNot(t *testing.T) {
	r, hosts := begin(t)
	for i, h := range hosts {
		r.tell("up", h, 2)
		switch i {
		case 10:
			r.check("", hosts[25], 1, rollout.Failing, "unlucky")
			r.eventually("its failure is seen", func() bool { return r.standing("up").ControlFailed == 1 })
		case 15:
			r.fail("up", h, 2)
		}
	}
	r.eventually("all are treated", func() bool {
		s := r.standing("up")
		return s.Treated == 29 && s.TreatedFailed == 1 && s.Control == 1 && s.ControlFailed == 1
	})
	if n := len(r.aborts("up")); n != 0 {
		t.Errorf("%d aborts", n)
	}
	r.clear("up")
}

func TestHostsThatDieSilently(t *testing.T) {
	r, hosts := begin(t)
	for i, h := range hosts[:8] {
		r.tell("up", h, 2)
		r.die(h)
		if i >= 3 && len(r.aborts("up")) > 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	_, v := r.aborted("up")
	// Who died first by a moment isn't always noticed first.
	first := slices.ContainsFunc(v.Failed, func(f slo.Failure) bool { return f.Host == hosts[0] })
	if v.Kind != slo.Harm || v.Failed[0].How != slo.FailedSilence || !first {
		t.Errorf("verdict %+v", v)
	}
}

func TestMassSilenceClearsAndAbortsNothing(t *testing.T) {
	r, hosts := begin(t)
	for _, h := range hosts[:3] {
		r.tell("up", h, 2)
	}
	for _, h := range hosts[:20] { // three treated ones among them
		r.die(h)
	}
	if why := r.unclear("up"); !strings.Contains(why, "silent together") || !strings.Contains(why, "web") {
		t.Errorf("unclear because %q", why)
	}
	time.Sleep(600 * time.Millisecond) // twice its grace and more
	if n := len(r.aborts("up")); n != 0 {
		t.Fatalf("%d aborts while nobody could be heard", n)
	}
	for _, h := range hosts[:20] {
		r.live(h)
	}
	r.clear("up")
	if s := r.lease().Rollouts["up"].Standings[0]; s.TreatedFailed+s.ControlFailed != 0 {
		t.Errorf("silence counted: %+v", s)
	}
}

// TestAGuardThatIsStartedAnew kills the guard in the middle of a rollout that
// fails, and lets another one fold the same stream after the verdict.
func TestAGuardThatIsStartedAnew(t *testing.T) {
	r := newRig(t, broker.Options{Unsynced: true})
	stop := r.guard()
	hosts := r.hosts("web", 30)
	r.objective("healthy", nil)
	r.rollout("up", nil)
	r.clear("up")
	r.tell("up", hosts[0], 2)
	r.fail("up", hosts[0], 2)
	stop()
	for _, h := range hosts[1:6] {
		r.tell("up", h, 2)
		r.fail("up", h, 2)
	}
	stop = r.guard()
	_, first := r.aborted("up")
	stop()
	stop = r.guard()
	r.eventually("the third guard says so too", func() bool {
		c := r.lease().Rollouts["up"]
		return c != nil && strings.Contains(c.Why, "suffices")
	})
	if all := r.aborts("up"); len(all) != 1 {
		t.Fatalf("%d aborts of one verdict", len(all))
	}
	if why := r.lease().Rollouts["up"].Why; !strings.Contains(why, "at sequence "+strconv.FormatUint(first.Sequence, 10)) {
		t.Errorf("another verdict than at %d: %s", first.Sequence, why)
	}
	stop()
}

func TestAResumeBeginsAnew(t *testing.T) {
	r, hosts := begin(t)
	for _, h := range hosts[:4] {
		r.tell("up", h, 2)
		r.fail("up", h, 2)
	}
	a, _ := r.aborted("up")
	r.unclear("up")
	for _, h := range hosts[:4] {
		r.check("up", h, 2, rollout.Passing, "")
	}
	r.rollout("up", func(rec *rollout.Record) { rec.Acknowledged = a.Sequence })
	r.clear("up")
	if s := r.lease().Rollouts["up"].Standings[0]; s.E > 2 || s.TreatedFailed != 0 || s.Treated != 4 {
		t.Errorf("evidence of before: %+v", s)
	}
	for _, h := range hosts[4:9] {
		r.tell("up", h, 3)
		r.fail("up", h, 3)
	}
	r.eventually("it is aborted again", func() bool { return len(r.aborts("up")) == 2 })
}

func TestMissingEvidenceClearsNothing(t *testing.T) {
	r := newRig(t, broker.Options{Unsynced: true})
	stop := r.guard()
	r.hosts("web", 5)
	r.objective("healthy", func(o *slo.Objective) { o.Check = "unheard-of" })
	r.rollout("up", nil)
	r.eventually("it says that nobody passes the check", func() bool { return strings.Contains(r.unclear("up"), "none of its 5 hosts") })
	r.rollout("other", func(rec *rollout.Record) { rec.Spec.Guard.Objectives = []rollout.ID{"nobody-made-it"} })
	r.eventually("it says that there is no such objective", func() bool { return strings.Contains(r.unclear("other"), "no objective nobody-made-it") })
	stop()
	if g := r.lease(); g.Holder != "" || len(g.Rollouts) != 0 {
		t.Errorf("what a guard that has ended still says: %+v", g)
	}
}

// TestTwoGuards lets the second take over when the first is cut off.
func TestTwoGuards(t *testing.T) {
	r, hosts := begin(t)
	first := r.lease().Holder
	nc := r.connect()
	o := Options{Conn: nc, Name: "second", Heartbeat: testHeartbeat, Renew: 200 * time.Millisecond, Lease: time.Second}
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), o) }()
	time.Sleep(700 * time.Millisecond)
	if h := r.lease().Holder; h != first {
		t.Fatalf("%s took the lease of a living guard", h)
	}
	r.put(subjects.KindGuard.Subject(""), nil, "somebody's text") // nobody's: whoever is first
	r.eventually("one holds it again", func() bool { return r.lease().Holder != "" })
	for _, h := range hosts[:5] {
		r.tell("up", h, 2)
		r.fail("up", h, 2)
	}
	r.aborted("up")
	time.Sleep(300 * time.Millisecond)
	if n := len(r.aborts("up")); n != 1 {
		t.Errorf("%d aborts of one verdict by two guards", n)
	}
}
