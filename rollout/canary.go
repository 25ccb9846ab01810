package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// startClock is the step that lets the ramp's clock start: now, or when that
// which it waited for had come, if a scheduler took no more than a moment to
// notice (see reopened).
func (s *Snapshot) startClock(c *cohort, r Record, now time.Time, cal *calendar) Step {
	r.Clock = now
	var due time.Time
	switch c.progress.Hold.Code {
	case OutsideWindow, InBlackout:
		due = cal.at(now).from
	case NotStarted:
		due = r.Spec.Start
		if from := cal.at(now).from; from.After(due) {
			due = from
		}
	}
	if due.After(c.progress.At) && now.Sub(due) <= s.moment(now) {
		r.Clock = due
	}
	r.Length = openLength(&r.Spec, r.Clock)
	r.Planned = r.ends(cal, r.Clock, r.Length).UTC()
	ran := now.Sub(r.Clock)
	r.Clock = r.Clock.UTC()
	step := s.transition(c, r, now, Reason{}, r.Acknowledged)
	// The places of that moment are on time.
	step.Progress.At = r.Clock
	step.Progress.Led -= ran
	return step
}

// ends is when a ramp's clock that has left to run from t comes to its end. The
// last wave starts then, in an open calendar; others may end as it closes.
func (r *Record) ends(cal *calendar, t time.Time, left time.Duration) time.Time {
	end := cal.after(t, left)
	if r.Spec.Ramp.Shape == Waves && !end.IsZero() {
		return soon(cal, end)
	}
	return end
}

// prepare is what a running rollout does before its ramp's clock starts: its
// canaries are told, confirm, and bake.
func (s *Snapshot) prepare(c *cohort, now time.Time, d *Decision) []Step {
	closed := s.closed(c, now, d)
	hold, baking := Reason{}, time.Duration(0)
	if c.record.Spec.Canary != nil {
		r := newRound(s, c, now)
		wanted := r.canaries()
		d.wake(r.wake)
		switch {
		case len(wanted.ready) > 0 && closed.Code != "":
			hold = closed
		case len(wanted.ready) > 0:
			r.tellCanaries(wanted.ready)
			if len(r.chosen) > 0 {
				return r.steps(0, c.progress.CaughtUp, false, Reason{Code: CanaryBake, Detail: "canaries are being told"})
			}
			hold = r.full()
			if r.room() {
				hold = Reason{Code: CanaryBake, Detail: "a canary waits for room in its role"}
			}
		case wanted.unheard != "":
			hold = Reason{Code: HostUnheard, Host: wanted.unheard}
		case c.inFlight > 0:
			hold = Reason{Code: CanaryBake, InFlight: c.inFlight, Detail: fmt.Sprintf("%d of %d canaries yet to confirm", c.inFlight, max(c.told, c.inFlight))}
		case wanted.nobody && !c.record.Baked:
			hold = Reason{Code: CanaryBake, Detail: "no host matches the canary's where"}
		case wanted.n > 0 && c.told == 0:
			hold = Reason{Code: CanaryBake, Detail: "none of the canaries can be told now"}
		default:
			if baking = c.progress.Baking; baking == 0 {
				baking = max(1, s.Led(now))
			}
			left := baking + time.Duration(c.record.Spec.Canary.Bake) - s.Led(now)
			if left > 0 && !c.record.Baked {
				hold = Reason{Code: CanaryBake, Until: now.Add(left).UTC()}
				d.wake(now.Add(left))
			}
		}
	}
	if hold.Code == "" {
		hold = closed
	}
	if hold.Code == "" {
		return []Step{s.startClock(c, *c.record, now, s.calendar(c))}
	}
	if p := &c.progress; p.Hold.Code == hold.Code && p.Baking == baking && p.Hold.InFlight == hold.InFlight {
		return nil
	}
	p := s.progressed(c, now, 0, false, hold)
	p.Baking = baking
	return []Step{{Rollout: c.id, Abort: c.record.Acknowledged, Progress: &p}}
}

// wanted are the canaries that have yet to be told.
type wanted struct {
	ready   []*member // that can be told now, in the order in which they are
	n       int       // all that are wanted, offline ones included
	unheard Host      // one that may be online: see Unheard
	nobody  bool      // there are hosts, and none matches the canary's where
}

// canaries finds who is to be told before the ramp's clock starts. Everybody
// whom the rollout has told so far is one. A host that can't be told now is
// passed over.
func (r *round) canaries() (w wanted) {
	c, spec := r.c, r.c.record.Spec.Canary
	c.rebuild()
	take := func(g *group, missing int) []*member {
		missing = min(missing, g.line(c).t-g.told) // never over the target
		var out []*member
		for _, m := range g.queue {
			if len(out) >= missing {
				break
			}
			if m.state != untold || !m.canary {
				continue
			}
			w.n++
			if ready, at := r.tellable(m.host); ready {
				out = append(out, m)
				for _, b := range m.host.under { // it may be deferred before the calendar opens
					r.settles(b.calendar.at(r.now).until)
				}
			} else if m.host.presence == Unheard && !m.host.pinned(c.record.Spec.Variable) {
				w.unheard = m.host.name
			} else {
				r.settles(at)
			}
		}
		return out
	}
	if spec.Where != "" && c.told == 0 && c.n > 0 {
		w.nobody = !slices.ContainsFunc(c.groups, func(g *group) bool {
			return slices.ContainsFunc(g.members, func(m *member) bool { return m.canary && !m.outside })
		})
	}
	switch {
	case spec.PerRole > 0:
		missing := make(map[*role]int)
		for _, g := range c.groups {
			if _, ok := missing[g.role]; !ok {
				missing[g.role] = spec.PerRole - g.role.told
			}
			out := take(g, missing[g.role])
			missing[g.role] -= len(out)
			w.ready = append(w.ready, out...)
		}
	default:
		missing := spec.Hosts - c.told
		if spec.Hosts == 0 {
			missing = c.n
		}
		if missing <= 0 {
			return w
		}
		for _, g := range c.groups { // all that could be one, so that it doesn't matter in how many rounds they are told
			w.ready = append(w.ready, take(g, c.n)...)
		}
		slices.SortFunc(w.ready, func(a, b *member) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.name, b.name)) })
		w.ready = w.ready[:max(0, min(len(w.ready), missing))]
	}
	return w
}

// tellCanaries chooses those for whom there is room in flight.
func (r *round) tellCanaries(ready []*member) {
	for _, m := range ready {
		if r.room() && r.roleRoom(m.group.role) {
			r.take(m, 0, ByCanary)
		}
	}
}

// absent tells the hosts of a rollback that are offline, all at once: they are
// not waited for, and not counted in flight.
func (s *Snapshot) absent(c *cohort, now time.Time) []Step {
	r, clock := newRound(s, c, now), s.elapsed(c, now)
	var absentees []*member
	for _, g := range c.groups {
		for _, m := range g.members {
			if h := m.host; m.state == untold && (h.presence == Offline || h.presence == Gone) && h.fit() && !h.pinned(c.record.Spec.Variable) {
				absentees = append(absentees, m)
			}
		}
	}
	slices.SortFunc(absentees, func(a, b *member) int { return cmp.Compare(a.name, b.name) })
	for _, m := range absentees {
		r.take(m, clock, ByRollback)
	}
	if len(r.chosen) == 0 {
		return nil
	}
	return r.steps(clock, c.progress.CaughtUp, c.progress.Running, c.progress.Hold)
}
