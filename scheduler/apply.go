package scheduler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// write makes a planned change.
type write func(ctx context.Context) error

// application is one request to make documents true, as it is planned.
type application struct {
	s         *scheduler
	by        rollout.ID
	now       time.Time
	variables map[rollout.Name]*rollout.Variable // of this request, as they will be
	starting  map[rollout.Name]rollout.ID        // rollouts of this request that are created
	named     []rollout.ID                       // objectives of this request
}

// with is what a rollout's document of this request may name.
func (a *application) with(spec rollout.Spec) rollout.With {
	return rollout.With{Variable: a.variables[spec.Variable], Rollouts: slices.Collect(maps.Values(a.starting)), Objectives: a.named}
}

// applyDocuments makes documents true. All are checked before the first is
// written.
func (s *scheduler) applyDocuments(ctx context.Context, q control.ApplyRequest, by rollout.ID, now time.Time) (any, error) {
	a := &application{s: s, by: by, now: now, variables: map[rollout.Name]*rollout.Variable{}, starting: map[rollout.Name]rollout.ID{}}
	out := control.ApplyResponse{DryRun: q.DryRun, Results: make([]control.ApplyResult, len(q.Documents))}
	var writes []write
	var faults []error
	seen := map[string]bool{}
	for _, i := range order(q.Documents) {
		d := q.Documents[i]
		result := &out.Results[i]
		result.Kind, result.Name = d.Kind(), d.Name()
		key := result.Kind + " " + result.Name
		write, err := a.plan(d, result)
		if seen[key] {
			err = fmt.Errorf("%s stands among these documents twice", key)
		}
		seen[key] = true
		switch {
		case err != nil:
			faults = append(faults, control.DocumentError(i, err))
		case result.Action != unchanged:
			writes = append(writes, write)
		}
	}
	if err := errors.Join(faults...); err != nil || q.DryRun {
		return out, err
	}
	for i, write := range writes {
		if err := again(func() error { return write(ctx) }); err != nil {
			if i > 0 {
				return nil, control.Errorf(control.Failed, "%d of %d changes are written, then: %v; apply the file again to go on", i, len(writes), err)
			}
			return nil, err
		}
	}
	return out, nil
}

// The actions of a result.
const (
	created   = "created"
	changed   = "changed"
	unchanged = "unchanged"
)

// order gives the documents' indices in the order in which they are written:
// variables and objectives, which others name, then blackouts and pins, which
// hold, then rollouts, each after the one that it waits for.
func order(documents []control.Document) []int {
	var out, rollouts []int
	for _, kind := range []string{control.KindVariable, control.KindObjective, control.KindBlackout, control.KindPin, ""} {
		for i, d := range documents {
			if d.Kind() == kind {
				out = append(out, i)
			}
		}
	}
	waiting := map[rollout.ID]bool{}
	for i, d := range documents {
		if d.Rollout != nil {
			rollouts, waiting[d.Rollout.Name] = append(rollouts, i), true
		}
	}
	for len(rollouts) > 0 {
		next := max(0, slices.IndexFunc(rollouts, func(i int) bool { return !waiting[documents[i].Rollout.After] })) // 0: they wait for each other
		out = append(out, rollouts[next])
		delete(waiting, documents[rollouts[next]].Rollout.Name)
		rollouts = slices.Delete(rollouts, next, next+1)
	}
	return out
}

// plan checks one document and says what writing it would do.
func (a *application) plan(d control.Document, result *control.ApplyResult) (write, error) {
	switch {
	case d.Variable != nil:
		return a.variable(*d.Variable, result)
	case d.Objective != nil:
		return a.objective(*d.Objective, result)
	case d.Blackout != nil:
		return a.blackout(*d.Blackout, result)
	case d.Pin != nil:
		return a.pin(*d.Pin, result)
	case d.Rollout != nil:
		return a.rollout(*d.Rollout, result)
	}
	return nil, control.Errorf(control.Usage, "an empty document")
}

