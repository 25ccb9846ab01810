package rollout

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// approvals counts those for a wave, from 1, or, with 0, for the start.
func (r *Record) approvals(wave int) int {
	n := 0
	for _, a := range r.Approvals {
		if a.Wave == wave {
			n++
		}
	}
	return n
}

// Needed counts the approvals that the rollout waits for, or will wait for.
func (r *Record) Needed() int {
	n := 0
	if r.Theta == nil {
		n = max(0, r.Spec.Approvals-r.approvals(0))
	}
	for i, w := range r.Spec.Ramp.Waves {
		if w.Approval && r.approvals(i+1) == 0 {
			n++
		}
	}
	return n
}

// Approve makes the step that adds an operator's approval: for the start, or
// else for the first wave that still needs one.
func (s *Snapshot) Approve(id, by ID, why string, now time.Time) (Step, error) {
	c, err := s.find(id)
	if err != nil {
		return Step{}, err
	}
	r := *c.record
	a := Approval{By: by, Time: now.UTC(), Why: why}
	if started := r.Theta != nil; started || r.approvals(0) >= r.Spec.Approvals {
		wave, _, ok := c.curve().gate(r.Approvals)
		if !ok {
			return Step{}, refusef("%s waits for no approval", id)
		}
		a.Wave = wave + 1
	}
	switch {
	case !r.State.Live():
		return Step{}, refusef("%s is %s: it has ended", id, r.State)
	case r.Spec.Approvals > 0 && by == r.Author:
		return Step{}, refusef("%s started %s: somebody else has to approve it", by, id)
	case slices.ContainsFunc(r.Approvals, func(o Approval) bool { return o.By == by && o.Wave == a.Wave }):
		return Step{}, refusef("%s has approved this already: it takes another operator", by)
	}
	r.Approvals = append(slices.Clip(r.Approvals), a)
	return s.steer(c, r), nil
}

// Advance makes the step that lets a rollout go on faster than its ramp: to the
// share `to` of its target, inside all its limits; or, with 0, past the
// canary's bake or to the next wave.
func (s *Snapshot) Advance(id, by ID, to Percent, why string, now time.Time) (Step, error) {
	c, err := s.find(id)
	if err != nil {
		return Step{}, err
	}
	r := *c.record
	if r.State != StateRunning && r.State != StatePaused && r.State != StateFrozen {
		return Step{}, refusef("%s is %s: only one that has started and hasn't ended can be advanced", id, r.State)
	}
	clock, k := s.elapsed(c, now), c.curve()
	share := max(k.share(clock), r.Advanced)
	switch {
	case to == 0 && r.Clock.IsZero() && r.Spec.Canary != nil && !r.Baked:
		r.Baked = true
	case r.Clock.IsZero():
		return Step{}, refusef("the ramp of %s hasn't started: advance it without a percentage to end the canary's bake", id)
	case to > 0 && float64(to)/100 <= share:
		return Step{}, refusef("%s is at %.4g%% already, and nothing goes back", id, 100*share)
	case to > 0:
		r.Advanced = float64(to) / 100
	case k.Shape == Waves:
		i := slices.IndexFunc(k.Waves, func(w Wave) bool { return float64(w.Percent)/100 > share })
		if i < 0 {
			return Step{}, refusef("%s is in its last wave", id)
		}
		r.Advanced = float64(k.Waves[i].Percent) / 100
	default:
		return Step{}, refusef("%s has no waves, and no canary that bakes: say to which percentage", id)
	}
	return s.steer(c, r), nil
}

// steer is the step that writes a record whose state stays. The progress stays
// too: what follows from the record is decided next.
func (s *Snapshot) steer(c *cohort, r Record) Step {
	p := c.progress
	return Step{Rollout: c.id, Abort: s.aborts[c.id].Sequence, Records: []RecordChange{{c.id, r}}, Progress: &p}
}

