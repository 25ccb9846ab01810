package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func (s *scheduler) applyObjective(ctx context.Context, name string, m bus.Msg) error {
	id, err := rollout.ParseID("objective", name)
	if err != nil {
		return fmt.Errorf("put by hand: %w", err)
	}
	check := func(o *slo.Objective) error { return cmp.Or(mismatch(o.Name, id), invalid(o.Validate())) }
	return applyDocument(ctx, s, m, s.objectives[id] != nil, check, func(o *slo.Objective) error {
		if o == nil {
			delete(s.objectives, id)
			s.snap.PutObjective(id, 0, false)
			return nil
		}
		s.objectives[id] = o
		s.snap.PutObjective(id, o.Window(), true)
		return nil
	})
}

// objective compares the document with the objective as it stands.
func (a *application) objective(o slo.Objective, result *control.ApplyResult) (write, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	a.named = append(a.named, o.Name)
	var from any
	if old := a.s.objectives[o.Name]; old != nil {
		from = old
	}
	if err := a.compare(result, subjects.KindObjective, from, o); err != nil {
		return nil, err
	}
	if ids := a.s.snap.Watched(o.Name); result.Action == changed && len(ids) > 0 {
		result.Note = fmt.Sprintf("%s: judged by it as it was when created, or resumed after an abort", list(ids))
	}
	return a.record(subjects.KindObjective, result, &o, ""), nil
}

// unnamed says why an objective can't be deleted.
func (s *scheduler) unnamed(name rollout.ID) error {
	if s.objectives[name] == nil {
		return fmt.Errorf("objective %s: %w", name, rollout.ErrNotFound)
	}
	if ids := s.snap.Watched(name); len(ids) > 0 {
		return control.Errorf(control.Refused, "objective %s is named by rollouts that may still tell hosts: %s", name, list(ids))
	}
	return nil
}

// sortedObjectives are the objectives by name.
func (s *scheduler) sortedObjectives() []*slo.Objective {
	return slices.SortedFunc(maps.Values(s.objectives), func(a, b *slo.Objective) int { return cmp.Compare(a.Name, b.Name) })
}

func (s *scheduler) objectiveViews() []control.ObjectiveView {
	out := []control.ObjectiveView{}
	for _, o := range s.sortedObjectives() {
		out = append(out, control.ObjectiveView{Objective: *o, Rollouts: s.snap.Watched(o.Name)})
	}
	return out
}