// compare says how a document differs from the one that is there; from is nil
// where there is none. One whose record was changed by hand is written anew.
func (a *application) compare(result *control.ApplyResult, kind subjects.Kind, from, to any) (err error) {
	result.Action = created
	if from != nil {
		result.Action = changed
	}
	if result.Changes, err = difference(from, to); err != nil {
		return err
	}
	if _, damaged := a.s.problems[kind.Key(result.Name)]; from != nil && len(result.Changes) == 0 && !damaged {
		result.Action = unchanged
	}
	return nil
}

// variable compares the document with the variable as it stands.
func (a *application) variable(v rollout.Variable, result *control.ApplyResult) (write, error) {
	s := a.s
	if !v.Value.IsZero() {
		return nil, &rollout.FieldError{Field: "value", Problem: "is moved by rollouts alone: leave it out"}
	}
	if err := v.Validate(); err != nil {
		return nil, err
	}
	document := v
	var from any
	if old, _ := s.snap.Variable(v.Name); old != nil { // nil where there is none
		was := *old
		was.Value = rollout.Value{}
		from, v.Value = was, old.Value
		if err := a.accepts(&v, old); err != nil {
			return nil, err
		}
	} else if v.Value = v.Initial; !v.Initial.IsZero() {
		result.Note = fmt.Sprintf("hosts that run %s already are told so; all others keep what they run", v.Initial)
	}
	a.variables[v.Name] = &v
	if err := a.compare(result, subjects.KindVariable, from, document); err != nil {
		return nil, err
	}
	if result.Action == changed && slices.ContainsFunc(result.Changes, func(c control.FieldChange) bool { return c.Field == "initial" }) {
		result.Note = "a later initial changes nothing on any host: rollouts do"
	}
	return a.record(subjects.KindVariable, result, &v, ""), nil
}

// accepts says whether a variable that is there still takes all values that are
// in use.
func (a *application) accepts(v, old *rollout.Variable) error {
	if v.Type != old.Type {
		return &rollout.FieldError{Field: "type", Problem: fmt.Sprintf("is %s already, and values in use have it: delete the variable first", old.Type)}
	}
	if !v.Value.IsZero() {
		if err := v.Accept(v.Value); err != nil {
			return fmt.Errorf("%w: the variable's value now is %s: %w", rollout.ErrRefused, v.Value, err)
		}
	}
	for id, to := range a.s.snap.Movers(v.Name) {
		if to.IsZero() {
			continue // it removes it, or takes it back
		}
		if err := v.Accept(to); err != nil {
			return fmt.Errorf("%w: %s moves hosts to %s: %w", rollout.ErrRefused, id, to, err)
		}
	}
	for _, p := range a.s.snap.Pins() {
		if w, ok := p.Values[v.Name]; ok {
			if err := v.Accept(w); err != nil {
				return fmt.Errorf("%w: %s is pinned to %s: %w", rollout.ErrRefused, p.Host, w, err)
			}
		}
	}
	return nil
}

// record gives the function that writes a document's record. Its reason is what
// the document says and what it changes.
func (a *application) record(kind subjects.Kind, result *control.ApplyResult, v any, why string) write {
	return func(ctx context.Context) error {
		reason := rollout.Reason{Code: rollout.ByOperator, Detail: why}
		if result.Action == changed {
			reason.Detail = both(sentence(result.Changes), why)
		}
		m, err := a.s.record(kind, result.Name, v, reason, a.by, a.now)
		if err == nil {
			err = a.s.write(ctx, a.now, m)
		}
		if err == nil {
			a.s.log.Info("document applied", "key", kind.Key(result.Name), "by", a.by, "why", reason.Detail)
		}
		return err
	}
}

// both joins what was done and what a person says of it.
func both(what, why string) string {
	if what == "" || why == "" {
		return what + why
	}
	return what + ": " + why
}

func (a *application) blackout(b rollout.Blackout, result *control.ApplyResult) (write, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	var from any
	if old := a.s.blackout(b.Name); old != nil {
		from = old
	}
	if err := a.compare(result, subjects.KindBlackout, from, b); err != nil {
		return nil, err
	}
	if !b.Until.IsZero() && b.Until.Before(a.now) {
		result.Note = "its time has passed: it holds nothing"
	}
	return a.record(subjects.KindBlackout, result, &b, b.Why), nil
}

