package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/evidence"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// ReplayRequest says what to replay.
type ReplayRequest struct {
	Rollout rollout.ID
	// Objectives judge it in place of those that it names; nil: those that it
	// names do, as they were then.
	Objectives []*slo.Objective
	// Since is from when on evidence counts; zero: from the rollout's creation
	// on. Which hosts had been changed by then is known all the same.
	Since time.Time
}

// Replay is what the guard would have made of a rollout.
type Replay struct {
	Rollout rollout.ID `json:"rollout"`
	// Created is when the rollout was created; From is when the evidence begins
	// that counted, Until when it ends.
	Created time.Time `json:"created"`
	From    time.Time `json:"from"`
	Until   time.Time `json:"until"`
	// Begins is when the stream does, where it has lost what tells how all hosts
	// stood when the rollout was created.
	Begins   time.Time `json:"begins,omitzero"`
	Messages int       `json:"messages"`
	Unread   int       `json:"unread,omitempty"` // of them: they change nothing
	// Events are the failures that counted, in their order. Those of a rollout
	// that a verdict has frozen aren't among them.
	Events []ReplayEvent `json:"events"`
	// Verdicts are those that fell: more than one where an operator resumed the
	// rollout in between.
	Verdicts []slo.Verdict `json:"verdicts"`
	// Peaks are the evidence for each objective when it was at its most, with the
	// counts as they were in the end.
	Peaks []slo.Standing `json:"peaks"`
	// Unclear says why the evidence couldn't be relied on in the end.
	Unclear string `json:"unclear,omitempty"`
	// Told counts the hosts that the rollout told in all, and ToldAfter those
	// that it told after the first verdict.
	Told      int `json:"told"`
	ToldAfter int `json:"toldAfter,omitempty"`
}

// ReplayEvent is a failure that came to count.
type ReplayEvent struct {
	// Counted is when it did, with the message of this sequence; Failure.Time is
	// when the host began to fail.
	Counted  time.Time `json:"counted"`
	Sequence uint64    `json:"sequence"`
	slo.Failure
	// Standing is the evidence after that message, in the objective that it counts
	// in.
	Standing slo.Standing `json:"standing"`
}

// Replay folds the recorded evidence of a rollout as the guard does, as far as it
// is in the stream when it is called. It needs neither scheduler nor guard. A
// rollout that the bucket doesn't know is an *Error with the code NotFound, and
// one that names no objectives, where the request doesn't either, with Usage.
func (c *Client) Replay(ctx context.Context, q ReplayRequest) (*Replay, error) {
	created, named, err := c.created(ctx, q.Rollout)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	if q.Objectives == nil && !named {
		return nil, Errorf(Usage, "rollout %s names no objectives: say by which to judge it", q.Rollout)
	}
	lost, err := c.evidenceLost(ctx)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	r := &replay{
		Replay: &Replay{Rollout: q.Rollout, Created: created, From: created, Events: []ReplayEvent{}, Verdicts: []slo.Verdict{}, Peaks: []slo.Standing{}},
		fold:   evidence.New(), since: q.Since, record: subjects.EvidenceOf(subjects.KindRollout, string(q.Rollout)),
	}
	from := created.Add(-evidence.Lookback - skew)
	if lost.After(from) {
		r.Begins = lost
	}
	if q.Since.After(created) {
		r.From = q.Since
	}
	r.fold.Note(r.note)
	if q.Objectives != nil {
		r.fold.Instead(q.Objectives)
	} else if err := c.seed(ctx, r.fold, from); err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	for m, err := range c.stored(ctx, subjects.EvidenceStream, nil, from) {
		if err != nil {
			return nil, fmt.Errorf("replay: %w", err)
		}
		r.take(m)
	}
	return r.end(), nil
}

// noEvidence says in plain words that nobody has made the stream of evidence, where
// err says that.
func (c *Client) noEvidence(err error) error {
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return Errorf(Unavailable, "there is no evidence at %s: has tsunamid been started there?", c.url())
	}
	return err
}

// evidenceLost is until when evidence was lost because of its age; zero where
// none was.
func (c *Client) evidenceLost(ctx context.Context) (time.Time, error) {
	s, err := c.js.Stream(ctx, subjects.EvidenceStream)
	if err != nil {
		return time.Time{}, c.noEvidence(err)
	}
	if state := s.CachedInfo().State; state.FirstSeq > 1 {
		return state.FirstTime, nil
	}
	return time.Time{}, nil
}

// created is when a rollout was created, by the oldest record that the bucket
// keeps of it, and whether it names objectives.
func (c *Client) created(ctx context.Context, id rollout.ID) (at time.Time, named bool, err error) {
	all, err := bus.History(ctx, c.js, subjects.Stream, subjects.KindRollout.Subject(string(id)))
	if err != nil {
		return at, false, err
	}
	if len(all) == 0 {
		return at, false, Errorf(NotFound, "rollout %s: not found", id)
	}
	at = all[0].Time
	for _, m := range all {
		r, err := evidence.DecodeRecord(m.Header, m.Data)
		if err != nil {
			continue
		}
		named = named || r.Spec.Guard != nil && len(r.Spec.Guard.Objectives) > 0
		if !r.Created.IsZero() && r.Created.Before(at) {
			at = r.Created
		}
	}
	return at, named, nil
}

