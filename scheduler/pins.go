package scheduler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// pinHost holds a variable of a host at a value, beside what is pinned there.
func (s *scheduler) pinHost(ctx context.Context, q control.PinRequest, by rollout.ID, now time.Time) (any, error) {
	h, err := s.snap.Host(q.Host)
	if err != nil {
		return nil, err
	}
	v, err := s.snap.Variable(q.Variable)
	if err != nil {
		return nil, err
	}
	value, err := typed(q.Value, q.ValueText, v, "value")
	if err != nil {
		return nil, err
	}
	if value.IsZero() && h.Desired != nil {
		value = h.Desired.Values[q.Variable]
	}
	if value.IsZero() {
		return nil, control.Errorf(control.Refused, "%s was told no %s: say at which value to pin it", q.Host, q.Variable)
	}
	p := rollout.Pin{Host: q.Host, Values: rollout.Document{}}
	if h.Pin != nil {
		p = *h.Pin
		p.Values = maps.Clone(p.Values)
	}
	p.Values[q.Variable], p.By = value, by
	if !q.Until.IsZero() {
		p.Until = q.Until.UTC()
	}
	if q.Why != "" {
		p.Why = q.Why
	}
	if err := s.admitPin(&p, nil, now); err != nil {
		return nil, err
	}
	reason := rollout.Reason{Code: rollout.ByOperator, Detail: both(fmt.Sprintf("pinned %s at %s", q.Variable, value), q.Why)}
	m, err := s.record(subjects.KindPin, string(q.Host), &p, reason, by, now)
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, now, m); err != nil {
		return nil, err
	}
	s.log.Info("host pinned", "host", q.Host, "by", by, "what", reason.Detail)
	view, err := s.hostView(q.Host)
	if s.snap.Stopped() {
		view.Problems = append(view.Problems, "everything is stopped: it is told when the stop is released")
	}
	return view, err
}

// unpinHost ends the pin of a variable on a host, or of all, and says what
// happens to it next.
func (s *scheduler) unpinHost(ctx context.Context, q control.PinRequest, by rollout.ID, now time.Time) (any, error) {
	h, err := s.snap.Host(q.Host)
	if err != nil {
		return nil, err
	}
	if h.Pin == nil {
		return nil, control.Errorf(control.Refused, "nothing is pinned on %s", q.Host)
	}
	p := *h.Pin
	freed := slices.Sorted(maps.Keys(p.Values))
	if _, ok := p.Values[q.Variable]; ok {
		freed = []rollout.Name{q.Variable}
	} else if q.Variable != "" {
		return nil, control.Errorf(control.Refused, "%s isn't pinned on %s: pinned there is %s", q.Variable, q.Host, list(freed))
	}
	reason := rollout.Reason{Code: rollout.ByOperator, Detail: both("unpinned "+list(freed), q.Why)}
	var m bus.Message
	if len(freed) == len(p.Values) {
		m, err = s.end(subjects.KindPin, string(q.Host), reason, by, now)
	} else {
		p.Values = maps.Clone(p.Values)
		delete(p.Values, q.Variable)
		m, err = s.record(subjects.KindPin, string(q.Host), &p, reason, by, now)
	}
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, now, m); err != nil {
		return nil, err
	}
	s.log.Info("host unpinned", "host", q.Host, "by", by, "what", reason.Detail)
	view, err := s.hostView(q.Host)
	for _, name := range freed {
		if next := s.afterPin(q.Host, name, time.Now()); next != "" && !slices.Contains(view.Problems, next) {
			view.Problems = append(view.Problems, next)
		}
	}
	return view, err
}

func list[T ~string](names []T) string {
	words := make([]string, len(names))
	for i, n := range names {
		words[i] = string(n)
	}
	return strings.Join(words, ", ")
}

// afterPin says what becomes of a variable that a host was told by a pin which
// is no more; "" where the host has the fleet's value.
func (s *scheduler) afterPin(name rollout.Host, variable rollout.Name, now time.Time) string {
	v, err := s.snap.Variable(variable)
	if err != nil {
		return ""
	}
	e, err := s.snap.Explain(name, variable, now)
	if slices.ContainsFunc(e.Blocked, func(r rollout.Reason) bool { return r.Code == rollout.BeyondTarget }) {
		e.Next = ""
	}
	switch {
	case err != nil || e.Value.IsZero():
		return ""
	case e.Next != "" && e.To.IsZero():
		return fmt.Sprintf("no longer pinned: %s will take %s out of its document at its pace", e.Next, variable)
	case e.Next != "" && e.To != e.Value:
		return fmt.Sprintf("no longer pinned: %s will tell it %s of %s at its pace", e.Next, e.To, variable)
	case !e.Value.Matches(v.Value):
		return fmt.Sprintf("no longer pinned: it keeps %s of %s until a rollout moves it", e.Value, variable)
	}
	return ""
}

// admitPin says whether a pin can be made, with the variables as they will be:
// whether the core has it, and the host's document still fits into a record.
func (s *scheduler) admitPin(p *rollout.Pin, variables map[rollout.Name]*rollout.Variable, now time.Time) error {
	if err := s.snap.AdmitPin(p, variables, now); err != nil {
		return err
	}
	h, err := s.snap.Host(p.Host)
	if err != nil {
		return err
	}
	c := subjects.Change{Host: p.Host, Actor: rollout.Scheduler, Time: now, Reason: rollout.Reason{Code: rollout.ByPin, Detail: p.Why}}
	c.Desired = rollout.Desired{Generation: h.Next, Values: rollout.Document{}, Told: map[rollout.Name]rollout.Told{}}
	if h.Desired != nil {
		maps.Copy(c.Desired.Values, h.Desired.Values)
		maps.Copy(c.Desired.Told, h.Desired.Told)
	}
	maps.Copy(c.Desired.Values, p.Values)
	for name := range p.Values {
		c.Desired.Told[name] = rollout.Told{Generation: h.Next, Time: now, Pin: true}
	}
	head, body, err := c.Encode()
	if err != nil {
		return err
	}
	if size := head.Size() + len(body); size > bus.MaxHeader-slack {
		return &rollout.FieldError{Field: "values", Problem: fmt.Sprintf("the host's document would have some %d bytes, more than the %d that a record may have: pin less", size, bus.MaxHeader)}
	}
	return nil
}

// slack is room for the names of checks and previous values in a document's
// headers.
const slack = 4 << 10

func (s *scheduler) blackoutViews(now time.Time) []control.BlackoutView {
	views := []control.BlackoutView{}
	for _, b := range s.snap.Blackouts() {
		v := control.BlackoutView{Blackout: *b}
		v.InForce, v.Next, v.Holds = s.snap.BlackoutStatus(b.Name, now)
		views = append(views, v)
	}
	return views
}