func (a *application) pin(p rollout.Pin, result *control.ApplyResult) (write, error) {
	if p.By != "" {
		return nil, &rollout.FieldError{Field: "by", Problem: "is who applies the document: leave it out"}
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	var from any
	if old := a.s.pin(p.Host); old != nil {
		was := *old
		was.By = ""
		from = was
	}
	if err := a.compare(result, subjects.KindPin, from, p); err != nil || result.Action == unchanged {
		return nil, err
	}
	if from == nil && !p.Until.IsZero() && !p.Until.After(a.now) {
		result.Action, result.Changes, result.Note = unchanged, nil, "its time has passed: nothing is pinned"
		return nil, nil
	}
	if err := a.s.admitPin(&p, a.variables, a.now); err != nil {
		return nil, err
	}
	p.By = a.by
	return a.record(subjects.KindPin, result, &p, p.Why), nil
}

// rollout checks a rollout's document against the variables as they will be.
func (a *application) rollout(spec rollout.Spec, result *control.ApplyResult) (write, error) {
	s := a.s
	if err := notRollback(spec); err != nil {
		return nil, err
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	st, err := s.snap.Status(spec.Name, a.now)
	if err != nil {
		return a.creation(spec, result)
	}
	same, err := equal(spec, st.Record.Spec)
	if err != nil {
		return nil, err
	}
	if same {
		result.Action, result.Note = unchanged, "it is "+string(st.Record.State)
		if s := st.Record.State; s == rollout.StateCancelled || s == rollout.StateSuperseded {
			result.Note += ", and an id is never used again: another name starts it anew"
		}
		return nil, nil
	}
	result.Action = changed
	if result.Changes, err = difference(st.Record.Spec, spec); err != nil {
		return nil, err
	}
	with := a.with(spec)
	if _, err := s.snap.Change(spec, with, a.by, a.now); err != nil {
		return nil, err
	}
	p, err := s.snap.PlanChanged(spec, rollout.PlanOptions{With: with}, a.now)
	if err != nil {
		return nil, err
	}
	result.Plan = change(p)
	if before, err := s.snap.Plan(spec.Name, rollout.PlanOptions{}, a.now); err == nil {
		result.Plan.EndsBefore, result.Plan.TargetBefore = before.Ends, before.Target
	}
	return func(ctx context.Context) error {
		now := time.Now()
		step, err := s.snap.Change(spec, with, a.by, now)
		if err != nil {
			return err
		}
		return s.commitAs(ctx, step, account{a.by, sentence(result.Changes)}, now)
	}, nil
}

func (a *application) creation(spec rollout.Spec, result *control.ApplyResult) (write, error) {
	s := a.s
	result.Action = created
	if other, ok := a.starting[spec.Variable]; ok {
		return nil, control.Errorf(control.Refused, "%s of these documents moves %s too: one live rollout a variable", other, spec.Variable)
	}
	with := a.with(spec)
	err := s.snap.Admit(spec, with)
	if err != nil {
		return nil, err
	}
	a.starting[spec.Variable] = spec.Name
	if result.Changes, err = difference(nil, spec); err != nil {
		return nil, err
	}
	p, err := s.snap.PlanSpec(spec, s.leader.Seed, rollout.PlanOptions{With: with}, a.now)
	if err != nil {
		return nil, err
	}
	result.Plan = change(p)
	return func(ctx context.Context) error { return s.create(ctx, spec, a.by, time.Now()) }, nil
}

// change is a plan in short.
func change(p rollout.Plan) *control.PlanChange {
	return &control.PlanChange{Ends: p.Ends, Target: p.Target, Told: p.Told}
}

// notRollback refuses what only the rollback verb makes.
func notRollback(spec rollout.Spec) error {
	if spec.Rollback == "" {
		return nil
	}
	return &rollout.FieldError{Field: "rollback", Problem: fmt.Sprintf("isn't for documents: use tsunamictl rollout rollback %s", spec.Rollback)}
}

func equal(a, b any) (bool, error) {
	x, err := subjects.Encode(a)
	if err != nil {
		return false, err
	}
	y, err := subjects.Encode(b)
	return bytes.Equal(x, y), err
}
