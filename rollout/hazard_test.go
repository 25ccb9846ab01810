package rollout

import (
	"testing"
	"time"
)

// Each test here was a way to harm a fleet that somebody found.

// Cancelling a rollback stops it, and starts nothing.
func TestCancelledRollbackPushesNothingOut(t *testing.T) {
	f := even(t, 20, "web")
	f.mustStart(spec("up", "2", time.Hour))
	f.advance(2 * time.Hour)
	f.operate(f.snap.Rollback("up", Value{}, Duration(time.Hour), "ann", "bad", fleetSeed, f.now))
	f.advance(30 * time.Minute)
	f.operate(f.snap.Cancel("up-rollback", "ann", "stop moving things", f.now))
	half := f.count("2")
	f.advance(2 * time.Hour)
	if half == 0 || half == 20 || f.count("2") != half {
		t.Errorf("%d hosts were at 2 when it was cancelled, and %d are now", half, f.count("2"))
	}
	f.reload()
}

func TestFirstDocumentMindsThePin(t *testing.T) {
	f := even(t, 5, "web")
	f.mustStart(spec("up", "2", time.Hour))
	f.advance(2 * time.Hour)
	f.pin("web0", &Pin{Host: "web0", Values: Document{"version": str("1")}, By: "ann"})
	f.settle()
	f.decommission("web0")
	f.join("web0", "web", nil, nil) // installed anew: nothing runs there
	for range 5 {
		for _, step := range Decide(f.snap, f.now).Steps {
			for _, x := range step.Tells {
				if v := x.Desired.Values["version"]; !v.IsZero() && v != str("1") {
					t.Errorf("%s is told %s, and is pinned to 1", x.Host, v)
				}
			}
			f.commit(step)
		}
	}
	if v := f.desired["web0"].Values["version"]; v != str("1") {
		t.Errorf("it has %s at last", v)
	}
}

// A window of two hours a month, and a start in its last minute.
func TestRareWindowDoesNotSqueezeTheRamp(t *testing.T) {
	s := spec("up", "2", 14*24*time.Hour)
	s.Windows = []Rule{{MonthDays: []MonthDays{{1, 1}}, From: TimeOfDay(2 * time.Hour), To: TimeOfDay(4 * time.Hour)}}
	at := time.Date(2026, 12, 1, 3, 59, 0, 0, time.UTC)
	// 24 hours a year, of which two weeks have 55 minutes, and half of that.
	if got, want := openLength(&s, at), 24*time.Hour*14/365/2; got < want-time.Second {
		t.Errorf("its clock runs %s, want at least %s", got, want)
	}
	s.Ramp.Over, s.Windows = Duration(14*24*time.Hour), []Rule{{From: TimeOfDay(2 * time.Hour), To: TimeOfDay(6 * time.Hour)}}
	if got := openLength(&s, at); got != 56*time.Hour {
		t.Errorf("four hours a day over two weeks are %s", got)
	}
}

// Hosts that a blackout defers whenever the windows are open, and ones that two
// blackouts defer by turns, are never told: a plan says so, and comes to an end.
func TestPlanOfHostsThatAreNeverTold(t *testing.T) {
	half := []Rule{{To: TimeOfDay(12 * time.Hour)}}
	other := []Rule{{From: TimeOfDay(12 * time.Hour)}}
	for name, windows := range map[string][]Rule{"windows": {{From: TimeOfDay(2 * time.Hour), To: TimeOfDay(4 * time.Hour)}}, "none": nil} {
		f := even(t, 5, "web", "db")
		f.blackout("mornings", &Blackout{Name: "mornings", Where: `role == "db"`, Every: half})
		if windows == nil {
			f.blackout("afternoons", &Blackout{Name: "afternoons", Where: `role == "db"`, Every: other})
		}
		s := spec("up", "2", 24*time.Hour)
		s.Windows = windows
		p, err := f.snap.PlanSpec(s, fleetSeed, PlanOptions{}, f.now)
		if err != nil || len(p.Hosts) != 5 || !p.Ends.IsZero() || len(p.Conflicts) == 0 {
			t.Errorf("%s: %d hosts, ends %v, %q, %v", name, len(p.Hosts), p.Ends, p.Conflicts, err)
		}
	}
}

func TestApprovalIsOfTheDocumentThatWasApproved(t *testing.T) {
	f := even(t, 5, "web")
	s := spec("up", "2", time.Hour)
	s.Approvals, s.Start = 1, f.now.Add(time.Hour)
	f.mustStart(s)
	f.operate(f.snap.Approve("up", "bob", "2 is fine", f.now))
	s.To = str("3")
	f.operate(f.snap.Change(s, With{}, "eve", f.now))
	if _, err := f.snap.Approve("up", "eve", "mine", f.now); err == nil {
		t.Error("whoever changed it approves it")
	}
	f.advance(3 * time.Hour)
	if n := f.count("3"); n > 0 {
		t.Errorf("%d hosts were told what nobody approved", n)
	}
	s.Approvals = 0
	if _, err := f.snap.Change(s, With{}, "eve", f.now); err == nil {
		t.Error("the number of approvals is lowered")
	}
	f.operate(f.snap.Approve("up", "bob", "3 too", f.now))
	f.advance(3 * time.Hour)
	f.want("up", StateCompleted)
}

// A record whose expression this scheduler doesn't know changes nothing.
func TestUnknownExpressionSelectsNobody(t *testing.T) {
	f := even(t, 5, "web", "db")
	s := spec("up", "2", time.Hour)
	s.Where = `role == "web"`
	f.mustStart(s)
	f.advance(10 * time.Minute)
	r := f.rollouts["up"]
	r.Spec.Where = `role == "web" && sometime(host)`
	if f.snap.PutRollout("up", &r) == nil {
		t.Fatal("it compiles")
	}
	f.join("db9", "db", nil, Document{"version": str("1")})
	f.advance(2 * time.Hour)
	if by := f.desired["db9"].Told["version"].Rollout; by != "" {
		t.Errorf("db9 was told by %s", by)
	}
}

// After an abort the canary bakes anew, and nothing jumps.
func TestAbortTakesBackWhatWasHurried(t *testing.T) {
	f := even(t, 20, "web")
	s := spec("up", "2", 10*time.Hour)
	s.Canary = &Canary{Hosts: 2, Bake: Duration(time.Hour)}
	f.mustStart(s)
	f.advance(time.Minute)
	resume := func() {
		a := f.abort("up", false)
		f.advance(time.Minute)
		f.operate(f.snap.Resume("up", "ann", "fixed", a.Sequence, f.now))
	}
	f.press(false, false) // so that the ramp doesn't start at once
	f.operate(f.snap.Advance("up", "ann", 0, "hurry", f.now))
	resume()
	f.press(true, false)
	f.advance(time.Minute)
	if r := f.rollouts["up"]; r.Baked || !r.Clock.IsZero() {
		t.Error("the canary needn't bake after an abort")
	}
	f.advance(2 * time.Hour)
	f.operate(f.snap.Advance("up", "ann", 90, "hurry", f.now))
	resume()
	if a := f.rollouts["up"].Advanced; a != 0 {
		t.Errorf("resumed, it jumps to %v", a)
	}
}
