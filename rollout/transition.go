package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Errors of requests. Their texts say what would be right; match them with
// errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrRefused  = errors.New("refused")
)

func refusef(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

func (r *Record) become(s State, by ID, why string, now time.Time) {
	r.State, r.By, r.Why, r.Changed = s, by, why, now.UTC()
}

// run starts the ramp's clock for the first time.
func (r *Record) run(now time.Time, theta map[string]float64) {
	r.Theta = theta
	r.become(StateRunning, r.Author, "started", now)
}

func (r *Record) freeze(by ID, a Abort, now time.Time) {
	r.Abort = a.Sequence
	r.Advanced = 0 // it goes on from where it stands
	if r.Clock.IsZero() {
		r.Baked = false // the canary bakes anew
	}
	r.become(StateFrozen, by, a.Why, now)
}

func (r *Record) complete(now time.Time) {
	r.become(StateCompleted, Scheduler, "every target is told and confirmed", now)
}

// Create makes the step that starts a rollout. It returns *FieldError, joined,
// for a document that is wrong, and an error wrapping ErrRefused for one that
// is right but can't be started now.
func (s *Snapshot) Create(spec Spec, author ID, seed string, now time.Time) (Step, error) {
	if spec.Rollback != "" {
		return Step{}, field.Errorf("rollback", "isn't for documents: tsunamictl rollout rollback %s", spec.Rollback)
	}
	if err := s.Admit(spec, With{}); err != nil {
		return Step{}, err
	}
	step := Step{Rollout: spec.Name, Progress: &Progress{Led: s.Led(now), At: now.UTC(), CaughtUp: -1}}
	if live := s.liveOf(spec.Variable); live != nil {
		old := *live.record
		old.become(StateSuperseded, author, "superseded by "+string(spec.Name), now)
		step.Records = append(step.Records, RecordChange{live.id, old})
	}
	r := Record{Spec: spec, Author: author, Created: s.created(now), Salt: Salt(seed, spec.Name)}
	if v := s.variables[spec.Variable]; v != nil {
		r.From = v.Value
	}
	r.become(StatePending, author, "created", now)
	step.Records = append(step.Records, RecordChange{spec.Name, r})
	return step, nil
}

// With is what is written before a rollout's document, by the same request: it
// may name that.
type With struct {
	Variable   *Variable // the rollout's, as it will be; nil: as it is
	Rollouts   []ID
	Objectives []ID
}

// Admit says whether the rollout could be created.
func (s *Snapshot) Admit(spec Spec, with With) error {
	if err := s.check(spec, with); err != nil {
		return err
	}
	if s.cohorts[spec.Name] != nil {
		return refusef("there is a rollout %s already, and an id is never used again: choose another name", spec.Name)
	}
	if a := s.aborts[spec.Name]; a.Sequence > 0 {
		return refusef("abort.%s exists already (sequence %d): choose another name", spec.Name, a.Sequence)
	}
	live := s.liveOf(spec.Variable)
	for _, c := range s.ordered {
		if c.rollback() && c.record.State.Live() && c.record.Spec.Variable == spec.Variable {
			return refusef("%s is taking hosts of %s back: wait for it, or cancel it", c.id, spec.Variable)
		}
	}
	switch {
	case live == nil && spec.Supersedes != "":
		return refusef("%s isn't a live rollout of %s: leave supersedes out", spec.Supersedes, spec.Variable)
	case live != nil && spec.Supersedes != live.id:
		return refusef("%s of %s is %s: cancel it, or start this one with supersedes: %s", live.id, spec.Variable, live.record.State, live.id)
	}
	return nil
}

// created is when a rollout counts as created: now, but after every other, so
// that the newest is the newest whatever the schedulers' clocks say.
func (s *Snapshot) created(now time.Time) time.Time {
	if n := len(s.ordered); n > 0 {
		if last := s.ordered[n-1].record.Created; !now.After(last) {
			now = last.Add(1)
		}
	}
	return now.UTC()
}

// check says whether the document is right in itself, for its variable, and in
// whom it names.
func (s *Snapshot) check(spec Spec, with With) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if err := spec.Fits(cmp.Or(with.Variable, s.variables[spec.Variable])); err != nil {
		return err
	}
	if spec.Rollback != "" && s.cohorts[spec.Rollback] == nil {
		return field.Errorf("rollback", "there is no rollout %s", spec.Rollback)
	}
	if spec.After != "" && s.cohorts[spec.After] == nil && !slices.Contains(with.Rollouts, spec.After) {
		return field.Errorf("after", "there is no rollout %s", spec.After)
	}
	for i, name := range spec.objectives() {
		if _, ok := s.objectives[name]; !ok && !slices.Contains(with.Objectives, name) {
			return field.Errorf(fmt.Sprintf("guard.objectives[%d]", i), "there is no objective %s: apply its document first", name)
		}
	}
	return nil
}

