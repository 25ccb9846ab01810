package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// errDeposed says that another scheduler leads.
var errDeposed = errors.New("another scheduler leads")

func (s *scheduler) leaderMessage(body []byte) bus.Message {
	subject := subjects.KindLeader.Subject("")
	return bus.Message{Subject: subject, Data: body, Expect: &bus.Expect{Subject: subject, Sequence: s.revisions[subject]}}
}

// commit writes one step, as of now, and returns when the mirror has consumed
// it. A nil error means that it is committed; any other, that it is not and
// never will be, except where the context ended.
func (s *scheduler) commit(ctx context.Context, step rollout.Step, now time.Time) error {
	return s.commitAs(ctx, step, account{}, now)
}

// account is who changed a rollout's record and what, where that isn't its
// last transition. The zero account is of a transition.
type account struct {
	by     rollout.ID
	detail string
}

// commitAs is commit with an account for the audit log.
func (s *scheduler) commitAs(ctx context.Context, step rollout.Step, a account, now time.Time) error {
	rest, err := s.encode(step, a, now)
	if err != nil {
		return err
	}
	if err := s.write(ctx, now, rest...); err != nil {
		return err
	}
	s.tell(step, a)
	return nil
}

// write commits records that no step of a rollout carries.
func (s *scheduler) write(ctx context.Context, now time.Time, records ...bus.Message) error {
	if !s.leading {
		return errDeposed
	}
	l := s.leader
	l.Led = s.snap.Led(now)
	return s.renew(ctx, l, records, now)
}

// renew writes the lease and, in the same batch, the rest.
func (s *scheduler) renew(ctx context.Context, l subjects.Leader, rest []bus.Message, now time.Time) error {
	led := s.leading
	l.Renewed, l.Step = now.UTC(), random()
	s.lost, s.found = l.Step, false
	before := s.revisions[subjects.KindLeader.Subject("")]
	body, err := subjects.Encode(l)
	if err != nil {
		return err
	}
	start := time.Now()
	epoch, err := s.dueEpoch(l.Led, now)
	if err != nil {
		return err
	}
	sealed := s.seal(slices.Concat(rest, epoch))
	last, err := bus.Commit(ctx, s.js, append([]bus.Message{s.leaderMessage(body)}, sealed...))
	s.m.step(len(rest), time.Since(start), err)
	switch {
	case err == nil:
		err = s.await(ctx, last)
	case errors.Is(err, bus.ErrUnknown):
		s.log.Warn("answer to a batch lost", "err", err)
		err = s.settle(ctx, l, before)
	case errors.Is(err, bus.ErrRefused), errors.Is(err, bus.ErrInFlight):
		if reread := s.reread(ctx); reread != nil {
			err = errors.Join(err, reread)
		}
	}
	if err != nil {
		if led && !s.leading {
			return fmt.Errorf("%w: %w", errDeposed, err)
		}
		return err
	}
	s.renewed, s.backoff, s.leader.Led = now, 0, l.Led
	if len(epoch) > 0 {
		s.epoch = now
	}
	s.snap.PutLead(l.Led, now)
	if s.problems["commit"] != "" {
		delete(s.problems, "commit")
		s.complained = time.Time{}
		s.log.Info("batches are committed again")
	}
	return nil
}

