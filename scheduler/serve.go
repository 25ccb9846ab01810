package scheduler

import (
	"bytes"
	"context"
	"errors"
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

// command is an operator's request on its way to the one goroutine.
type command struct {
	request control.Request
	reply   chan<- reply
}

type reply struct {
	response any
	err      error
}

// serve hands an operator's request to the goroutine that owns the state.
func (s *scheduler) serve(ctx context.Context, r control.Request) (any, error) {
	done := make(chan reply, 1)
	select {
	case s.commands <- command{r, done}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case out := <-done:
		return out.response, out.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answer carries a request out. One whose batch was refused because something
// was written in between is decided anew, a few times.
func (s *scheduler) answer(ctx context.Context, c command) {
	var out reply
	out.err = again(func() (err error) {
		if !s.leading {
			return control.Errorf(control.Unavailable, "this scheduler no longer leads; try again")
		}
		out.response, err = s.handle(ctx, c.request, time.Now())
		return err
	})
	if errors.Is(out.err, errDeposed) {
		out.err = control.Errorf(control.Unavailable, "not written: %v", out.err)
	}
	c.reply <- out
}

// again tries what the broker refused because somebody wrote in between a few
// times.
func again(try func() error) (err error) {
	for range 5 {
		err = try()
		if !errors.Is(err, bus.ErrRefused) && !errors.Is(err, bus.ErrInFlight) {
			return err
		}
	}
	return err
}

// maxWhy bounds what an operator says, in bytes: it travels in headers.
const maxWhy = 1024

// whys are the requests in which an operator says why.
type whys interface{ Reason() string }

// with decodes the request and passes it on.
func with[T any](r control.Request, f func(T) (any, error)) (any, error) {
	var v T
	if err := r.Decode(&v); err != nil {
		return nil, err
	}
	if q, ok := any(v).(whys); ok && len(q.Reason()) > maxWhy {
		return nil, control.Errorf(control.Usage, "why: %d bytes are too many: at most %d are allowed", len(q.Reason()), maxWhy)
	}
	return f(v)
}

func (s *scheduler) handle(ctx context.Context, r control.Request, now time.Time) (any, error) {
	by := r.Actor
	change := func(make func(control.RolloutRequest) (rollout.Step, error)) (any, error) {
		return with(r, func(q control.RolloutRequest) (any, error) {
			step, err := make(q)
			if err != nil {
				return nil, err
			}
			if err := s.commit(ctx, step, now); err != nil {
				return nil, err
			}
			return s.rolloutView(q.ID, time.Now(), true)
		})
	}
	switch r.Verb {
	case control.Apply:
		return with(r, func(q control.ApplyRequest) (any, error) { return s.applyDocuments(ctx, q, by, now) })
	case control.Get:
		return with(r, func(q control.GetRequest) (any, error) { return s.get(q) })
	case control.Delete:
		return with(r, func(q control.DeleteRequest) (any, error) { return s.deleteVariable(ctx, q, by, now) })
	case control.VariableList:
		return s.variableViews(), nil
	case control.RolloutStart:
		return with(r, func(q control.StartRequest) (any, error) { return s.start(ctx, q, by, now) })
	case control.RolloutList:
		views := []control.RolloutView{}
		for _, id := range s.snap.Rollouts() {
			v, err := s.rolloutView(id, now, false)
			if err != nil {
				return nil, err
			}
			views = append(views, v)
		}
		return views, nil
	case control.RolloutShow:
		return with(r, func(q control.RolloutRequest) (any, error) { return s.rolloutView(q.ID, now, true) })
	case control.RolloutPlan:
		return with(r, func(q control.PlanRequest) (any, error) { return s.planView(q, now) })
	case control.RolloutPause:
		return change(func(q control.RolloutRequest) (rollout.Step, error) { return s.snap.Pause(q.ID, by, q.Why, now) })
	case control.RolloutResume:
		return change(func(q control.RolloutRequest) (rollout.Step, error) {
			return s.snap.Resume(q.ID, by, q.Why, q.Acknowledge, now)
		})
	case control.RolloutCancel:
		return change(func(q control.RolloutRequest) (rollout.Step, error) { return s.snap.Cancel(q.ID, by, q.Why, now) })
	case control.HostList:
		return with(r, func(q control.HostListRequest) (any, error) { return s.hostList(q) })
	case control.HostShow:
		return with(r, func(q control.HostRequest) (any, error) { return s.hostView(q.Host) })
	case control.HostDecommission:
		return with(r, func(q control.HostRequest) (any, error) { return s.decommission(ctx, q, by, now) })
	case control.Start:
		return with(r, func(q control.ReleaseRequest) (any, error) { return s.release(ctx, q, by, now) })
	case control.Status:
		return s.status(), nil
	case control.Why:
		return with(r, func(q control.WhyRequest) (any, error) { return s.whyView(q, now) })
	}
	return nil, control.Errorf(control.Usage, "%q isn't a verb", r.Verb)
}

// start creates a rollout.
func (s *scheduler) start(ctx context.Context, q control.StartRequest, by rollout.ID, now time.Time) (any, error) {
	spec := q.Rollout
	v, err := s.snap.Variable(spec.Variable)
	if err != nil {
		return nil, &rollout.FieldError{Field: "variable", Problem: fmt.Sprintf("there is no variable %s: apply its document first", spec.Variable)}
	}
	if spec.To.IsZero() && q.ToText != "" {
		if spec.To, err = rollout.ParseValue(v.Type, q.ToText); err != nil {
			return nil, &rollout.FieldError{Field: "to", Problem: err.Error()}
		}
	}
	if spec.Name == "" {
		spec.Name = s.freeName(spec)
	}
	if err := s.create(ctx, spec, by, now); err != nil {
		return nil, err
	}
	return s.rolloutView(spec.Name, time.Now(), true)
}

func (s *scheduler) create(ctx context.Context, spec rollout.Spec, by rollout.ID, now time.Time) error {
	step, err := s.snap.Create(spec, by, s.leader.Seed, now)
	if err != nil {
		return err
	}
	return s.commit(ctx, step, now)
}

// freeName makes an id of variable and value: docker-version-1-12-3, then -2.
func (s *scheduler) freeName(spec rollout.Spec) rollout.ID {
	var b strings.Builder
	for _, c := range strings.ToLower(string(spec.Variable) + "-" + spec.To.Text()) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteRune(c)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
	}
	base := b.String()
	if len(base) > 56 {
		base = base[:56]
	}
	base = strings.Trim(base, "-")
	taken := s.snap.Rollouts()
	name := rollout.ID(base)
	for n := 2; slices.Contains(taken, name) || s.snap.AbortOf(name).Sequence > 0; n++ {
		name = rollout.ID(fmt.Sprintf("%s-%d", base, n))
	}
	return name
}

// release acknowledges the red button.
func (s *scheduler) release(ctx context.Context, q control.ReleaseRequest, by rollout.ID, now time.Time) (any, error) {
	stop := s.snap.Stop()
	switch {
	case !s.snap.Stopped():
		return nil, control.Errorf(control.Refused, "nothing is stopped")
	case q.Acknowledge != stop.Sequence:
		return nil, control.Errorf(control.Refused, "everything is stopped by stop %d (%s, %s): release it with --acknowledge %d", stop.Sequence, actorOr(stop.Actor), stop.Why, stop.Sequence)
	}
	body, err := subjects.Encode(subjects.Abort{Why: q.Why, Actor: string(by), Time: now.UTC()})
	if err != nil {
		return nil, err
	}
	subject := subjects.KindStop.Subject("")
	h := written(by, now)
	h[subjects.HeaderAcknowledges] = []string{fmt.Sprint(stop.Sequence)}
	if err := s.write(ctx, now, bus.Message{Subject: subject, Header: h, Data: body, Expect: &bus.Expect{Subject: subject, Sequence: stop.Sequence}}); err != nil {
		return nil, err
	}
	return s.stopView(), nil
}

func actorOr(a string) string {
	if a == "" {
		return "by hand"
	}
	return "by " + a
}

// decommission ends a host: a delete marker, which keeps its audit.
func (s *scheduler) decommission(ctx context.Context, q control.HostRequest, by rollout.ID, now time.Time) (any, error) {
	h, err := s.snap.Host(q.Host)
	if err != nil {
		return nil, err
	}
	switch {
	case h.Decommissioned:
		return nil, control.Errorf(control.Refused, "%s is decommissioned already", q.Host)
	case h.Presence == rollout.Unheard:
		return nil, control.Errorf(control.Refused, "%s may be online, the scheduler hasn't listened for long enough to know: try again %s later", q.Host, rollout.Duration(3*s.o.Heartbeat))
	case h.Presence == rollout.Online:
		return nil, control.Errorf(control.Refused, "%s is online: stop its agent first, then decommission it %s later", q.Host, rollout.Duration(3*s.o.Heartbeat))
	}
	view, err := s.hostView(q.Host)
	if err != nil {
		return nil, err
	}
	c := subjects.Change{Host: q.Host, Reason: rollout.Reason{Code: rollout.Decommissioned, Detail: q.Why}, Actor: by, Time: now, Decommissioned: true}
	c.Desired.Generation = h.Next
	head, body, err := c.Encode()
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, now, bus.Message{Subject: subjects.KindDesired.Subject(string(q.Host)), Header: head, Data: body}); err != nil {
		return nil, err
	}
	s.log.Info("host decommissioned", "host", q.Host, "by", by, "why", q.Why)
	view.Problems = append(view.Problems, "decommissioned: it counts again when its agent reports again")
	return view, nil
}

// applyDocuments makes documents true. All are checked before the first is
// written.
func (s *scheduler) applyDocuments(ctx context.Context, q control.ApplyRequest, by rollout.ID, now time.Time) (any, error) {
	out := control.ApplyResponse{DryRun: q.DryRun, Results: []control.ApplyResult{}}
	variables := map[rollout.Name]*rollout.Variable{} // as they will be
	starting := map[rollout.Name]rollout.ID{}
	var writes []func() error
	var faults []error
	for i, d := range q.Documents {
		result := control.ApplyResult{Kind: d.Kind(), Name: d.Name()}
		var write func() error
		var err error
		switch {
		case d.Variable != nil:
			var v *rollout.Variable
			if v, err = s.planVariable(*d.Variable, &result); err == nil {
				variables[v.Name] = v
				write = func() error { return s.writeVariable(ctx, v, by, now) }
			}
		case d.Rollout != nil:
			spec := *d.Rollout
			write = func() error { return s.create(ctx, spec, by, now) }
			err = s.planRollout(spec, variables, starting, now, &result)
		default:
			err = control.Errorf(control.Usage, "an empty document")
		}
		if err != nil {
			faults = append(faults, control.DocumentError(i, err))
			continue
		}
		out.Results = append(out.Results, result)
		if result.Action != "unchanged" {
			writes = append(writes, write)
		}
	}
	if err := errors.Join(faults...); err != nil || q.DryRun {
		return out, err
	}
	for i, write := range writes {
		if err := again(write); err != nil {
			if i > 0 {
				return nil, control.Errorf(control.Failed, "%d of %d changes are written, then: %v; apply the file again to go on", i, len(writes), err)
			}
			return nil, err
		}
	}
	return out, nil
}

// planVariable compares the document with the variable as it stands.
func (s *scheduler) planVariable(v rollout.Variable, result *control.ApplyResult) (*rollout.Variable, error) {
	if !v.Value.IsZero() {
		return nil, &rollout.FieldError{Field: "value", Problem: "is moved by rollouts alone: leave it out"}
	}
	if err := v.Validate(); err != nil {
		return nil, err
	}
	old, err := s.snap.Variable(v.Name)
	if err != nil {
		result.Action, v.Value = "created", v.Initial
		if !v.Initial.IsZero() {
			result.Note = fmt.Sprintf("hosts that run %s already are told so; all others keep what they run", v.Initial)
		}
		return &v, nil
	}
	v.Value = old.Value
	if v.Type != old.Type {
		return nil, &rollout.FieldError{Field: "type", Problem: fmt.Sprintf("is %s already, and values in use have it: delete the variable first", old.Type)}
	}
	if !v.Value.IsZero() {
		if err := v.Accept(v.Value); err != nil {
			return nil, fmt.Errorf("%w: the variable's value now is %s: %w", rollout.ErrRefused, v.Value, err)
		}
	}
	for id, to := range s.snap.Movers(v.Name) {
		if err := v.Accept(to); err != nil {
			return nil, fmt.Errorf("%w: %s moves hosts to %s: %w", rollout.ErrRefused, id, to, err)
		}
	}
	same, err := equal(v, *old)
	if err != nil {
		return nil, err
	}
	result.Action = "changed"
	_, damaged := s.problems[subjects.KindVariable.Key(string(v.Name))]
	if same && !damaged {
		result.Action = "unchanged"
	} else if v.Initial != old.Initial {
		result.Note = "a later initial changes nothing on any host: rollouts do"
	}
	return &v, nil
}

func equal(a, b any) (bool, error) {
	x, err := subjects.Encode(a)
	if err != nil {
		return false, err
	}
	y, err := subjects.Encode(b)
	return bytes.Equal(x, y), err
}

func (s *scheduler) writeVariable(ctx context.Context, v *rollout.Variable, by rollout.ID, now time.Time) error {
	m, err := s.record(subjects.KindVariable, string(v.Name), v, rollout.Reason{Code: rollout.ByOperator}, by, now)
	if err != nil {
		return err
	}
	if err := s.write(ctx, now, m); err != nil {
		return err
	}
	s.log.Info("variable applied", "variable", v.Name, "by", by, "value", v.Value.String())
	return nil
}

// planRollout checks a rollout's document against the variables as they will be.
func (s *scheduler) planRollout(spec rollout.Spec, variables map[rollout.Name]*rollout.Variable, starting map[rollout.Name]rollout.ID, now time.Time, result *control.ApplyResult) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if st, err := s.snap.Status(spec.Name, now); err == nil {
		same, err := equal(spec, st.Record.Spec)
		if err != nil {
			return err
		}
		if !same {
			return control.Errorf(control.Refused, "rollout %s is there already (%s), with another document; an id is never used again: choose another name", spec.Name, st.Record.State)
		}
		result.Action, result.Note = "unchanged", "it is "+string(st.Record.State)
		return nil
	}
	result.Action = "created"
	if other, ok := starting[spec.Variable]; ok {
		return control.Errorf(control.Refused, "%s of these documents moves %s too: one live rollout a variable", other, spec.Variable)
	}
	starting[spec.Variable] = spec.Name
	v := variables[spec.Variable]
	if v == nil {
		v, _ = s.snap.Variable(spec.Variable) // nil where there is none
	}
	return s.snap.Admit(spec, v, slices.Collect(maps.Values(starting)))
}

