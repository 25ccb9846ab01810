package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	rank := map[subjects.Kind]int{subjects.KindVariable: 1, subjects.KindRollout: 2, subjects.KindProgress: 3}
	slices.SortStableFunc(stored, func(a, b bus.Msg) int {
		ka, _, _ := subjects.ParseKey(a.Subject)
		kb, _, _ := subjects.ParseKey(b.Subject)
		return cmp.Compare(cmp.Or(rank[ka], 9), cmp.Or(rank[kb], 9))
	})
	for _, m := range stored {
		s.apply(ctx, m)
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
	s.leaderAt, s.loaded = time.Now(), true
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
	s.audit.wrote(kind, name, m.Sequence)
	switch kind {
	case subjects.KindDesired:
		err = s.applyDesired(ctx, name, m)
	case subjects.KindRollout:
		err = s.applyRollout(ctx, rollout.ID(name), m)
	case subjects.KindProgress:
		err = s.applyProgress(ctx, rollout.ID(name), m)
	case subjects.KindVariable:
		err = s.applyVariable(ctx, name, m)
	case subjects.KindAbort:
		var id rollout.ID
		if id, err = rollout.ParseID("rollout", name); err == nil {
			a := subjects.DecodeAbort(m.Header, m.Data, m.Sequence)
			s.snap.PutAbort(id, abort(a, m))
			s.log.Log(ctx, s.news(), "abort", "rollout", id, "sequence", a.Sequence, "actor", a.Actor, "why", a.Why)
		}
	case subjects.KindStop:
		a := subjects.DecodeAbort(m.Header, m.Data, m.Sequence)
		s.snap.PutStop(abort(a, m))
		if a.Released {
			s.log.Log(ctx, s.news(), "stop released", "sequence", a.Sequence, "actor", a.Actor, "why", a.Why)
		} else {
			s.log.Warn("everything is stopped", "sequence", a.Sequence, "actor", a.Actor, "why", a.Why)
		}
	case subjects.KindLeader:
		err = s.applyLeader(ctx, m)
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
				s.leader = *good
			}
		}
		return fmt.Errorf("the lease was overwritten or deleted by hand: %w", err)
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

// lastGood finds the newest revision of a key that decodes, or nil.
func lastGood[T any](ctx context.Context, s *scheduler, subject string, decode func(bus.Msg) (*T, error)) (*T, error) {
	history, err := bus.History(ctx, s.js, subjects.Stream, subject)
	if err != nil {
		s.unread = fmt.Errorf("a record was changed by hand, and the one before can't be read: %w", err)
		return nil, err
	}
	for _, m := range slices.Backward(history) {
		if v, err := decode(m); err == nil {
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

func (s *scheduler) applyRollout(ctx context.Context, id rollout.ID, m bus.Msg) error {
	s.revisions[m.Subject] = m.Sequence
	if _, err := rollout.ParseID("rollout", string(id)); err != nil {
		return fmt.Errorf("put by hand: %w", err)
	}
	r, err := decodeOwn[rollout.Record](m)
	if err == nil {
		delete(s.damaged, id)
		return s.snap.PutRollout(id, r)
	}
	if _, known := s.snap.Status(id, time.Now()); known != nil {
		good, histErr := lastGood(ctx, s, m.Subject, decodeOwn[rollout.Record])
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

func (s *scheduler) applyVariable(ctx context.Context, name string, m bus.Msg) error {
	s.revisions[m.Subject] = m.Sequence
	n, err := rollout.ParseName(name)
	if err != nil {
		return fmt.Errorf("put by hand: %w", err)
	}
	if m.Header.Deleted() && m.Header.Get(subjects.HeaderActor) != "" {
		s.snap.PutVariable(n, nil)
		return nil
	}
	v, err := decodeOwn[rollout.Variable](m)
	if err == nil {
		s.snap.PutVariable(n, v)
		return nil
	}
	if _, known := s.snap.Variable(n); known != nil {
		good, histErr := lastGood(ctx, s, m.Subject, decodeOwn[rollout.Variable])
		if histErr != nil {
			return histErr
		}
		if good != nil {
			s.snap.PutVariable(n, good)
		}
	}
	return fmt.Errorf("overwritten or deleted by hand; the last good one counts: apply its document again: %w", err)
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

// report takes in what a host says of itself.
func (s *scheduler) report(m bus.Msg) {
	if m.Subject == "" {
		return
	}
	host, err := subjects.HostOf(m.Subject)
	if err != nil {
		s.log.Warn("report under a name that isn't allowed", "subject", m.Subject)
		return
	}
	if m.Header.Deleted() {
		return // the host's agent never deletes; whoever did harms nothing
	}
	r, err := subjects.Decode[rollout.Report](m.Data)
	if err == nil && r.Role == "" {
		err = fmt.Errorf("it has no role")
	}
	key := "report " + string(host)
	if err != nil {
		s.problem(key, "the host's report can't be read: "+err.Error())
		return
	}
	delete(s.problems, key)
	if at, ok := s.ended[host]; ok && !m.Time.After(at) {
		return // what it reported before it was decommissioned
	}
	delete(s.ended, host)
	if s.loaded {
		s.heard[host] = time.Now() // a report is a sign of life too
	}
	s.touched[host], s.changed = m.Time, true
	s.snap.PutReport(host, r)
	s.place(host, time.Now())
}

// beat takes in a heartbeat. Names that never reported themselves are not
// remembered: there is no end of names.
func (s *scheduler) beat(b heartbeat) {
	h := b.host
	if _, ok := s.touched[h]; !ok {
		return
	}
	s.twins(b)
	s.heard[h] = time.Now()
	s.changed = s.snap.PutPresence(h, rollout.Online) || s.changed
}

// twins notices two agents that use one host's name: the starts that their
// heartbeats name take turns.
func (s *scheduler) twins(b heartbeat) {
	t := s.boots[b.host]
	if b.boot == t.now || b.boot == "" {
		return
	}
	if b.boot == t.before {
		s.notice("twins "+string(b.host), fmt.Sprintf("two agents call themselves %s, started as %s and %s: stop one, then restart the other", b.host, t.now, t.before))
	}
	s.boots[b.host] = boots{now: b.boot, before: t.now}
}

// boots are the last two starts of a host's agent.
type boots struct{ now, before string }

// sweep notes who has gone silent.
func (s *scheduler) sweep(now time.Time) {
	since := now.Sub(s.swept)
	if since < s.o.Heartbeat/2 {
		return
	}
	s.swept = now
	maps.DeleteFunc(s.notices, func(_ string, n notice) bool { return now.Sub(n.at) > noticed })
	if since > 2*s.o.Heartbeat || !s.o.Conn.IsConnected() {
		s.listening = now // nobody could be heard: that a host is silent says nothing
	}
	for h := range s.touched {
		s.place(h, now)
	}
}

// place says whether a host is online, offline or gone.
func (s *scheduler) place(h rollout.Host, now time.Time) {
	heard := s.heard[h]
	p := rollout.Offline
	switch {
	case !heard.IsZero() && now.Sub(heard) <= 3*s.o.Heartbeat:
		p = rollout.Online
	case now.Sub(s.listening) <= 3*s.o.Heartbeat:
		p = rollout.Unheard
	case now.Sub(heard) > gone && now.Sub(s.touched[h]) > gone:
		p = rollout.Gone
	}
	s.changed = s.snap.PutPresence(h, p) || s.changed
}
