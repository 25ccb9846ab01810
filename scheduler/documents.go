package scheduler

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// get gives the documents of a kind as they may be applied again. A rollback
// is nobody's document: it is given by its name alone.
func (s *scheduler) get(q control.GetRequest) (any, error) {
	out := control.GetResponse{Documents: []control.Document{}}
	add := func(d control.Document) {
		if q.Name == "" || q.Name == d.Name() {
			out.Documents = append(out.Documents, d)
		}
	}
	switch {
	case strings.EqualFold(q.Kind, control.KindVariable):
		for _, v := range s.snap.Variables() {
			w := *v
			w.Value = rollout.Value{}
			add(control.Document{Variable: &w})
		}
	case strings.EqualFold(q.Kind, control.KindRollout):
		for _, id := range s.snap.Rollouts() {
			st, err := s.snap.Status(id, time.Now())
			if err != nil {
				return nil, err
			}
			if q.Name != "" || st.Record.Spec.Rollback == "" {
				add(control.Document{Rollout: &st.Record.Spec})
			}
		}
	case strings.EqualFold(q.Kind, control.KindObjective):
		for _, o := range s.sortedObjectives() {
			add(control.Document{Objective: o})
		}
	case strings.EqualFold(q.Kind, control.KindBlackout):
		for _, b := range s.snap.Blackouts() {
			add(control.Document{Blackout: b})
		}
	case strings.EqualFold(q.Kind, control.KindPin):
		for _, p := range s.snap.Pins() {
			w := *p
			w.By = ""
			add(control.Document{Pin: &w})
		}
	default:
		return nil, control.Errorf(control.Usage, "%q isn't a kind: want %s", q.Kind, control.Kinds())
	}
	if q.Name != "" && len(out.Documents) == 0 {
		return nil, fmt.Errorf("%s %s: %w", strings.ToLower(q.Kind), q.Name, rollout.ErrNotFound)
	}
	return out, nil
}

// deleteDocument ends what a document made.
func (s *scheduler) deleteDocument(ctx context.Context, q control.DeleteRequest, by rollout.ID, now time.Time) (any, error) {
	reason := rollout.Reason{Code: rollout.ByOperator, Detail: "deleted"}
	kind, key := control.KindVariable, subjects.KindVariable
	var layers []rollout.RecordChange // which end with it
	switch {
	case strings.EqualFold(q.Kind, control.KindVariable):
		name, err := rollout.ParseName(q.Name)
		if err != nil {
			return nil, control.Errorf(control.Usage, "%v", err)
		}
		if err := s.disused(name); err != nil {
			return nil, err
		}
		layers = s.snap.Retire(name, by, now)
	case strings.EqualFold(q.Kind, control.KindObjective):
		kind, key = control.KindObjective, subjects.KindObjective
		if err := s.unnamed(rollout.ID(q.Name)); err != nil {
			return nil, err
		}
	case strings.EqualFold(q.Kind, control.KindBlackout):
		kind, key = control.KindBlackout, subjects.KindBlackout
		if s.blackout(rollout.ID(q.Name)) == nil {
			return nil, fmt.Errorf("blackout %s: %w", q.Name, rollout.ErrNotFound)
		}
	case strings.EqualFold(q.Kind, control.KindPin):
		kind, key = control.KindPin, subjects.KindPin
		if s.pin(rollout.Host(q.Name)) == nil {
			return nil, fmt.Errorf("pin of %s: %w", q.Name, rollout.ErrNotFound)
		}
	case strings.EqualFold(q.Kind, control.KindRollout):
		return nil, control.Errorf(control.Refused, "a rollout isn't deleted: it is cancelled, and its record stays")
	default:
		return nil, control.Errorf(control.Usage, "%q isn't a kind: want %s", q.Kind, control.Kinds())
	}
	m, err := s.end(key, q.Name, reason, by, now)
	if err != nil {
		return nil, err
	}
	rest, err := s.encode(rollout.Step{Records: layers}, account{}, now)
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, now, append(rest, m)...); err != nil {
		return nil, err
	}
	s.log.Info("document deleted", "key", key.Key(q.Name), "by", by)
	return control.DeleteResponse{Kind: kind, Name: q.Name}, nil
}

// disused says why a variable can't be deleted.
func (s *scheduler) disused(name rollout.Name) error {
	if _, err := s.snap.Variable(name); err != nil {
		return err
	}
	if id := s.snap.LiveRollout(name); id != "" {
		return control.Errorf(control.Refused, "rollout %s is moving %s: cancel it first", id, name)
	}
	for _, p := range s.snap.Pins() {
		if _, ok := p.Values[name]; ok {
			return control.Errorf(control.Refused, "%s is pinned on %s: unpin it first", name, p.Host)
		}
	}
	if n := s.snap.Carriers(name); n > 0 {
		return control.Errorf(control.Refused, "%d hosts carry %s: take it out of their documents first, with tsunamictl rollout start %s --remove", n, name, name)
	}
	return nil
}