// deleteVariable removes a variable that no host carries.
func (s *scheduler) deleteVariable(ctx context.Context, q control.DeleteRequest, by rollout.ID, now time.Time) (any, error) {
	if !strings.EqualFold(q.Kind, control.KindVariable) {
		return nil, control.Errorf(control.Refused, "only a variable can be deleted; a rollout is cancelled, and its record stays")
	}
	name, err := rollout.ParseName(q.Name)
	if err != nil {
		return nil, control.Errorf(control.Usage, "%v", err)
	}
	v, err := s.snap.Variable(name)
	if err != nil {
		return nil, err
	}
	if id := s.snap.LiveRollout(name); id != "" {
		return nil, control.Errorf(control.Refused, "rollout %s is moving %s: cancel it first", id, name)
	}
	if n := s.snap.Carriers(name); n > 0 {
		return nil, control.Errorf(control.Refused, "%d hosts carry %s", n, name)
	}
	m, err := s.record(subjects.KindVariable, string(name), v, rollout.Reason{Code: rollout.ByOperator, Detail: "deleted"}, by, now)
	if err != nil {
		return nil, err
	}
	m.Data, m.Header["KV-Operation"] = nil, []string{"DEL"}
	layers, err := s.encode(rollout.Step{Records: s.snap.Retire(name, by, now)}, now)
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, now, append(layers, m)...); err != nil {
		return nil, err
	}
	return control.DeleteResponse{Kind: control.KindVariable, Name: q.Name}, nil
}

func (s *scheduler) get(q control.GetRequest) (any, error) {
	out := control.GetResponse{Documents: []control.Document{}}
	switch {
	case strings.EqualFold(q.Kind, control.KindVariable):
		for _, v := range s.snap.Variables() {
			if q.Name == "" || q.Name == string(v.Name) {
				w := *v
				w.Value = rollout.Value{}
				out.Documents = append(out.Documents, control.Document{Variable: &w})
			}
		}
	case strings.EqualFold(q.Kind, control.KindRollout):
		for _, id := range s.snap.Rollouts() {
			if q.Name != "" && q.Name != string(id) {
				continue
			}
			st, err := s.snap.Status(id, time.Now())
			if err != nil {
				return nil, err
			}
			out.Documents = append(out.Documents, control.Document{Rollout: &st.Record.Spec})
		}
	default:
		return nil, control.Errorf(control.Usage, "%q isn't a kind: want %s or %s", q.Kind, control.KindVariable, control.KindRollout)
	}
	if q.Name != "" && len(out.Documents) == 0 {
		return nil, fmt.Errorf("%s %s: %w", strings.ToLower(q.Kind), q.Name, rollout.ErrNotFound)
	}
	return out, nil
}
