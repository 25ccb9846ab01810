package scheduler

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	healthy   = `{"kind":"Objective","name":"healthy","check":"docker","for":"0s","grace":"1s"}`
	guardedUp = `{"kind":"Rollout","name":"up","variable":"docker_version","to":"1.12.3","ramp":{"over":"2s"},"inFlight":{"max":100,"perRole":100},"guard":{"objectives":["healthy"]}}`
)

// says writes the guard's lease once.
func (r *rig) says(of map[rollout.ID]*subjects.Clearance) {
	r.t.Helper()
	r.puts(subjects.KindGuard, "", must(subjects.Encode(subjects.Guard{Holder: "g", Name: "test", Since: time.Now(), Renewed: time.Now(), Rollouts: of})))
}

// puts writes a key as anybody may.
func (r *rig) puts(kind subjects.Kind, name string, body []byte) {
	r.t.Helper()
	if _, err := bus.Put(r.t.Context(), r.js, bus.Message{Subject: kind.Subject(name), Data: body}); err != nil {
		r.t.Fatal(err)
	}
}

func clearFor(d time.Duration) map[rollout.ID]*subjects.Clearance {
	return map[rollout.ID]*subjects.Clearance{"up": {For: rollout.Duration(d), Standings: []slo.Standing{{Objective: "healthy", E: 1, Bar: 200}}}}
}

// guards renews the lease until it is stopped.
func (r *rig) guards() (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.Tick(100 * time.Millisecond); ; {
			r.says(clearFor(time.Second))
			select {
			case <-end:
				return
			case <-tick:
			}
		}
	}()
	return func() { close(end); <-done }
}

func (r *rig) untilHeld(id rollout.ID, why string) control.RolloutView {
	r.t.Helper()
	var v control.RolloutView
	r.until(why, func() bool {
		v = r.show(id)
		return v.ReasonCode == rollout.NoFreshEvidence && strings.Contains(v.Reason, why)
	})
	return v
}

// A rollout moves while the guard renews what it says, and no longer.
func TestEvidenceHolds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.says(clearFor(time.Hour)) // stored before the scheduler has started: it says nothing
	r.schedule()
	r.fleet(9)
	r.apply(false, healthy, guardedUp)
	v := r.untilHeld("up", "is sloguard running?")
	if g := v.Guard; v.Told != 0 || g == nil || g.Clear || !strings.Contains(g.Why, "is sloguard running?") || g.OnBreach != rollout.BreachFreezes || g.Standings != nil {
		t.Errorf("%d told, guard %+v", v.Told, g)
	}
	stop := r.guards()
	r.until("hosts are told", func() bool { v = r.show("up"); return v.Told > 2 })
	if g := v.Guard; !g.Clear || !g.Until.After(time.Now()) || len(g.Standings) != 1 {
		t.Errorf("clear: %+v", g)
	}
	stop()
	v = r.untilHeld("up", "is sloguard running?")
	r.says(map[rollout.ID]*subjects.Clearance{"up": {Why: "20% of the control is silent"}})
	if told := v.Told; told == 9 {
		t.Fatal("all are told")
	} else if v = r.untilHeld("up", "20% of the control is silent"); v.Told != told {
		t.Errorf("%d told, then %d", told, v.Told)
	}
	var why control.WhyView
	r.mustCall(control.Why, control.WhyRequest{Host: h00, Variable: "docker_version"}, &why)
	if why.Next != "" && !slices.Contains(why.Blocked, v.Reason) {
		t.Errorf("why not yet: %q", why.Blocked)
	}
	defer r.guards()()
	r.until("what remains is to watch", func() bool { return r.show("up").ReasonCode == rollout.ObjectiveWindow })
	v = r.untilState("up", rollout.StateCompleted)
	if n := r.tells("up"); n != 9 || v.Late > rollout.Duration(time.Minute) {
		t.Errorf("%d told, %s late", n, v.Late)
	}
	var list []control.RolloutView
	r.mustCall(control.RolloutList, control.Empty{}, &list)
	if list[0].Guard != nil {
		t.Errorf("a list with what the guard says: %+v", list[0].Guard)
	}
}

// What isn't the guard's counts as nothing, and somebody is told.
func TestGuardsLeaseByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(2)
	r.apply(false, healthy, guardedUp)
	r.puts(subjects.KindGuard, "", []byte(`{"holder":"me","rollouts":{"up":{"for":"1h"}}}`))
	r.until("the hand is mentioned", func() bool {
		var s control.StatusView
		r.mustCall(control.Status, control.Empty{}, &s)
		return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, "guard: the guard's lease was overwritten") })
	})
	r.untilHeld("up", "is sloguard running?")
}

func TestSilentGuardIsMentioned(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.bare(Options{})
	record := &rollout.Record{State: rollout.StateRunning, Spec: rollout.Spec{Name: "up", Variable: "docker_version", Guard: &rollout.Guard{Objectives: []rollout.ID{"healthy"}}}}
	if err := s.snap.PutRollout("up", record); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.guard.heard = now.Add(-guardSilent)
	if got := s.unguarded(now); got != "" {
		t.Error(got)
	}
	if got := s.unguarded(now.Add(time.Second)); !strings.Contains(got, "for 31s") || !strings.HasSuffix(got, ": up") {
		t.Error(got)
	}
	record.Spec.Guard = nil
	if got := s.unguarded(now.Add(time.Second)); got != "" {
		t.Error(got)
	}
}

