package rollout

import (
	"cmp"
	"reflect"
	"slices"
	"time"
)

// moves are the transitions, by who makes them: the scheduler, or an operator.
var moves = map[State]map[State]struct{ scheduler, operator bool }{
	"": {StatePending: {scheduler: true, operator: true}}, // the scheduler's are rollbacks
	StatePending: {
		StatePending: {operator: true}, StateRunning: {scheduler: true}, StatePaused: {operator: true}, // by a rollback
		StateFrozen: {scheduler: true}, StateCancelled: {operator: true}, StateSuperseded: {operator: true},
	},
	StateRunning: {
		StateRunning: {scheduler: true, operator: true}, StatePaused: {operator: true}, StateFrozen: {scheduler: true},
		StateCompleted: {scheduler: true}, StateCancelled: {operator: true}, StateSuperseded: {operator: true},
	},
	StatePaused: {
		StatePaused: {operator: true}, StateRunning: {operator: true}, StatePending: {operator: true}, // where it hadn't started
		StateFrozen: {scheduler: true}, StateCancelled: {operator: true}, StateSuperseded: {operator: true},
	},
	StateFrozen: {
		StateFrozen: {operator: true}, StateRunning: {operator: true}, StatePending: {operator: true},
		StateCancelled: {operator: true}, StateSuperseded: {operator: true},
	},
	StateCompleted: {StateCompleted: {operator: true}},
}

// may says what a command may change in a record, beside its last transition.
var may = map[string]func(old, next *Record){
	"":        func(old, next *Record) {},
	"resume":  func(old, next *Record) { old.Acknowledged = next.Acknowledged },
	"approve": func(old, next *Record) { old.Approvals = next.Approvals },
	"advance": func(old, next *Record) {
		old.Advanced, old.Baked, old.Approvals = next.Advanced, next.Baked, next.Approvals
	},
	"change": func(old, next *Record) {
		another := !reflect.DeepEqual(old.Spec, next.Spec)
		old.Spec, old.Length, old.Planned = next.Spec, next.Length, next.Planned
		if another && old.Theta == nil { // nobody has approved the new document
			old.Author, old.Approvals = next.By, nil
		}
	},
	"start": func(old, next *Record) {
		old.Clock, old.Length, old.Planned = next.Clock, next.Length, next.Planned
		if old.Theta == nil {
			old.Theta = next.Theta
		}
	},
	"freeze": func(old, next *Record) {
		old.Abort, old.Advanced = next.Abort, 0
		if old.Clock.IsZero() {
			old.Baked = false
		}
	},
}

func (c *checker) transition(f *fleet, step Step, change RecordChange) {
	old, r := f.rollouts[change.ID], change.Record
	if move := moves[old.State][r.State]; c.decided && !move.scheduler || !c.decided && !move.operator {
		f.fail("%s goes from %q to %q, decided %v", change.ID, old.State, r.State, c.decided)
	}
	if r.By == "" || r.Why == "" && r.State != StateFrozen {
		f.fail("%s becomes %s by nobody, or without a why: %+v", change.ID, r.State, r)
	}
	if old.State == "" {
		if c.decided {
			c.retreat(f, &r)
		}
		if r.Spec.Rollback == "" && r.From != f.variables[r.Spec.Variable].Value || r.Clock != (time.Time{}) || len(r.Approvals) > 0 {
			f.fail("%s is created as %+v", change.ID, r)
		}
		return
	}
	verbs := []string{c.verb}
	switch {
	case c.decided && r.State == StateFrozen:
		verbs = []string{"freeze"}
		if a := f.aborts[change.ID]; a.Sequence <= r.Acknowledged || r.Abort != a.Sequence {
			f.fail("%s is frozen by abort %d; the newest is %+v", change.ID, r.Abort, a)
		}
	case c.decided && r.State == StateRunning:
		verbs = []string{"start"}
	case c.decided:
		verbs = []string{""}
	case c.verb == "":
		verbs = []string{"resume", "approve", "advance", "change"}
	}
	same, next := old, r
	same.State, same.By, same.Why, same.Changed = r.State, r.By, r.Why, r.Changed
	for _, verb := range verbs {
		if f := may[verb]; f != nil {
			f(&same, &next)
		}
	}
	if !reflect.DeepEqual(same, next) {
		f.fail("%s %v: a transition changed what it shouldn't:\n%+v\n%+v", change.ID, verbs, same, next)
	}
	if r.Theta != nil && len(r.Approvals) < len(old.Approvals) || r.Advanced < old.Advanced && r.State != StateFrozen {
		f.fail("%s takes back what it was given: %+v, %+v", change.ID, old, r)
	}
	if c.decided && old.State == StatePending && r.State == StateRunning {
		c.start(f, change.ID, &r)
	}
	if c.decided && old.Clock.IsZero() && !r.Clock.IsZero() {
		c.startClock(f, change.ID, &r)
	}
	if c.decided && r.State == StateRunning && old.State == r.State && !old.Clock.IsZero() {
		f.fail("%s is written again and nothing has happened", change.ID)
	}
	if r.State == StateCompleted && old.State != StateCompleted {
		c.complete(f, step, change.ID)
	}
}