// settle finds out whether a batch committed whose answer was lost. l is the
// lease's record in it, before the revision that it expected. It returns nil if
// it did: the mirror takes in every revision of the lease, and notes the step.
func (s *scheduler) settle(ctx context.Context, l subjects.Leader, before uint64) error {
	key := subjects.KindLeader.Subject("")
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := s.reread(ctx)
		switch {
		case s.found:
			return nil
		case s.revisions[key] != before:
			// Another revision took the place that the batch expected.
			return errors.New("its answer was lost, and it was never written")
		case err == nil:
			// Not there yet. A renewal that expects the same revision settles
			// it: only one of the two can ever commit.
			settling := l
			settling.Step = random()
			body, encodeErr := subjects.Encode(settling)
			if encodeErr != nil {
				return encodeErr
			}
			var last uint64
			if last, err = bus.Commit(ctx, s.js, []bus.Message{s.leaderMessage(body)}); err == nil {
				err = s.await(ctx, last)
			}
			if err == nil {
				s.snap.PutLead(l.Led, time.Now())
				continue
			}
		}
		if err != nil {
			s.problems["commit"] = "the broker doesn't say whether a batch was written, nothing is told until it does: " + err.Error()
		}
		if wait >= time.Second {
			s.log.Error("the broker doesn't say whether a batch was written; nothing is told until it does", "err", err)
		}
		var commands chan command
		if s.leading {
			commands = s.commands
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-commands:
			s.answerUnsettled(c)
		case <-time.After(wait):
		}
	}
}

// answerUnsettled answers a request while it isn't known what was written last: how
// things stand, and to all else that it has to wait.
func (s *scheduler) answerUnsettled(c command) {
	out := reply{response: s.status()}
	if c.request.Verb != control.Status {
		out = reply{err: control.Errorf(control.Unavailable, "%s", s.problems["commit"])}
	}
	c.reply <- out
}

// reread waits until the mirror has reached what the stream holds now.
func (s *scheduler) reread(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	last, err := bus.LastSequence(ctx, s.js, subjects.Stream)
	if err != nil {
		return fmt.Errorf("reading the bucket's last sequence: %w", err)
	}
	return s.await(ctx, last)
}

// await takes in what arrives until the mirror has reached a sequence.
func (s *scheduler) await(ctx context.Context, sequence uint64) error {
	for s.consumed < sequence {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m, ok := <-s.bucket:
			if !ok {
				return errClosed
			}
			s.apply(ctx, m)
		case m, ok := <-s.inventory:
			if !ok {
				return errClosed
			}
			s.report(m)
		case h := <-s.alive:
			s.beat(h)
		}
	}
	return nil
}