func TestBreachByTheGuard(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	r.apply(false, healthy, strings.Replace(strings.Replace(guardedUp, `"2s"`, `"10s"`, 1), `["healthy"]`, `["healthy"],"onBreach":"rollback"`, 1))
	defer r.guards()()
	r.until("a host is told", func() bool { return r.show("up").Told > 0 })
	verdict := slo.Verdict{Rollout: "up", Kind: slo.Harm, Objective: "healthy", Of: 2}
	r.puts(subjects.KindAbort, "up", must(subjects.Encode(subjects.Abort{Why: "it does harm", Actor: string(subjects.SloGuard), Evidence: must(subjects.Encode(verdict))})))
	r.until("it is rolled back", func() bool { return r.show("up").Rollback == "up-rollback" })
	back := r.untilState("up-rollback", rollout.StateCompleted)
	if back.Author != rollout.Scheduler || back.RollbackOf != "up" || back.Guard == nil || !back.Guard.Clear {
		t.Errorf("%+v, guard %+v", back, back.Guard)
	}
	v := r.show("up")
	if v.State != rollout.StateFrozen || v.Abort.Evidence == nil || v.Abort.Evidence.Of != 2 {
		t.Errorf("%s: %+v", v.State, v.Abort)
	}
	var list []control.RolloutView
	r.mustCall(control.RolloutList, control.Empty{}, &list)
	if list[0].Abort == nil || list[0].Abort.Evidence != nil {
		t.Errorf("in the list: %+v", list[0].Abort)
	}
	r.puts(subjects.KindAbort, "up", []byte(`{"why":"again","actor":"sloguard","evidence":{"rollout":7}}`))
	r.until("the newer abort is shown, without what can't be read", func() bool {
		a := r.show("up").Abort
		return a.Why == "again" && a.Evidence == nil
	})
}

// Objectives are documents like others, and can't be taken away from a rollout.
func TestObjectiveDocuments(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(3)
	if _, err := r.tryApply(false, guardedUp); err == nil || !strings.Contains(err.Error(), "guard.objectives[0]: there is no objective healthy: apply its document first") {
		t.Errorf("without its objective: %v", err)
	}
	dry := r.apply(true, guardedUp, healthy)
	if got := actions(dry); got != "Rollout created, Objective created" || dry[0].Plan == nil || dry[0].Plan.Target != 3 {
		t.Errorf("together: %s, %+v", got, dry[0].Plan)
	}
	if _, err := r.tryApply(false, `{"kind":"Objective","name":"bad","check":""}`); err == nil || !strings.Contains(err.Error(), "check: is missing") {
		t.Errorf("a bad one: %v", err)
	}
	r.apply(false, guardedUp, healthy)
	r.wantAccount(subjects.KindObjective, "healthy", "alice")
	if got := actions(r.apply(false, healthy)); got != "Objective unchanged" {
		t.Error(got)
	}
	stricter := strings.Replace(healthy, `"grace":"1s"`, `"grace":"2s"`, 1)
	results := r.apply(false, stricter)
	if c := results[0].Changes; actions(results) != "Objective changed" || len(c) != 1 || c[0].Field != "grace" || !strings.HasPrefix(results[0].Note, "up: judged by it as it was") {
		t.Errorf("changed: %+v", results)
	}
	r.wantAccount(subjects.KindObjective, "healthy", "alice", "changed grace from 1s to 2s")
	check := func(when string) {
		t.Helper()
		var views []control.ObjectiveView
		r.mustCall(control.ObjectiveList, control.Empty{}, &views)
		if len(views) != 1 || views[0].Check != "docker" || views[0].Window() != 2*time.Second || !slices.Equal(views[0].Rollouts, []rollout.ID{"up"}) {
			t.Errorf("%s: %+v", when, views)
		}
		var got control.GetResponse
		r.mustCall(control.Get, control.GetRequest{Kind: "objective", Name: "healthy"}, &got)
		if len(got.Documents) != 1 || string(must(subjects.Encode(got.Documents[0]))) != stricter {
			t.Errorf("%s: got %+v", when, got)
		}
	}
	check("at once")
	var plan control.PlanView
	r.mustCall(control.RolloutPlan, control.PlanRequest{ID: "up"}, &plan)
	if len(plan.Power) == 0 {
		t.Error("the plan doesn't say what the guard would see")
	}
	// By hand it is neither changed nor deleted.
	r.puts(subjects.KindObjective, "healthy", []byte(`{"name":"healthy","check":"other"}`))
	r.until("the hand is mentioned", func() bool {
		var s control.StatusView
		r.mustCall(control.Status, control.Empty{}, &s)
		return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.HasPrefix(w, "objective.healthy") })
	})
	check("after the hand")
	r.stop()
	r.schedule()
	check("after a restart")
	if got := actions(r.apply(false, stricter)); got != "Objective changed" {
		t.Errorf("put right: %s", got)
	}
	err := r.call(control.Delete, control.DeleteRequest{Kind: "Objective", Name: "healthy"}, nil)
	if !errors.Is(err, rollout.ErrRefused) || !strings.HasSuffix(err.Error(), "still tell hosts: up") {
		t.Errorf("deleted while it is named: %v", err)
	}
	r.mustCall(control.RolloutCancel, control.RolloutRequest{ID: "up", Why: "enough"}, nil)
	r.mustCall(control.Delete, control.DeleteRequest{Kind: "Objective", Name: "healthy"}, nil)
	if err := r.call(control.Delete, control.DeleteRequest{Kind: "Objective", Name: "healthy"}, nil); !errors.Is(err, rollout.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := r.tryApply(true, strings.Replace(guardedUp, `"name":"up"`, `"name":"again"`, 1)); err == nil || !strings.Contains(err.Error(), "there is no objective healthy") {
		t.Errorf("after its end: %v", err)
	}
}
