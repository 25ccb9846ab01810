package rollout

import (
	"errors"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// Blackout is a calendar of no change: while it is in force no ramp's clock
// runs or, with Where, no host that it selects is told anything. Without Every
// it is in force once, from From to Until. With Every it recurs, and From and
// Until, each optional, bound the time in which it does.
type Blackout struct {
	Name  ID        `json:"name"`
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"` // not included
	Every []Rule    `json:"every,omitempty"`
	Where string    `json:"where,omitempty"` // an expression over role, labels and host; empty: the whole fleet
	Why   string    `json:"why,omitempty"`   // shown with every host and rollout that waits for it; at most 1 KiB
}

// Validate checks the document by itself. Its errors are *FieldError, joined.
func (b *Blackout) Validate() error {
	var errs []error
	add := func(path, format string, args ...any) {
		errs = append(errs, field.Errorf(path, format, args...))
	}
	if _, err := ParseID("blackout", string(b.Name)); err != nil {
		add("name", "%v", err)
	}
	if len(b.Every) == 0 {
		if b.From.IsZero() {
			add("from", "is missing: when the blackout starts, such as 2026-12-20T00:00:00+01:00, or every: with recurring rules")
		}
		if b.Until.IsZero() {
			add("until", "is missing: when the blackout ends, such as 2027-01-04T00:00:00+01:00, or every: with recurring rules")
		}
	}
	if !b.From.IsZero() && !b.Until.IsZero() && !b.Until.After(b.From) {
		add("until", "%s isn't after from", b.Until.Format(time.RFC3339))
	}
	validateRules("every", b.Every, add)
	if _, err := ParseWhere(b.Where); err != nil {
		add("where", "%v", err)
	}
	validateWhy(b.Why, add)
	return errors.Join(errs...)
}

// at says whether a valid blackout is in force, and when that changes: the
// zero time where it doesn't within the horizon. It pays no heed to Where.
func (b *Blackout) at(t time.Time) (inForce bool, until time.Time) {
	s := newCalendar(nil, []*Blackout{b}).at(t)
	return s.why.Code != "", s.until
}

// calendar says when a ramp's clock may run: inside one of the windows, where
// there are any, and outside every blackout. A nil calendar is always open.
// It remembers the last span that was asked about, so it isn't safe for
// concurrent use; its answers don't depend on what was asked before.
type calendar struct {
	windows   []rule
	windowed  bool // there are windows, even if none of them could be read
	blackouts []blackout
	last      span
	year      int  // of the question that last answers
	known     bool // last is an answer
}

// blackout is a Blackout made ready for asking.
type blackout struct {
	*Blackout
	every []rule
}

// span is a stretch of time in which the answer is the same.
type span struct {
	from, until time.Time // the zero time: no change within the horizon
	why         Reason    // with Code "" the calendar is open
}

// newCalendar makes windows and blackouts, all of them valid, ready for
// asking. Of two blackouts in force at once the first in the list is the
// reason. Should this machine not know a rule's zone, then the calendar stays
// on the safe side: a window in it never opens, and a blackout is in force
// from its From to its Until.
func newCalendar(windows []Rule, blackouts []*Blackout) *calendar {
	c := &calendar{windowed: len(windows) > 0}
	for i := range windows {
		if r, err := compile(&windows[i]); err == nil {
			c.windows = append(c.windows, r)
		}
	}
	for _, b := range blackouts {
		made := blackout{Blackout: b}
		for i := range b.Every {
			r, err := compile(&b.Every[i])
			if err != nil {
				made.every = nil
				break
			}
			made.every = append(made.every, r)
		}
		c.blackouts = append(c.blackouts, made)
	}
	return c
}

// always says that nothing ever closes the calendar.
func (c *calendar) always() bool {
	return c == nil || !c.windowed && len(c.blackouts) == 0
}

// The horizon is where the search for a change ends: three to four years
// away, at a turn of the year, so that the answers of one year have it in
// common.
func horizon(t time.Time) time.Time { return time.Date(t.UTC().Year()+4, 1, 1, 0, 0, 0, 0, time.UTC) }
func pastHorizon(t time.Time) time.Time {
	return time.Date(t.UTC().Year()-3, 1, 1, 0, 0, 0, 0, time.UTC)
}

// What holds at an instant; a number from 0 on is the index of the blackout
// that is in force.
const (
	isOpen        = -1
	outsideWindow = -2
)

// anyAt says whether one of the rules is in force at t, and until when that
// stays so at the least: after t, and at most limit where that is after t.
func anyAt(rules []rule, t, limit time.Time) (in bool, until time.Time) {
	sec, most := t.Unix(), limit.Unix()+1
	opens, closes := most, sec
	for i := range rules {
		if in, edge := rules[i].at(sec, most); in {
			closes = max(closes, edge)
		} else {
			opens = min(opens, edge)
		}
	}
	if closes > sec {
		return true, sooner(time.Unix(closes, 0).UTC(), limit)
	}
	return false, sooner(time.Unix(opens, 0).UTC(), limit)
}

func sooner(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// at is anyAt for a blackout.
func (b *blackout) at(t, limit time.Time) (in bool, until time.Time) {
	if t.Before(b.From) {
		return false, sooner(b.From, limit)
	}
	if !b.Until.IsZero() {
		if !t.Before(b.Until) {
			return false, limit
		}
		limit = sooner(limit, b.Until)
	}
	if len(b.every) == 0 {
		return true, limit
	}
	return anyAt(b.every, t, limit)
}

// step says what holds at t, and until when it does at the least: after t,
// and at most limit, which is after t.
func (c *calendar) step(t, limit time.Time) (state int, until time.Time) {
	state, until = isOpen, limit
	for i := range c.blackouts {
		if in, end := c.blackouts[i].at(t, limit); in {
			state, until = i, end
			break
		}
	}
	before := c.blackouts // those whose start is a change
	if state >= 0 {
		before = before[:state]
	} else if c.windowed {
		var in bool
		if in, until = anyAt(c.windows, t, until); !in {
			state = outsideWindow
		}
	}
	for i := range before {
		_, until = before[i].at(t, until)
	}
	return state, until
}

// run is step, extended over what follows and is the same.
func (c *calendar) run(t, limit time.Time) (state int, until time.Time) {
	state, until = c.step(t, limit)
	for until.Before(limit) {
		next, end := c.step(until, limit)
		if next != state {
			break
		}
		until = end
	}
	return state, until
}

// at gives the stretch around t in which the answer is the same. A closed
// one's why.Until is when the calendar opens, which is later than its end
// where it is closed for another reason then.
func (c *calendar) at(t time.Time) span {
	if c.always() {
		return span{}
	}
	if c.known && c.year == t.UTC().Year() {
		if s := c.last; !t.Before(s.from) && (s.until.IsZero() || t.Before(s.until)) {
			return s
		}
	}
	limit := horizon(t)
	state, until := c.run(t, limit)
	s := span{until: until}
	switch {
	case state >= 0:
		b := c.blackouts[state]
		s.why = Reason{Code: InBlackout, Blackout: b.Name, Detail: b.Why}
	case state == outsideWindow:
		s.why = Reason{Code: OutsideWindow}
	}
	if state != isOpen {
		opens := until
		for opens.Before(limit) {
			next, end := c.step(opens, limit)
			if next == isOpen {
				s.why.Until = opens
				break
			}
			opens = end
		}
	}
	if !until.Before(limit) {
		s.until = time.Time{}
	}
	s.from = c.since(t, state)
	c.last, c.year, c.known = s, t.UTC().Year(), true
	return s
}

// since gives when the state that holds at t began, and the zero time where
// that is beyond the horizon. It looks forward from ever earlier instants, until
// the stretch that t is in starts after the one it looked from.
func (c *calendar) since(t time.Time, state int) time.Time {
	first := pastHorizon(t)
	for back := 24 * time.Hour; ; back *= 2 {
		start := t.Add(-back)
		if start.Before(first) {
			start = first
		}
		from, found := start, time.Time{}
		for from.Before(t) || from.Equal(t) {
			s, until := c.run(from, t.Add(1))
			if until.After(t) && s == state && from.After(start) {
				found = from
			}
			from = until
		}
		if !found.IsZero() {
			return found
		}
		if start.Equal(first) {
			return time.Time{}
		}
	}
}

// open gives the open time between two instants, counting no further than
// most.
func (c *calendar) open(from, until time.Time, most time.Duration) (total time.Duration) {
	if c.always() {
		return max(min(until.Sub(from), most), 0)
	}
	for from.Before(until) && total < most {
		state, end := c.step(from, until)
		if state == isOpen {
			total += min(end.Sub(from), most-total)
		}
		from = end
	}
	return total
}

// after gives the instant at which d of open time has passed since t, the
// earliest t' with open(t, t') == d. For a d of 0 or less that is t if the
// calendar is open then, and the next opening otherwise. It returns the zero
// time where that is beyond the horizon.
func (c *calendar) after(t time.Time, d time.Duration) time.Time {
	if c.always() {
		return t.Add(max(d, 0))
	}
	for limit := horizon(t); t.Before(limit); {
		state, end := c.step(t, limit)
		if state == isOpen {
			if d <= end.Sub(t) {
				return t.Add(max(d, 0))
			}
			d -= end.Sub(t)
		}
		t = end
	}
	return time.Time{}
}
