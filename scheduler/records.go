package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func (s *scheduler) applyDesired(ctx context.Context, name string, m bus.Msg) error {
	host, err := rollout.ParseHost(name)
	if err != nil {
		return fmt.Errorf("put by hand: %w", err)
	}
	before, known := s.desired(host)
	c, err := subjects.DecodeChange(host, m.Header, m.Data)
	if err == nil && known && c.Desired.Generation <= before {
		err = fmt.Errorf("%w: generation %d after %d", subjects.ErrForeign, c.Desired.Generation, before)
	}
	if err == nil {
		s.putChange(c, m.Time)
		return nil
	}
	if errors.Is(err, subjects.ErrUnreadable) {
		s.snap.PutUnfit(host)
		return fmt.Errorf("the host is left alone: %w", err)
	}
	if !known {
		good, histErr := lastGood(ctx, s, m.Subject, func(m bus.Msg) (*subjects.Change, error) {
			return subjects.DecodeChange(host, m.Header, m.Data)
		})
		if histErr != nil {
			return fmt.Errorf("%w; and its history: %w", err, histErr)
		}
		if good != nil {
			s.putChange(good, m.Time)
		}
	}
	s.snap.PutDamaged(host)
	return fmt.Errorf("overwritten or deleted by hand, put back as it was: %w", err)
}

// desired returns the generation of the host's document, if it has one.
func (s *scheduler) desired(host rollout.Host) (uint64, bool) {
	h, err := s.snap.Host(host)
	if err != nil || h.Desired == nil {
		return 0, false
	}
	return h.Desired.Generation, true
}

func (s *scheduler) putChange(c *subjects.Change, at time.Time) {
	if c.Decommissioned {
		s.ended[c.Host] = at
		s.snap.PutDecommissioned(c.Host, c.Desired.Generation)
		return
	}
	s.snap.PutDesired(c.Host, &c.Desired)
}

// lastGood finds the newest revision of a key that decodes, or nil, also where
// that is the key's end.
func lastGood[T any](ctx context.Context, s *scheduler, subject string, decode func(bus.Msg) (*T, error)) (*T, error) {
	history, err := bus.History(ctx, s.js, subjects.Stream, subject)
	if err != nil {
		s.unread = fmt.Errorf("a record was changed by hand, and the one before can't be read: %w", err)
		return nil, err
	}
	for i, m := range slices.Backward(history) {
		var before uint64
		if i > 0 {
			before = history[i-1].Sequence
		}
		if v, err := decode(s.attest(m, before)); err == nil {
			return v, nil
		}
	}
	return nil, nil
}

// decodeOwn decodes a record that the scheduler itself wrote.
func decodeOwn[T any](m bus.Msg) (*T, error) {
	if m.Header.Get(subjects.HeaderTime) == "" || m.Header.Deleted() {
		return nil, subjects.ErrForeign
	}
	v, err := subjects.Decode[T](m.Data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", subjects.ErrUnreadable, err)
	}
	return v, nil
}

// decodeRollout decodes a rollout's record. One whose document isn't valid was
// written by a scheduler that knows more: it can't be acted upon.
func decodeRollout(m bus.Msg) (*rollout.Record, error) {
	r, err := decodeOwn[rollout.Record](m)
	if err != nil {
		return nil, err
	}
	if err := invalid(r.Spec.Validate()); err != nil {
		return nil, err
	}
	if r.Length < 0 {
		return nil, fmt.Errorf("%w: its ramp's length is %s", subjects.ErrUnreadable, r.Length)
	}
	return r, nil
}

func (s *scheduler) applyRollout(ctx context.Context, id rollout.ID, m bus.Msg) error {
	s.revisions[m.Subject] = m.Sequence
	if _, err := rollout.ParseID("rollout", string(id)); err != nil {
		return fmt.Errorf("put by hand: %w", err)
	}
	r, err := decodeRollout(m)
	if err == nil {
		delete(s.damaged, id)
		return s.snap.PutRollout(id, r)
	}
	if _, known := s.snap.Status(id, time.Now()); known != nil {
		good, histErr := lastGood(ctx, s, m.Subject, decodeRollout)
		if histErr != nil {
			return fmt.Errorf("%w; and its history: %w", err, histErr)
		}
		if good == nil {
			return fmt.Errorf("no rollout: %w; the id can't be used", err)
		}
		if err := s.snap.PutRollout(id, good); err != nil {
			return err
		}
	}
	if errors.Is(err, subjects.ErrUnreadable) {
		s.snap.PutRolloutUnfit(id)
		return fmt.Errorf("the rollout is left alone: %w", err)
	}
	s.damaged[id] = true
	return fmt.Errorf("overwritten or deleted by hand, put back as it was: %w", err)
}