// Release makes the step that frees a host's place in flight: the rollout
// doesn't wait for it any more.
func (s *Snapshot) Release(id ID, name Host, by ID, why string, now time.Time) (Step, error) {
	c, err := s.find(id)
	if err != nil {
		return Step{}, err
	}
	if _, err := s.Host(name); err != nil {
		return Step{}, err
	}
	h, variable := s.hosts[name], c.record.Spec.Variable
	switch {
	case h.desired == nil || h.desired.Told[variable].Rollout != id:
		return Step{}, refusef("%s wasn't told by %s", name, id)
	case h.desired.Told[variable].Released:
		return Step{}, refusef("%s is released already", name)
	case h.confirms(variable, h.desired.Values[variable], h.desired.Told[variable]):
		return Step{}, refusef("%s has confirmed: it holds no place", name)
	case !h.fit():
		return Step{}, refusef("the document of %s is damaged", name)
	case s.held().Code != "":
		return Step{}, refusef("%s", s.held())
	}
	t := Tell{
		Host: name, Variable: variable, Actor: by, Desired: h.desired.next(h.nextGeneration()), Previous: h.desired.Values[variable],
		Reason: Reason{Code: ByRelease, Rollout: id, Detail: why},
	}
	told := t.Desired.Told[variable]
	told.Released = true
	t.Desired.Told[variable] = told
	return Step{Rollout: id, Abort: s.aborts[id].Sequence, Stop: s.stop.Sequence, Tells: []Tell{t}}, nil
}

// Rollback makes the step that starts a rollout which takes the hosts of another
// back: to what each had before, or to `to`; over a tenth of the time that the
// ramp has run, unless over says otherwise. A rollout that is running is paused by the
// same step; the layer of a completed one ends, and the variable's value is what
// it was. The step names the new rollout.
func (s *Snapshot) Rollback(id ID, to Value, over Duration, by ID, why, seed string, now time.Time) (Step, error) {
	c, err := s.find(id)
	if err != nil {
		return Step{}, err
	}
	v := s.variables[c.record.Spec.Variable]
	if err := s.canRollBack(c); err != nil {
		return Step{}, err
	}
	if over == 0 {
		over = Duration(max(time.Second, min(s.elapsed(c, now), c.length())/10))
	}
	spec := Spec{Name: s.rollbackName(id), Variable: c.record.Spec.Variable, To: to, Rollback: id, Ramp: Ramp{Over: over}, InFlight: c.record.Spec.InFlight}
	// The objectives that there still are judge it too; a breach freezes it.
	known := func(o ID) bool { _, ok := s.objectives[o]; return ok }
	if judges := slices.DeleteFunc(slices.Clone(c.record.Spec.objectives()), func(o ID) bool { return !known(o) }); len(judges) > 0 {
		spec.Guard = &Guard{Objectives: judges}
	}
	if err := s.check(spec, With{}); err != nil {
		return Step{}, err
	}
	r := Record{Spec: spec, Author: by, Created: s.created(now), Salt: Salt(seed, spec.Name), From: v.Value}
	r.become(StatePending, by, cmp.Or(why, "created"), now)
	step := Step{
		Rollout: spec.Name, Records: []RecordChange{{spec.Name, r}},
		Progress: &Progress{Led: s.Led(now), At: now.UTC(), CaughtUp: -1},
	}
	if c.record.State == StateRunning {
		old := *c.record
		old.become(StatePaused, by, "rolled back by "+string(spec.Name), now)
		step.Records = append([]RecordChange{{id, old}}, step.Records...)
	}
	if back := cmp.Or(to, c.record.From); c.record.State == StateCompleted && c.record.Spec.Covers() && v.Value == c.record.Spec.To && v.Value != back {
		w := *v
		w.Value = back
		step.Variable = &w
	}
	return step, nil
}

// canRollBack says why a rollout can't be rolled back.
func (s *Snapshot) canRollBack(c *cohort) error {
	if c.rollback() {
		return refusef("%s is a rollback itself: start a rollout to go forward again", c.id)
	}
	for _, o := range s.ordered {
		switch {
		case o.record.Spec.Variable != c.record.Spec.Variable || o == c:
		case o.record.Spec.Rollback == c.id && o.record.State.Live():
			return refusef("%s takes its hosts back already", o.id)
		case o.rollback() && o.record.State.Live():
			return refusef("%s is taking hosts back: wait for it, or cancel it", o.id)
		case !o.rollback() && o.newerThan(c) && o.record.State != StateCancelled:
			return refusef("%s is newer: only a variable's newest rollout can be rolled back", o.id)
		}
	}
	for _, h := range s.hosts {
		if h.desired != nil && h.desired.Told[c.record.Spec.Variable].Rollout == c.id {
			return nil
		}
	}
	if back := s.rolledBack(c); back != nil {
		return refusef("%s has taken its hosts back already", back.id)
	}
	return refusef("%s has told no host: there is nothing to take back", c.id)
}

