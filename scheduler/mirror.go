package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// load starts both consumers and takes in what is stored. The bucket's records
// are taken in the order that the snapshot wants: what others refer to first.
func (s *scheduler) load(ctx context.Context) error {
	var err error
	if s.bucket, err = s.o.Consume(ctx, s.js, subjects.Stream, bus.ConsumeOptions{LastPerSubject: true}); err != nil {
		return err
	}
	if s.inventory, err = s.o.Consume(ctx, s.js, subjects.HostsStream, bus.ConsumeOptions{LastPerSubject: true}); err != nil {
		return err
	}
	stored, err := collect(ctx, s.bucket)
	if err != nil {
		return err
	}
	rank := map[subjects.Kind]int{subjects.KindVariable: 1, subjects.KindObjective: 1, subjects.KindBlackout: 1, subjects.KindPin: 1, subjects.KindRollout: 2, subjects.KindProgress: 3}
	slices.SortStableFunc(stored, func(a, b bus.Msg) int {
		ka, _, _ := subjects.ParseKey(a.Subject)
		kb, _, _ := subjects.ParseKey(b.Subject)
		return cmp.Compare(cmp.Or(rank[ka], 9), cmp.Or(rank[kb], 9))
	})
	if err := s.adoption(stored); err != nil {
		return err
	}
	if err := s.recall(ctx, stored); err != nil {
		return err
	}
	for _, m := range stored {
		s.apply(ctx, m)
		s.claim(m)
		if s.unread != nil {
			return s.unread
		}
	}
	s.leader.Led = max(s.leader.Led, s.snap.MostLed())
	s.audit.loaded()
	reports, err := collect(ctx, s.inventory)
	if err != nil {
		return err
	}
	for _, m := range reports {
		s.report(m)
	}
	if err := s.setBack(ctx); err != nil {
		return err
	}
	s.leaderAt, s.loaded = time.Now(), true
	s.guard.heard = s.leaderAt
	s.log.Info("loaded", "sequence", s.consumed, "records", len(stored), "hosts", len(reports))
	return nil
}

// collect reads up to the mark that says that everything stored was read.
func collect(ctx context.Context, in <-chan bus.Msg) ([]bus.Msg, error) {
	var out []bus.Msg
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case m, ok := <-in:
			switch {
			case !ok:
				return nil, errClosed
			case m.Subject == "":
				return out, nil
			}
			out = append(out, m)
		}
	}
}

// apply takes one record of the bucket into the mirror. A record that its key's
// owner didn't write is reported, and what it replaced stays.
func (s *scheduler) apply(ctx context.Context, m bus.Msg) {
	if m.Subject == "" {
		return // the mark of a consumer that started anew
	}
	s.consumed = max(s.consumed, m.Sequence)
	s.changed = true
	kind, name, err := subjects.ParseKey(m.Subject)
	if err != nil {
		return
	}
	s.audit.wrote(kind, name, m.Sequence, m.Time)
	m = s.attest(m, s.revisions[m.Subject])
	switch kind {
	case subjects.KindDesired:
		err = s.applyDesired(ctx, name, m)
	case subjects.KindRollout:
		err = s.applyRollout(ctx, rollout.ID(name), m)
	case subjects.KindProgress:
		err = s.applyProgress(ctx, rollout.ID(name), m)
	case subjects.KindVariable:
		err = s.applyVariable(ctx, name, m)
	case subjects.KindObjective:
		err = s.applyObjective(ctx, name, m)
	case subjects.KindBlackout:
		err = s.applyBlackout(ctx, name, m)
	case subjects.KindPin:
		err = s.applyPin(ctx, name, m)
	case subjects.KindAbort:
		var id rollout.ID
		if id, err = rollout.ParseID("rollout", name); err == nil {
			a := subjects.DecodeAbort(m.Header, m.Data, m.Sequence)
			s.snap.PutAbort(id, abort(a, m))
			s.judged(id, a)
			s.log.Log(ctx, s.news(), "abort", "rollout", id, "sequence", a.Sequence, "actor", a.Actor, "why", a.Why)
		}
	case subjects.KindStop:
		s.revisions[m.Subject] = m.Sequence
		a := subjects.DecodeAbort(m.Header, m.Data, m.Sequence)
		s.snap.PutStop(abort(a, m))
		if a.Released {
			s.log.Log(ctx, s.news(), "stop released", "sequence", a.Sequence, "actor", a.Actor, "why", a.Why)
		} else {
			s.log.Warn("everything is stopped", "sequence", a.Sequence, "actor", a.Actor, "why", a.Why)
		}
	case subjects.KindLeader:
		err = s.applyLeader(ctx, m)
	case subjects.KindGuard:
		err = s.applyGuard(m)
	case subjects.KindEpoch:
		err = s.applyEpoch(m)
	}
	key := kind.Key(name)
	if err != nil {
		s.problem(key, err.Error())
		if s.loaded && errors.Is(err, subjects.ErrForeign) {
			s.notice(key, fmt.Sprintf("%s was written or deleted by hand at %s (sequence %d): see the audit log", key, m.Time.UTC().Format(time.RFC3339), m.Sequence))
		}
		return
	}
	delete(s.problems, key)
}

