package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// SloGuard is the actor of the guard's aborts.
const SloGuard ID = "sloguard"

// Guard says which objectives are watched while a rollout changes hosts, and
// what follows from a breach.
type Guard struct {
	Objectives []ID     `json:"objectives"`
	OnBreach   OnBreach `json:"onBreach,omitempty"` // default freeze
}

// OnBreach is what follows from a breach.
type OnBreach string

// What follows from a breach.
const (
	BreachFreezes   OnBreach = "freeze"
	BreachRollsBack OnBreach = "rollback" // it freezes, and then takes the hosts back
)

// maxObjectives bounds what the guard weighs for one rollout.
const maxObjectives = 20

func (g *Guard) validate(add func(path, format string, args ...any)) {
	if n := len(g.Objectives); n == 0 || n > maxObjectives {
		add("guard.objectives", "%d objectives: want 1 to %d", n, maxObjectives)
	}
	for i, id := range g.Objectives {
		at := fmt.Sprintf("guard.objectives[%d]", i)
		if _, err := ParseID("objective", string(id)); err != nil {
			add(at, "%v", err)
		} else if slices.Contains(g.Objectives[:i], id) {
			add(at, "%s stands there twice", id)
		}
	}
	switch g.OnBreach {
	case "", BreachFreezes, BreachRollsBack:
	default:
		add("guard.onBreach", "%q isn't allowed: want freeze or rollback", field.Shorten(string(g.OnBreach)))
	}
}

// objectives are those that the document names.
func (s *Spec) objectives() []ID {
	if s.Guard == nil {
		return nil
	}
	return s.Guard.Objectives
}

// Clearance is what the guard says of a rollout that names objectives.
type Clearance struct {
	// Until is until when the evidence is fresh enough to go on, by the clock that
	// the caller's times come from: not by the guard's.
	Until time.Time
	Why   string // it isn't; "" where the guard said that it is, or nothing
}

// PutClearances sets what the guard says now, of each rollout. It has nothing
// to say of those that are missing.
func (s *Snapshot) PutClearances(of map[ID]Clearance) { s.clearances = of }

// PutObjective sets for how long after its last tell a rollout that names the
// objective is watched before it can have completed; or, with ok false, that
// there is no such objective.
func (s *Snapshot) PutObjective(name ID, window time.Duration, ok bool) {
	if !ok {
		delete(s.objectives, name)
		return
	}
	s.objectives[name] = window
}

// Watched lists the rollouts that name the objective and may still tell hosts:
// live ones and layers, by age.
func (s *Snapshot) Watched(objective ID) []ID {
	var out []ID
	for _, c := range s.ordered {
		if c.active && slices.Contains(c.record.Spec.objectives(), objective) {
			out = append(out, c.id)
		}
	}
	return out
}

// Unclear is why the evidence doesn't let a rollout tell anybody; zero where it
// does, or where nobody waits for it.
func (s *Snapshot) Unclear(id ID, now time.Time) Reason {
	if c := s.cohorts[id]; c != nil {
		return s.unclear(c, now)
	}
	return Reason{}
}

// guarded says whether the rollout waits for evidence. Nobody waits for a
// rollback's.
func (c *cohort) guarded() bool { return c.record.Spec.Guard != nil && !c.rollback() }

// unclear is why the evidence doesn't let the rollout tell anybody.
func (s *Snapshot) unclear(c *cohort, now time.Time) Reason {
	if !c.guarded() {
		return Reason{}
	}
	for _, name := range c.record.Spec.objectives() {
		if _, ok := s.objectives[name]; !ok {
			return Reason{Code: NoFreshEvidence, Detail: fmt.Sprintf("there is no objective %s that this scheduler can read", name)}
		}
	}
	said := s.clearances[c.id]
	switch {
	case said.Until.After(now):
		return Reason{}
	case said.Why != "":
		return Reason{Code: NoFreshEvidence, Detail: said.Why}
	}
	return Reason{Code: NoFreshEvidence, Detail: "the guard says nothing: is sloguard running?"}
}

// watchedUntil is until when the rollout can't have completed: for the longest
// window of its objectives after its last tell.
func (s *Snapshot) watchedUntil(c *cohort) time.Time {
	last := c.progress.Last
	if !c.guarded() || last.IsZero() {
		return time.Time{}
	}
	longest := time.Duration(0)
	for _, name := range c.record.Spec.objectives() {
		longest = max(longest, s.objectives[name])
	}
	return last.Add(longest)
}

// retreat is the step that takes the hosts of a rollout back which the guard
// has frozen, where its document wants that. It happens once: where somebody
// cancelled the rollback, an operator has taken over.
func (s *Snapshot) retreat(now time.Time) []Step {
	if s.held().Code != "" {
		return nil
	}
	for _, c := range s.ordered {
		g, a := c.record.Spec.Guard, s.aborts[c.id]
		switch {
		case c.record.State != StateFrozen || c.unfit || g == nil || g.OnBreach != BreachRollsBack:
		case a.Actor != string(SloGuard):
		case c.progress.Last.IsZero(): // nobody was told anything
		case slices.ContainsFunc(s.ordered, func(o *cohort) bool { return o.record.Spec.Rollback == c.id }):
		default:
			// Its own salt is as random as the fleet's seed, which isn't a fact.
			if step, err := s.Rollback(c.id, Value{}, 0, Scheduler, fmt.Sprintf("abort %d: %s", a.Sequence, a.Why), c.record.Salt, now); err == nil {
				return []Step{step}
			}
		}
	}
	return nil
}