// encode makes the messages of a step that follow the lease's.
func (s *scheduler) encode(step rollout.Step, a account, now time.Time) ([]bus.Message, error) {
	var out []bus.Message
	stop := &bus.Expect{Subject: subjects.KindStop.Subject(""), Sequence: step.Stop}
	for _, t := range step.Tells {
		c := subjects.Change{
			Host: t.Host, Desired: t.Desired, Rollout: step.Rollout, Variable: t.Variable,
			Previous: t.Previous, Reason: t.Reason, Actor: t.Actor, Time: now,
		}
		h, body, err := c.Encode()
		if size := h.Size() + len(body); err == nil && size > bus.MaxHeader-sealRoom {
			err = fmt.Errorf("it has %d bytes, more than the %d that a record may have: fewer variables or checks on the host", size, bus.MaxHeader-sealRoom)
		}
		if err != nil {
			return nil, &unfitError{t.Host, err}
		}
		out = append(out, bus.Message{Subject: subjects.KindDesired.Subject(string(t.Host)), Header: h, Data: body, Expect: stop})
	}
	for _, r := range step.Records {
		by, reason := r.Record.By, rollout.Reason{Code: rollout.Code(r.Record.State), Detail: r.Record.Why}
		if a.by != "" {
			by, reason = a.by, rollout.Reason{Code: rollout.ByOperator, Detail: a.detail}
		}
		m, err := s.record(subjects.KindRollout, string(r.ID), r.Record, reason, by, now)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if v := step.Variable; v != nil {
		by, reason := rollout.Scheduler, rollout.Reason{Code: rollout.ByRollout, Rollout: step.Rollout}
		if n := len(step.Records); n > 0 && step.Records[n-1].Record.Spec.Rollback != "" {
			by, reason = step.Records[n-1].Record.By, rollout.Reason{Code: rollout.ByOperator, Rollout: step.Rollout, Detail: string(step.Rollout) + " takes it back"}
		}
		m, err := s.record(subjects.KindVariable, string(v.Name), v, reason, by, now)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	for _, h := range step.Unpin {
		m, err := s.end(subjects.KindPin, string(h), rollout.Reason{Code: rollout.ByPin, Detail: "its time has come"}, rollout.Scheduler, now)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if p := step.Progress; p != nil {
		p.Step = random()
		body, err := subjects.Encode(p)
		if err != nil {
			return nil, err
		}
		out = append(out, bus.Message{
			Subject: subjects.KindProgress.Subject(string(step.Rollout)), Data: body,
			Header: written(rollout.Scheduler, now),
			Expect: &bus.Expect{Subject: subjects.KindAbort.Subject(string(step.Rollout)), Sequence: step.Abort},
		})
	}
	return out, nil
}

// unfitError says that one host's document can't be written.
type unfitError struct {
	host rollout.Host
	err  error
}

func (e *unfitError) Error() string {
	return fmt.Sprintf("the document of %s can't be written: %v", e.host, e.err)
}

func (e *unfitError) Unwrap() error { return e.err }

// written is the header by which the scheduler knows its own records from what
// was put by hand.
func written(by rollout.ID, now time.Time) subjects.Header {
	return subjects.Header{
		subjects.HeaderActor: {string(by)},
		subjects.HeaderTime:  {now.UTC().Format(time.RFC3339Nano)},
	}
}

// record makes the message of a rollout's or document's record, which expects
// the key's own last revision.
func (s *scheduler) record(kind subjects.Kind, name string, v any, reason rollout.Reason, by rollout.ID, now time.Time) (bus.Message, error) {
	body, err := subjects.Encode(v)
	if err != nil {
		return bus.Message{}, fmt.Errorf("encoding %s: %w", kind.Key(name), err)
	}
	why, err := json.Marshal(reason)
	if err != nil {
		return bus.Message{}, err
	}
	subject := kind.Subject(name)
	h := written(by, now)
	h[subjects.HeaderReason] = []string{string(why)}
	return bus.Message{Subject: subject, Header: h, Data: body, Expect: &bus.Expect{Subject: subject, Sequence: s.revisions[subject]}}, nil
}

// end makes the delete marker of such a record.
func (s *scheduler) end(kind subjects.Kind, name string, reason rollout.Reason, by rollout.ID, now time.Time) (bus.Message, error) {
	m, err := s.record(kind, name, struct{}{}, reason, by, now)
	if err != nil {
		return bus.Message{}, err
	}
	m.Data, m.Header["KV-Operation"] = nil, []string{"DEL"}
	return m, nil
}

// tell logs what was committed: a line a step, naming the hosts as far as a
// line can.
func (s *scheduler) tell(step rollout.Step, a account) {
	if len(step.Unpin) > 0 {
		s.log.Info("pins have come to their end", "hosts", step.Unpin)
	}
	for _, r := range step.Records {
		if a.by != "" {
			s.log.Info("rollout is steered", "rollout", r.ID, "by", a.by, "what", a.detail)
			continue
		}
		s.log.Info("rollout is "+string(r.Record.State), "rollout", r.ID, "by", r.Record.By, "why", r.Record.Why)
	}
	if len(step.Tells) == 0 {
		if p := step.Progress; p != nil && p.Hold.Code != "" {
			s.log.Info("rollout holds", "rollout", step.Rollout, "reason", p.Hold.Code, "why", p.Hold.String())
		}
		return
	}
	const most = 50
	hosts := make([]rollout.Host, 0, most)
	for i, t := range step.Tells {
		s.m.tells.WithLabelValues(string(t.Reason.Code)).Inc()
		if i < most {
			hosts = append(hosts, t.Host)
		}
	}
	first := step.Tells[0]
	attrs := []any{"hosts", hosts, "count", len(step.Tells), "reason", first.Reason.Code, "why", first.Reason.String()}
	if step.Rollout != "" {
		attrs = append(attrs, "rollout", step.Rollout)
	}
	if first.Variable != "" {
		attrs = append(attrs, "variable", first.Variable, "value", first.Desired.Values[first.Variable].String())
	}
	s.log.Info("told", attrs...)
}