// mayStart says why a pending rollout doesn't start yet.
func (c *checker) mayStart(f *fleet, r *Record) Code {
	given := map[ID]bool{}
	for _, a := range r.Approvals {
		if a.Wave == 0 && a.By != r.Author {
			given[a.By] = true
		}
	}
	switch {
	case f.now.Before(r.Spec.Start):
		return NotStarted
	case r.Spec.After != "" && f.rollouts[r.Spec.After].State != StateCompleted:
		return WaitingForRollout
	case len(given) < r.Spec.Approvals:
		return AwaitingApproval
	}
	return ""
}

func (c *checker) start(f *fleet, id ID, r *Record) {
	if why := c.mayStart(f, r); why != "" || f.held() && len(f.inflight) == 0 {
		f.fail("%s starts, and this stands in the way: %s", id, why)
	}
	var want []string
	for key := range f.look(id).groups {
		want = append(want, key)
	}
	for key, theta := range r.Theta {
		if !slices.Contains(want, key) || theta < 0 || theta >= 1 {
			f.fail("%s: the phase of %s is %v; its roles are %v", id, key, theta, want)
		}
	}
	if len(r.Theta) != len(want) {
		f.fail("%s has phases %v for %v", id, r.Theta, want)
	}
}

// startClock judges the start of a ramp's clock.
func (c *checker) startClock(f *fleet, id ID, r *Record) {
	v := f.look(id)
	if f.held() && len(f.inflight) == 0 || cmp.Or(v.unclear(f.now), v.closed(f.now)) != "" || r.Clock.After(f.now) {
		f.fail("the clock of %s starts at %v, and it is %v: %s", id, r.Clock, f.now, cmp.Or(v.unclear(f.now), v.closed(f.now)))
	}
	// A scheduler that is late for an opening, or for the start, makes up for what
	// it may be charged.
	if late := f.now.Sub(r.Clock); late > 0 {
		hold := v.progress.Hold.Code
		if hold != OutsideWindow && hold != InBlackout && hold != NotStarted || late > 2*f.renewEvery || v.open(r.Clock, f.now, late) < late || r.Clock.Before(r.Spec.Start) || r.Clock.Before(v.progress.At) {
			f.fail("the clock of %s starts %v late, and it waited for %q", id, late, hold)
		}
	}
	if canary := v.spec.Canary; canary != nil {
		since, ok := c.baking[id]
		if baked := f.ledNow() - since; !ok || baked < time.Duration(canary.Bake) && !r.Baked {
			f.fail("the clock of %s starts and its canaries have baked for %v (%v)", id, baked, ok)
		}
	}
	windows := *v
	windows.blackouts = nil
	nominal := nominal(&v.spec.Ramp)
	if open := windows.open(r.Clock, r.Clock.Add(nominal), nominal); r.Length < open || r.Length > nominal || len(v.spec.Windows) == 0 && r.Length != nominal {
		f.fail("the clock of %s runs for %v: over %v, of which its windows are open for %v", id, r.Length, nominal, open)
	}
	if !r.Planned.IsZero() && r.Planned.Sub(r.Clock) < r.Length {
		f.fail("%s is planned to end at %v, %v after its clock starts, which runs for %v", id, r.Planned, r.Planned.Sub(r.Clock), r.Length)
	}
}

// complete judges the end of a rollout.
func (c *checker) complete(f *fleet, step Step, id ID) {
	v := f.look(id)
	if v.inFlight > 0 {
		f.fail("%v completes with %d hosts in flight", v, v.inFlight)
	}
	for key, g := range v.groups {
		for _, h := range g.due(g.t) {
			if f.presence[h] == Online && !f.pinned(h, v.spec.Variable) {
				f.fail("%v completes and %s of %s, which is online, was not told", v, h, key)
			}
		}
	}
	if last, ok := c.last[id]; v.unclear(f.now) != "" || ok && v.guarded() && f.now.Before(last.Add(v.window())) {
		f.fail("%v completes at %v; it was last told at %v, and its clearance is %+v", v, f.now, last, f.clearances[id])
	}
	if e := step.Progress.Elapsed; e < v.length() {
		f.fail("%v completes when its clock shows %v", v, e)
	}
	if moves := covers(&v.spec) && f.variables[v.spec.Variable].Value != v.spec.To; moves != (step.Variable != nil) {
		f.fail("%v completes, and of the variable it says %v", v, step.Variable)
	}
	if _, _, gated := v.gate(); gated {
		f.fail("%v completes and a wave was never approved", v)
	}
	for h, d := range f.desired {
		if v.spec.Rollback != "" && d.Told[v.spec.Variable].Rollout == v.spec.Rollback && !f.damaged[h] && !f.pinned(h, v.spec.Variable) {
			f.fail("%v completes and %s, %v, was not taken back", v, h, f.presence[h])
		}
	}
}