// notice is what a person should know of for a day, though it is over.
type notice struct {
	text string
	at   time.Time
}

const noticed = 24 * time.Hour

func (s *scheduler) notice(about, text string) {
	if s.notices[about].text != text {
		s.notices[about] = notice{text, time.Now()}
	}
}

// problem notes what a person has to see to, and logs it if it is news.
func (s *scheduler) problem(key, text string) {
	if s.problems[key] != text {
		s.problems[key] = text
		s.log.Error("a person has to see to it", "about", key, "problem", text)
	}
}

// abort is what the core knows of an abort. One put by hand names no time: the
// broker's is as good.
func abort(a subjects.Abort, m bus.Msg) rollout.Abort {
	if a.Time.IsZero() {
		a.Time = m.Time
	}
	return rollout.Abort{Sequence: a.Sequence, Why: a.Why, Actor: a.Actor, Time: a.Time, Released: a.Released}
}

// news is the level of what somebody has just written; what was stored at the
// start was said then.
func (s *scheduler) news() slog.Level {
	if s.loaded {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// decodeLease decodes a lease's record, which always has a step and the seed.
func decodeLease(m bus.Msg) (*subjects.Leader, error) {
	l, err := subjects.Decode[subjects.Leader](m.Data)
	if err == nil && (m.Header.Deleted() || l.Step == "" || l.Seed == "") {
		err = subjects.ErrForeign
	}
	return l, err
}

func (s *scheduler) applyLeader(ctx context.Context, m bus.Msg) error {
	s.revisions[m.Subject] = m.Sequence
	s.leaderAt = time.Now()
	l, err := decodeLease(m)
	if err != nil {
		// The lease's holder writes it again; nobody else takes it before it
		// has run out. Who starts with it so goes by the one before.
		s.renewed = time.Time{}
		if s.leader.Seed == "" {
			good, histErr := lastGood(ctx, s, m.Subject, decodeLease)
			if histErr != nil {
				return histErr
			}
			if good != nil {
				good.Holder = ""
				if s.o.Keyring != nil {
					good.Led = s.leader.Led
				}
				s.leader = *good
			}
		}
		return fmt.Errorf("the lease was overwritten or deleted by hand: %w", err)
	}
	if s.o.Keyring != nil && !s.adopting {
		l.Led = s.leader.Led // as the epoch says, which is sealed
	}
	s.leader = *l
	s.found = s.found || l.Step == s.lost
	if s.loaded && l.Holder != s.holder {
		s.o.TakeAtOnce = false // its last holder lives
	}
	if s.leading && l.Holder != s.holder {
		s.deposed()
	}
	if !s.leading {
		s.snap.PutLead(l.Led, time.Time{})
	}
	return nil
}

// applyEpoch takes the leaders' clock from the epoch. One that was overwritten
// is written anew with the next renewal: hosts wait for it. Without identities
// there is none.
func (s *scheduler) applyEpoch(m bus.Msg) error {
	if s.o.Keyring == nil {
		return nil
	}
	s.revisions[m.Subject] = m.Sequence
	e, err := decodeOwn[subjects.Epoch](m)
	if err != nil {
		s.epoch = time.Time{}
		return fmt.Errorf("overwritten or deleted by hand; it is written anew: %w", err)
	}
	s.leader.Led = max(s.leader.Led, e.Led)
	if !s.leading {
		s.snap.PutLead(s.leader.Led, time.Time{})
	}
	return nil
}
