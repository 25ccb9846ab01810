package rollout

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Undisturbed, every host is told in the second in which the plan said that it
// would be before the start, whatever the rollout; and after a change, when the
// plan of the change said so.
func TestPlannedIsTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{fleet: newFleetAt(t.Fatalf, oneOf(t, "epoch", epochs...), 10*time.Minute), values: []Value{str("1"), str("2"), str("3")}}
		for _, name := range names {
			w.variable(Variable{Name: name, Type: String})
		}
		w.watch()
		w.clear("r1", 1e6*time.Hour)
		for range rapid.IntRange(1, 4).Draw(t, "batches of hosts") {
			w.Join(t)
		}
		w.advance(time.Minute)
		for range rapid.IntRange(0, 2).Draw(t, "blackouts") {
			b := w.newBlackout(t)
			b.Where = ""
			w.blackout(b.Name, b)
		}
		w.settle()
		spec := w.spec(t)
		spec.Approvals, spec.InFlight = 0, InFlight{Max: 100, PerRole: 100}
		for i := range spec.Ramp.Waves {
			spec.Ramp.Waves[i].Approval = false
		}
		plan, err := w.snap.PlanSpec(spec, fleetSeed, PlanOptions{}, w.now)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.start(spec); err != nil {
			t.Fatal(err)
		}
		if !plan.Ends.After(plan.Clock) {
			return // its windows lie in a blackout that never ends
		}
		if chance(t, "changed", 3) && len(plan.Hosts) > 1 {
			at := plan.Hosts[rapid.IntRange(0, len(plan.Hosts)-1).Draw(t, "after")].Due
			w.follow(at)
			w.told(t, plan, at)
			changed, allowed := w.changed(t, spec.Name)
			for i := range changed.Ramp.Waves {
				changed.Ramp.Waves[i].Approval = false
			}
			if changed.InFlight = spec.InFlight; !allowed {
				return
			}
			if plan, err = w.snap.PlanChanged(changed, PlanOptions{}, w.now); err != nil {
				t.Fatal(err)
			}
			step, err := w.snap.Change(changed, With{}, "ann", w.now)
			w.asks(t, "change", step, err)
		}
		// What it is watched for afterwards is no part of the plan.
		w.follow(plan.Ends.Add(time.Second + w.look(spec.Name).window()))
		if r := w.rollouts[spec.Name]; r.State != StateCompleted {
			t.Fatalf("it is %s at %v (%+v), its clock started at %v; planned were %v and %v", r.State, w.now, w.progress[spec.Name], r.Clock, plan.Ends, plan.Clock)
		}
		w.told(t, plan, w.now)
	})
}

// follow lets time pass until an instant.
func (w *world) follow(until time.Time) { w.advance(max(0, until.Sub(w.now))) }

// told wants the hosts told by now that the plan has told by then.
func (w *world) told(t *rapid.T, plan Plan, by time.Time) {
	for _, p := range plan.Hosts {
		told := w.desired[p.Host].Told[w.rollouts["r1"].Spec.Variable]
		if p.Due.Add(time.Second).After(by) {
			continue
		}
		if late := told.Time.Sub(p.Due).Abs(); told.Rollout != "r1" || late >= time.Second {
			t.Fatalf("%s was told at %v by %q, planned were %v; clock %v, planned %v; ends %v", p.Host, told.Time, told.Rollout, p.Due, w.rollouts["r1"].Clock, plan.Clock, plan.Ends)
		}
	}
	n := 0
	for _, d := range w.desired {
		if d.Told[w.rollouts["r1"].Spec.Variable].Rollout == "r1" {
			n++
		}
	}
	if by.Equal(w.now) && w.rollouts["r1"].State == StateCompleted && n+w.had("r1") < plan.Target {
		t.Fatalf("%d hosts were told, and the target is %d", n, plan.Target)
	}
}

// had counts the rollout's hosts that had its value anyway.
func (w *world) had(id ID) (n int) {
	for _, g := range w.look(id).groups {
		n += g.had
	}
	return n
}
