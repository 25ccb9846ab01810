package notify

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
)

// hold is a reason for which a rollout stands still.
type hold struct {
	Code  rollout.Code `json:"code"`
	Wave  int          `json:"wave,omitempty"`
	Since time.Time    `json:"since"`
	// Told says that an event said this one, Said that one said it or the one that
	// it followed upon without a pause.
	Told bool `json:"told,omitempty"`
	Said bool `json:"said,omitempty"`
	// Free is since when nothing holds it any more; zero: something does.
	Free time.Time `json:"free,omitzero"`
}

// patience is how long a hold must last to be told, and must be over for that to
// be told: a rollout at its in-flight limit starts and stops with each host. One
// that waits for a person's word is told at once.
func (f *fold) patience(c rollout.Code) time.Duration {
	if c == rollout.AwaitingApproval {
		return 0
	}
	return f.heldAfter
}

// tick gives the events that no single record makes: waves that are done, and
// holds that have lasted, or have been over, for long enough. It also says when
// to ask again, zero where only a record changes anything. It is asked when every
// record that there is has been taken.
func (f *fold) tick(now time.Time) (events []Event, next time.Time) {
	wake := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, id := range slices.Sorted(maps.Keys(f.rollouts)) {
		t := f.rollouts[id]
		if t.record == nil {
			continue
		}
		m := f.marks[id]
		if m == nil {
			m = &marks{}
		}
		events = append(events, t.waves(id, m)...)
		e, at := f.holding(id, t, m, now)
		events = append(events, e...)
		wake(at)
		switch {
		case t.record.State == rollout.StateCancelled, t.record.State == rollout.StateSuperseded, *m == marks{}:
			delete(f.marks, id)
		default:
			f.marks[id] = m
		}
	}
	return events, next
}

// waves tells the waves that are done since it was last asked.
func (t *tracked) waves(id rollout.ID, m *marks) (events []Event) {
	if t.progress == nil || !t.record.State.Live() && t.record.State != rollout.StateCompleted {
		return nil
	}
	for done := t.record.WavesDone(t.progress.Elapsed); m.Waves < done; {
		m.Waves++
		e := Event{
			ID: fmt.Sprintf("%s.%s.%d", id, WaveDone, m.Waves), Kind: WaveDone, Time: t.stepped.UTC(),
			Wave: m.Waves, Waves: len(t.record.Spec.Ramp.Waves), Actor: string(rollout.Scheduler),
		}
		t.describe(&e)
		events = append(events, e)
	}
	return events
}

// holding tells that a rollout stands still, or goes on again.
func (f *fold) holding(id rollout.ID, t *tracked, m *marks, now time.Time) (events []Event, next time.Time) {
	if t.record.State != rollout.StatePending && t.record.State != rollout.StateRunning {
		m.Hold = nil // the transition was told
		return nil, time.Time{}
	}
	why, since, next := f.why(t, now)
	say := func(k Kind, reason rollout.Reason) {
		e := Event{
			ID: fmt.Sprintf("%s.%s.%d", id, k, m.Hold.Since.UnixMilli()), Kind: k, Time: now.UTC(),
			Reason: m.Hold.Code, Why: plain(reason.String()), Actor: string(rollout.Scheduler),
		}
		if k == Held {
			e.What = fmt.Sprintf("%s stands still since %s", id, m.Hold.Since.UTC().Format(time.RFC3339))
		}
		t.describe(&e)
		events = append(events, e)
	}
	h := m.Hold
	if why.Code == "" || quiet(why) {
		switch {
		case h == nil:
		case !h.Said, t.record.State == rollout.StatePending: // its start is told
			m.Hold = nil
		case why.Code != "":
			h.Free = time.Time{} // it doesn't move yet
		default:
			if h.Free.IsZero() {
				h.Free = now
			}
			if over := h.Free.Add(f.patience(h.Code)); now.Before(over) {
				return nil, over
			}
			say(Moving, rollout.Reason{})
			m.Hold = nil
		}
		return events, next
	}
	if h == nil || h.Code != why.Code || h.Wave != why.Wave {
		h = &hold{Code: why.Code, Wave: why.Wave, Since: since.UTC(), Said: h != nil && h.Said}
		m.Hold = h
	}
	h.Free = time.Time{}
	if h.Told {
		return nil, time.Time{}
	}
	if due := h.Since.Add(f.patience(h.Code)); now.Before(due) {
		return nil, due
	}
	say(Held, why)
	h.Told, h.Said = true, true
	return events, time.Time{}
}

// quiet says that a hold isn't worth telling. What ends by itself at a time that
// is known, such as a window that opens, is as it was planned. What an operator or
// the guard did was told when they did it.
func quiet(why rollout.Reason) bool {
	return !why.Until.IsZero() || slices.Contains(toldAlready, why.Code)
}

var toldAlready = []rollout.Code{rollout.Stopped, rollout.Aborted, rollout.Paused, rollout.Frozen, rollout.Ended}

// why is the reason for which a rollout stands still, and since when. For one that
// only time keeps from its start, next is when to ask again.
func (f *fold) why(t *tracked, now time.Time) (why rollout.Reason, since, next time.Time) {
	if t.record.State == rollout.StatePending {
		return f.unapproved(t, now)
	}
	if t.progress == nil {
		return why, since, next
	}
	why = t.progress.Hold
	if since = t.stepped; now.Before(since) {
		since = now // by the broker's clock it is later
	}
	return why, since, next
}

// unapproved says whether only approvals keep a rollout from its start.
func (f *fold) unapproved(t *tracked, now time.Time) (why rollout.Reason, since, next time.Time) {
	spec := &t.record.Spec
	given := 0
	for _, a := range t.record.Approvals {
		if a.Wave == 0 {
			given++
		}
	}
	if given >= spec.Approvals {
		return why, since, next
	}
	if now.Before(spec.Start) {
		return why, since, spec.Start
	}
	if spec.After != "" {
		if o := f.rollouts[spec.After]; o == nil || o.record == nil || o.record.State != rollout.StateCompleted {
			return why, since, next
		}
	}
	since = t.record.Changed
	if spec.Start.After(since) {
		since = spec.Start
	}
	return rollout.Reason{Code: rollout.AwaitingApproval, Detail: fmt.Sprintf("%d of %d are given", given, spec.Approvals)}, since, next
}