// Objective reads an objective as it stands; one that isn't there is an *Error
// with the code NotFound. It needs no scheduler.
func (c *Client) Objective(ctx context.Context, name rollout.ID) (*slo.Objective, error) {
	m, err := bus.Last(ctx, c.js, subjects.Stream, subjects.KindObjective.Subject(string(name)))
	if err == nil && m.Header.Deleted() {
		err = bus.ErrNotFound
	}
	if errors.Is(err, bus.ErrNotFound) {
		return nil, Errorf(NotFound, "objective %s: not found", name)
	}
	if err != nil {
		return nil, err
	}
	o, err := evidence.DecodeObjective(m.Header, m.Data)
	if err != nil {
		return nil, fmt.Errorf("objective %s: its record can't be read: %w", name, err)
	}
	return o, nil
}

// seed gives the fold the objectives as they stood at a time.
func (c *Client) seed(ctx context.Context, f *evidence.Fold, at time.Time) error {
	all, err := bus.History(ctx, c.js, subjects.Stream, subjects.KindObjective.Pattern())
	for _, m := range all {
		f.Recall(evidence.Message(m), at)
	}
	return err
}

// replay is a replay under way.
type replay struct {
	*Replay
	fold   *evidence.Fold
	since  time.Time
	record string  // the subject of the rollout's record
	last   bus.Msg // the newest such record
	noted  []noted // with the message that is being taken
	frozen bool    // a verdict has fallen, and nobody has resumed
	// acknowledged is the newest abort that an operator has acknowledged.
	acknowledged uint64
}

// noted is a failure, with the objective that it counts in.
type noted struct {
	objective rollout.ID
	failure   slo.Failure
}

func (r *replay) take(m bus.Msg) {
	if !r.since.IsZero() && !m.Time.Before(r.since) {
		r.anew(m.Time)
	}
	if record, err := evidence.DecodeRecord(m.Header, m.Data); m.Subject == r.record && err == nil {
		r.last = m
		if record.Acknowledged > r.acknowledged {
			r.acknowledged, r.frozen = record.Acknowledged, false
		}
	}
	if m.Subject == r.record {
		r.count() // it may be the rollout's end
	}
	r.Messages++
	r.Until = m.Time
	verdicts, err := r.fold.Take(evidence.Message(m))
	if err != nil {
		r.Unread++
	}
	r.tell(m)
	var mine []slo.Verdict
	for _, v := range verdicts {
		if v.Rollout == r.Rollout {
			mine = append(mine, v)
		}
	}
	if len(r.noted) > 0 || m.Subject == r.record {
		r.look(m)
	}
	if len(mine) > 0 {
		r.Verdicts = append(r.Verdicts, mine...)
		r.frozen = true
	}
}

// anew begins the evidence anew, as a guard does when an operator resumes a
// rollout: hosts that have been told are changed ones, and nothing that they did
// before counts.
func (r *replay) anew(at time.Time) {
	r.since = time.Time{}
	record, err := evidence.DecodeRecord(r.last.Header, r.last.Data)
	if r.last.Subject == "" || err != nil {
		return // it wasn't created yet
	}
	record.Acknowledged++ // less than the sequence of any later abort
	if body, err := subjects.Encode(record); err == nil {
		// What this makes of it can't fail: it was taken before.
		_, _ = r.fold.Take(evidence.Message{Subject: r.record, Header: r.last.Header, Data: body, Sequence: r.fold.Sequence(), Time: at})
	}
	r.Events, r.Verdicts, r.Peaks, r.frozen, r.ToldAfter = r.Events[:0], r.Verdicts[:0], r.Peaks[:0], false, 0
}

// tell counts the hosts that the rollout tells.
func (r *replay) tell(m bus.Msg) {
	kind, _, err := subjects.ParseEvidence(m.Subject)
	if err != nil || kind != subjects.KindDesired || m.Header.Get(subjects.HeaderRollout) != string(r.Rollout) {
		return
	}
	r.Told++
	if len(r.Verdicts) > 0 {
		r.ToldAfter++
	}
}

// note takes a failure that the fold counts.
func (r *replay) note(id, objective rollout.ID, f slo.Failure) {
	if id == r.Rollout && !r.frozen {
		r.noted = append(r.noted, noted{objective, f})
	}
}

// look takes the evidence after a message with which something came to count.
func (r *replay) look(m bus.Msg) {
	view, _ := r.fold.View(r.Rollout) // it is watched
	for i, s := range view.Standings {
		for _, n := range r.noted {
			if n.objective == s.Objective {
				r.Events = append(r.Events, ReplayEvent{Counted: m.Time, Sequence: m.Sequence, Failure: n.failure, Standing: s})
			}
		}
		switch {
		case i == len(r.Peaks):
			r.Peaks = append(r.Peaks, s)
		case !r.frozen && s.E >= r.Peaks[i].E:
			r.Peaks[i] = s
		}
	}
	r.noted = r.noted[:0]
}

// count brings the counts up to date, where no verdict has fallen.
func (r *replay) count() {
	view, watched := r.fold.View(r.Rollout)
	if !watched || r.frozen || len(view.Standings) != len(r.Peaks) {
		return
	}
	for i, s := range view.Standings {
		p := &r.Peaks[i]
		s.E, s.Harm, s.Breach = p.E, p.Harm, p.Breach
		*p = s
	}
}

func (r *replay) end() *Replay {
	if !r.since.IsZero() {
		r.anew(r.since) // nothing is as new as that
	}
	r.count()
	if _, watched := r.fold.View(r.Rollout); watched && len(r.Verdicts) == 0 {
		r.Unclear, _ = r.fold.Clear(r.Rollout)
	}
	return r.Replay
}