func (s *Snapshot) liveOf(variable Name) *cohort {
	for _, c := range s.ordered {
		if c.record.Spec.Variable == variable && c.record.State.Live() {
			return c
		}
	}
	return nil
}

func (s *Snapshot) find(id ID) (*cohort, error) {
	if c := s.cohorts[id]; c != nil {
		return c, nil
	}
	return nil, notFound("rollout", string(id))
}

// Pause makes the step running → paused.
func (s *Snapshot) Pause(id, by ID, why string, now time.Time) (Step, error) {
	c, err := s.find(id)
	if err != nil {
		return Step{}, err
	}
	if c.record.State != StateRunning {
		return Step{}, refusef("%s is %s: only a running rollout can be paused", id, c.record.State)
	}
	if a := s.aborts[id]; a.Sequence > c.record.Acknowledged {
		return Step{}, refusef("%s is being frozen by abort %d (%s)", id, a.Sequence, a.Why)
	}
	r := *c.record
	r.become(StatePaused, by, why, now)
	return s.transition(c, r, now, Reason{Code: Paused, Detail: why}, r.Acknowledged), nil
}

// Resume makes the step paused → running, or frozen → running: the latter
// needs the sequence of the newest revision of abort.<id>, which the operator
// thereby acknowledges. For a completed rollout that was aborted as a layer it
// acknowledges the abort.
func (s *Snapshot) Resume(id, by ID, why string, acknowledge uint64, now time.Time) (Step, error) {
	c, err := s.find(id)
	if err != nil {
		return Step{}, err
	}
	newest := s.aborts[id]
	aborted := newest.Sequence > c.record.Acknowledged
	if back := s.rolledBack(c); back != nil {
		if back.record.State.Live() {
			return Step{}, refusef("%s is taking back what %s told: cancel it first", back.id, id)
		}
		return Step{}, refusef("%s has taken back what %s told: start another rollout, with supersedes: %s", back.id, id, id)
	}
	switch {
	case c.record.State != StatePaused && c.record.State != StateFrozen && (c.record.State != StateCompleted || !aborted):
		return Step{}, refusef("%s is %s: only a paused or frozen rollout can be resumed", id, c.record.State)
	case c.record.State == StateCompleted && !c.active:
		return Step{}, refusef("%s has ended", id)
	case aborted && acknowledge == 0:
		return Step{}, refusef("%s is frozen by abort %d (%s): resume it with --acknowledge %d", id, newest.Sequence, newest.Why, newest.Sequence)
	case acknowledge != 0 && acknowledge != newest.Sequence:
		return Step{}, refusef("the newest abort of %s has sequence %d (%s), not %d: read it, then acknowledge it", id, newest.Sequence, newest.Why, acknowledge)
	}
	r := *c.record
	r.Acknowledged = newest.Sequence
	if r.State != StateCompleted {
		to := StateRunning
		if r.Theta == nil {
			to = StatePending // it was frozen before its start
		}
		r.become(to, by, why, now)
	}
	return s.transition(c, r, now, Reason{}, newest.Sequence), nil
}

// Cancel makes the step from any live state to cancelled. Hosts keep what they
// were told.
func (s *Snapshot) Cancel(id, by ID, why string, now time.Time) (Step, error) {
	c, err := s.find(id)
	if err != nil {
		return Step{}, err
	}
	if !c.record.State.Live() {
		return Step{}, refusef("%s is %s: it has ended", id, c.record.State)
	}
	r := *c.record
	r.become(StateCancelled, by, why, now)
	return s.transition(c, r, now, Reason{Code: Ended}, s.aborts[id].Sequence), nil
}

func notFound(kind, name string) error { return fmt.Errorf("%s %s: %w", kind, name, ErrNotFound) }

// Retire ends the layers of a variable that is being deleted, those beneath the
// newest too: they would cover the fleet again.
func (s *Snapshot) Retire(variable Name, by ID, now time.Time) []RecordChange {
	var out []RecordChange
	for _, c := range s.ordered {
		if c.record.State == StateCompleted && c.record.Spec.Variable == variable {
			r := *c.record
			r.become(StateCancelled, by, "its variable was deleted", now)
			out = append(out, RecordChange{c.id, r})
		}
	}
	return out
}

// Restore makes the step that puts a rollout's record back after it was
// overwritten or deleted by hand. Somebody may have meant to stop it, so one
// that is running, or would start by itself, is paused.
func (s *Snapshot) Restore(id ID, now time.Time) (Step, error) {
	c, err := s.find(id)
	if err != nil {
		return Step{}, err
	}
	r := *c.record
	hold := c.progress.Hold
	if r.State == StateRunning || r.State == StatePending {
		why := "its record was overwritten or deleted by hand; it was put back and the rollout paused"
		r.become(StatePaused, Scheduler, why, now)
		hold = Reason{Code: Paused, Detail: why}
	}
	return s.transition(c, r, now, hold, s.aborts[id].Sequence), nil
}