// rollbackName makes an id that was never used: <id>-rollback, then
// <id>-rollback-2.
func (s *Snapshot) rollbackName(id ID) ID {
	base := string(id)
	if most := 63 - len("-rollback-99"); len(base) > most {
		base = strings.TrimRight(base[:most], "-")
	}
	name := ID(base + "-rollback")
	for n := 2; s.cohorts[name] != nil || s.aborts[name].Sequence > 0; n++ {
		name = ID(fmt.Sprintf("%s-rollback-%d", base, n))
	}
	return name
}

// rolledBack names the rollback of the rollout that wasn't cancelled, the
// newest; nil where there is none.
func (s *Snapshot) rolledBack(c *cohort) *cohort {
	for _, o := range slices.Backward(s.ordered) {
		if o.record.Spec.Rollback == c.id && o.record.State != StateCancelled {
			return o
		}
	}
	return nil
}

// Change makes the step that gives a rollout another document. One that hasn't
// started may change all but its name and variable; a later one its percent,
// duration, limits, settling, windows and exclusions. Told hosts stay told, and
// the ramp goes on at the share that it has reached.
func (s *Snapshot) Change(spec Spec, with With, by ID, now time.Time) (Step, error) {
	c, err := s.find(spec.Name)
	if err != nil {
		return Step{}, err
	}
	r, p, err := s.changed(c, spec, with, now)
	if err != nil {
		return Step{}, err
	}
	r.By = by
	if r.Theta == nil && differs(&c.record.Spec, &spec) != "" { // it is another document now, and theirs
		r.Author, r.Approvals = by, nil
	}
	return Step{Rollout: c.id, Abort: s.aborts[c.id].Sequence, Records: []RecordChange{{c.id, *r}}, Progress: &p}, nil
}

// changed is the record and the progress that a change would leave.
func (s *Snapshot) changed(c *cohort, spec Spec, with With, now time.Time) (*Record, Progress, error) {
	if err := s.check(spec, with); err != nil {
		return nil, Progress{}, err
	}
	old := &c.record.Spec
	if spec.Variable != old.Variable {
		return nil, Progress{}, field.Errorf("variable", "is %s, and stays: start another rollout for %s", old.Variable, spec.Variable)
	}
	if spec.Supersedes != old.Supersedes || spec.Rollback != old.Rollback {
		return nil, Progress{}, field.Errorf("supersedes", "was said when the rollout was created, and stays")
	}
	if !c.record.State.Live() {
		return nil, Progress{}, refusef("rollout %s is %s, with another document; an id is never used again: choose another name", c.id, c.record.State)
	}
	r := *c.record
	r.Spec = spec
	if spec.Approvals < old.Approvals {
		return nil, Progress{}, field.Errorf("approvals", "%d are fewer than the %d that were asked for: cancel it and start another", spec.Approvals, old.Approvals)
	}
	if r.Theta == nil {
		return &r, c.progress, nil
	}
	same := *old // but for what may change
	same.Ramp.Percent, same.Ramp.Over, same.Ramp.Preset = spec.Ramp.Percent, spec.Ramp.Over, spec.Ramp.Preset
	same.Limits, same.InFlight, same.Settle = spec.Limits, spec.InFlight, spec.Settle
	same.Windows, same.Exclude = spec.Windows, spec.Exclude
	if name := differs(&same, &spec); name != "" {
		return nil, Progress{}, field.Errorf(name, "can't change once the rollout has started: start another with supersedes: %s", c.id)
	}
	p := c.progress
	if r.Clock.IsZero() {
		return &r, p, nil
	}
	if spec.Ramp.Length() != old.Ramp.Length() || !reflect.DeepEqual(spec.Windows, old.Windows) {
		r.Length = openLength(&spec, r.Clock)
	}
	stretch := func(d time.Duration) time.Duration {
		if d <= 0 || r.Length == c.length() {
			return d
		}
		return time.Duration(float64(d) / float64(c.length()) * float64(r.Length))
	}
	clock := s.stand(c, now)
	p = s.progressed(c, now, stretch(clock), p.Running, p.Hold)
	p.CaughtUp = stretch(p.CaughtUp)
	return &r, p, nil
}

// differs names the first field in which two documents differ; "" if none.
func differs(a, b *Spec) string {
	x, y := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range x.NumField() {
		if !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return ""
}
