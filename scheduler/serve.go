package scheduler

import (
	"context"
	"errors"
	"fmt"
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

// explained are the verbs that go against what was planned, so that the audit
// log has to say why.
var explained = []control.Verb{control.RolloutRelease, control.RolloutRollback, control.HostPin, control.HostUnpin}

// with decodes the request and passes it on.
func with[T any](r control.Request, f func(T) (any, error)) (any, error) {
	var v T
	if err := r.Decode(&v); err != nil {
		return nil, err
	}
	if q, ok := any(v).(whys); ok {
		switch n := len(q.Reason()); {
		case n > maxWhy:
			return nil, control.Errorf(control.Usage, "why: %d bytes are too many: at most %d are allowed", n, maxWhy)
		case n == 0 && slices.Contains(explained, r.Verb):
			return nil, control.Errorf(control.Usage, "why: is missing: what the audit log shall say")
		}
	}
	return f(v)
}

func (s *scheduler) handle(ctx context.Context, r control.Request, now time.Time) (any, error) {
	by := r.Actor
	change := func(make func(control.RolloutRequest) (rollout.Step, error)) (any, error) {
		return with(r, func(q control.RolloutRequest) (any, error) {
			step, err := make(q)
			return s.stepped(ctx, step, err, account{}, now)
		})
	}
	switch r.Verb {
	case control.Apply:
		return with(r, func(q control.ApplyRequest) (any, error) { return s.applyDocuments(ctx, q, by, now) })
	case control.Get:
		return with(r, func(q control.GetRequest) (any, error) { return s.get(q) })
	case control.Delete:
		return with(r, func(q control.DeleteRequest) (any, error) { return s.deleteDocument(ctx, q, by, now) })
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
	case control.RolloutApprove:
		return with(r, func(q control.RolloutRequest) (any, error) {
			step, err := s.snap.Approve(q.ID, by, q.Why, now)
			return s.stepped(ctx, step, err, account{by, both("approved", q.Why)}, now)
		})
	case control.RolloutAdvance:
		return with(r, func(q control.AdvanceRequest) (any, error) { return s.advance(ctx, q, by, now) })
	case control.RolloutRelease:
		return with(r, func(q control.HostReleaseRequest) (any, error) {
			step, err := s.snap.Release(q.ID, q.Host, by, q.Why, now)
			return s.stepped(ctx, step, err, account{}, now)
		})
	case control.RolloutRollback:
		return with(r, func(q control.RollbackRequest) (any, error) { return s.rollback(ctx, q, by, now) })
	case control.HostList:
		return with(r, func(q control.HostListRequest) (any, error) { return s.hostList(q) })
	case control.HostShow:
		return with(r, func(q control.HostRequest) (any, error) { return s.hostView(q.Host) })
	case control.HostDecommission:
		return with(r, func(q control.HostRequest) (any, error) { return s.decommission(ctx, q, by, now) })
	case control.HostPin:
		return with(r, func(q control.PinRequest) (any, error) { return s.pinHost(ctx, q, by, now) })
	case control.HostUnpin:
		return with(r, func(q control.PinRequest) (any, error) { return s.unpinHost(ctx, q, by, now) })
	case control.BlackoutList:
		return s.blackoutViews(now), nil
	case control.ObjectiveList:
		return s.objectiveViews(), nil
	case control.Start:
		return with(r, func(q control.ReleaseRequest) (any, error) { return s.release(ctx, q, by, now) })
	case control.Status:
		return s.status(), nil
	case control.Why:
		return with(r, func(q control.WhyRequest) (any, error) { return s.whyView(q, now) })
	}
	return nil, control.Errorf(control.Usage, "%q isn't a verb", r.Verb)
}

// stepped commits a step, if it could be made, and shows its rollout after what
// follows from the step at once: a rollback's original holds, then it starts,
// then it tells.
func (s *scheduler) stepped(ctx context.Context, step rollout.Step, err error, a account, now time.Time) (any, error) {
	if err == nil {
		err = s.commitAs(ctx, step, a, now)
	}
	if err != nil {
		return nil, err
	}
	s.changed = true
	for i := 0; i < 3 && s.changed; i++ {
		if _, err := s.act(ctx); err != nil {
			return nil, err
		}
	}
	return s.rolloutView(step.Rollout, time.Now(), true)
}

// start creates a rollout.
func (s *scheduler) start(ctx context.Context, q control.StartRequest, by rollout.ID, now time.Time) (any, error) {
	spec := q.Rollout
	v, err := s.snap.Variable(spec.Variable)
	if err != nil {
		return nil, &rollout.FieldError{Field: "variable", Problem: fmt.Sprintf("there is no variable %s: apply its document first", spec.Variable)}
	}
	if spec.To, err = typed(spec.To, q.ToText, v, "to"); err != nil {
		return nil, err
	}
	if spec.Name == "" {
		spec.Name = s.freeName(spec)
	}
	if err := s.create(ctx, spec, by, now); err != nil {
		return nil, err
	}
	return s.rolloutView(spec.Name, time.Now(), true)
}

// typed is a value that was given as it is, or else as text of the variable's
// type, which is in the field.
func typed(value rollout.Value, text string, v *rollout.Variable, field string) (rollout.Value, error) {
	if !value.IsZero() || text == "" {
		return value, nil
	}
	value, err := rollout.ParseValue(v.Type, text)
	if err != nil {
		return value, &rollout.FieldError{Field: field, Problem: err.Error()}
	}
	return value, nil
}

// advance lets a rollout go on faster than its ramp.
func (s *scheduler) advance(ctx context.Context, q control.AdvanceRequest, by rollout.ID, now time.Time) (any, error) {
	before, err := s.snap.Status(q.ID, now)
	if err != nil {
		return nil, err
	}
	step, err := s.snap.Advance(q.ID, by, q.To, q.Why, now)
	if err != nil {
		return nil, err
	}
	what := "ended the canary's bake"
	if after := step.Records[0].Record; after.Advanced > before.Record.Advanced {
		what = fmt.Sprintf("advanced to %.4g%%", 100*after.Advanced)
	}
	return s.stepped(ctx, step, nil, account{by, both(what, q.Why)}, now)
}

// rollback starts the rollout that takes another's hosts back.
func (s *scheduler) rollback(ctx context.Context, q control.RollbackRequest, by rollout.ID, now time.Time) (any, error) {
	st, err := s.snap.Status(q.ID, now)
	if err != nil {
		return nil, err
	}
	to := q.To
	if v, _ := s.snap.Variable(st.Record.Spec.Variable); v != nil { // where there is none, the core says so
		if to, err = typed(to, q.ToText, v, "to"); err != nil {
			return nil, err
		}
	}
	step, err := s.snap.Rollback(q.ID, to, q.Over, by, q.Why, s.leader.Seed, now)
	return s.stepped(ctx, step, err, account{}, now)
}

func (s *scheduler) create(ctx context.Context, spec rollout.Spec, by rollout.ID, now time.Time) error {
	step, err := s.snap.Create(spec, by, s.leader.Seed, now)
	if err != nil {
		return err
	}
	return s.commit(ctx, step, now)
}

// freeName makes an id of variable and value: docker-version-1-12-3, then -2;
// docker-version-remove of one that takes the variable out.
func (s *scheduler) freeName(spec rollout.Spec) rollout.ID {
	what := spec.To.Text()
	if spec.Remove {
		what = "remove"
	}
	var b strings.Builder
	for _, c := range strings.ToLower(string(spec.Variable) + "-" + what) {
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