func (s *scheduler) applyProgress(ctx context.Context, id rollout.ID, m bus.Msg) error {
	s.revisions[m.Subject] = m.Sequence
	p, err := decodeOwn[rollout.Progress](m)
	if err == nil {
		s.snap.PutProgress(id, *p)
		return nil
	}
	if !s.leading {
		good, histErr := lastGood(ctx, s, m.Subject, decodeOwn[rollout.Progress])
		if histErr != nil {
			return histErr
		}
		if good != nil {
			s.snap.PutProgress(id, *good)
		}
	}
	return fmt.Errorf("overwritten or deleted by hand; the next step writes it anew: %w", err)
}

// decodeDocument decodes the record of a document that an operator applied, and
// checks it. Its end, by the scheduler's own delete marker, is nil.
func decodeDocument[T any](check func(*T) error) func(bus.Msg) (*T, error) {
	return func(m bus.Msg) (*T, error) {
		if m.Header.Deleted() && m.Header.Get(subjects.HeaderTime) != "" {
			return nil, nil
		}
		v, err := decodeOwn[T](m)
		if err == nil {
			err = check(v)
		}
		return v, err
	}
}

// applyDocument takes in such a record. What was put or deleted by hand changes
// nothing: the last good one counts, by memory where the key is known.
func applyDocument[T any](ctx context.Context, s *scheduler, m bus.Msg, known bool, check func(*T) error, put func(*T) error) error {
	s.revisions[m.Subject] = m.Sequence
	decode := decodeDocument(check)
	v, err := decode(m)
	if err == nil {
		return put(v)
	}
	if !known {
		good, histErr := lastGood(ctx, s, m.Subject, decode)
		if histErr != nil {
			return histErr
		}
		if good != nil {
			if err := put(good); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("overwritten or deleted by hand; the last good one counts: apply or delete its document anew: %w", err)
}

// mismatch says that a record's name isn't its key's.
func mismatch[N ~string](have, key N) error {
	if have != key {
		return fmt.Errorf("%w: it is of %s", subjects.ErrForeign, have)
	}
	return nil
}

func (s *scheduler) applyVariable(ctx context.Context, name string, m bus.Msg) error {
	n, err := rollout.ParseName(name)
	if err != nil {
		return fmt.Errorf("put by hand: %w", err)
	}
	_, unknown := s.snap.Variable(n)
	return applyDocument(ctx, s, m, unknown == nil, func(v *rollout.Variable) error { return mismatch(v.Name, n) }, func(v *rollout.Variable) error {
		s.snap.PutVariable(n, v)
		return nil
	})
}

func (s *scheduler) applyBlackout(ctx context.Context, name string, m bus.Msg) error {
	id, err := rollout.ParseID("blackout", name)
	if err != nil {
		return fmt.Errorf("put by hand: %w", err)
	}
	check := func(b *rollout.Blackout) error { return cmp.Or(mismatch(b.Name, id), invalid(b.Validate())) }
	err = applyDocument(ctx, s, m, s.blackout(id) != nil, check, func(b *rollout.Blackout) error { return s.snap.PutBlackout(id, b) })
	if errors.Is(err, subjects.ErrUnreadable) && s.blackout(id) == nil {
		// A newer scheduler wrote it. Somebody wants no change at some time: until
		// it is known when, there is none at all.
		always := &rollout.Blackout{Name: id, From: time.Unix(0, 0), Until: time.Unix(1<<40, 0), Why: "this scheduler can't read its record"}
		err = errors.Join(err, s.snap.PutBlackout(id, always))
	}
	return err
}

// invalid says that a record whose document doesn't validate is a newer
// scheduler's.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", subjects.ErrUnreadable, err)
}

func (s *scheduler) applyPin(ctx context.Context, name string, m bus.Msg) error {
	h, err := rollout.ParseHost(name)
	if err != nil {
		return fmt.Errorf("put by hand: %w", err)
	}
	check := func(p *rollout.Pin) error { return cmp.Or(mismatch(p.Host, h), invalid(p.Validate())) }
	return applyDocument(ctx, s, m, s.pin(h) != nil, check, func(p *rollout.Pin) error {
		s.snap.PutPin(h, p)
		return nil
	})
}

// blackout returns a blackout, or nil.
func (s *scheduler) blackout(name rollout.ID) *rollout.Blackout {
	all := s.snap.Blackouts()
	if i, ok := slices.BinarySearchFunc(all, name, func(b *rollout.Blackout, n rollout.ID) int { return cmp.Compare(b.Name, n) }); ok {
		return all[i]
	}
	return nil
}

// pin returns what is pinned on a host that is known, or nil.
func (s *scheduler) pin(name rollout.Host) *rollout.Pin {
	h, _ := s.snap.Host(name) // the zero status of an unknown one has no pin
	return h.Pin
}

// restoreRollouts puts back the records that were overwritten by hand.
func (s *scheduler) restoreRollouts(ctx context.Context, now time.Time) bool {
	for id := range s.damaged {
		step, err := s.snap.Restore(id, now)
		if err == nil {
			err = s.commit(ctx, step, now)
		}
		if err != nil {
			s.hindered("putting back rollout."+string(id), err)
			return true
		}
		s.log.Error("rollout's record put back", "rollout", id)
		return true
	}
	return false
}
