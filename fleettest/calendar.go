package fleettest

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// What the checker knows of calendars, canaries, pins and shapes.

// seenBlackout is a blackout with its where.
type seenBlackout struct {
	*rollout.Blackout
	where rollout.Where
}

func (c *Checker) pin(name rollout.Host, m bus.Msg) {
	delete(c.pins, name)
	if m.Header.Deleted() {
		return
	}
	p, err := subjects.Decode[rollout.Pin](m.Data)
	if err != nil {
		c.violation(Unexplained, m, "the pin of %s can't be read: %v", name, err)
		return
	}
	c.pins[name] = p
}

func (c *Checker) blackout(name rollout.ID, m bus.Msg) {
	delete(c.closed, name)
	if m.Header.Deleted() {
		return
	}
	b, err := subjects.Decode[rollout.Blackout](m.Data)
	var w rollout.Where
	if err == nil {
		w, err = rollout.ParseWhere(b.Where)
	}
	if err != nil {
		c.violation(Unexplained, m, "the blackout %s can't be read: %v", name, err)
		return
	}
	c.closed[name] = &seenBlackout{b, w}
}

// pinned checks a change that a pin is behind.
func (c *Checker) pinned(name rollout.Host, change *subjects.Change, m bus.Msg) {
	p := c.pins[name]
	if p == nil || change.Desired.Values[change.Variable] != p.Values[change.Variable] {
		c.violation(PinMoved, m, "%s is told %s %s by a pin, which is %v", name, change.Variable, change.Desired.Values[change.Variable], p)
	}
	// Once the pin has ended, a rollout may tell the host what it was told before.
	for _, r := range c.rollouts {
		if r.record != nil && r.record.Spec.Variable == change.Variable {
			delete(r.told, name)
		}
	}
}

// calendar checks that a rollout may tell a host at all now.
func (c *Checker) calendar(r *seenRollout, name rollout.Host, h *seenHost, m bus.Msg) {
	spec := &r.record.Spec
	if spec.Rollback != "" {
		return
	}
	if len(spec.Windows) > 0 && !anyShows(spec.Windows, m.Time) {
		c.violation(OutsideWindow, m, "%s is told by %s outside its windows", name, r.id)
	}
	for _, b := range c.closed {
		if h.report == nil || !b.inForce(m.Time) {
			continue
		}
		if ok, err := b.where.Selects(name, h.report.Role, h.report.Labels); ok || err != nil {
			c.violation(InBlackout, m, "%s is told by %s in the blackout %s", name, r.id, b.Name)
		}
	}
}

func (b *seenBlackout) inForce(t time.Time) bool {
	if t.Before(b.From) || !b.Until.IsZero() && !t.Before(b.Until) {
		return false
	}
	return len(b.Every) == 0 || anyShows(b.Every, t)
}

func anyShows(rules []rollout.Rule, t time.Time) bool {
	return slices.ContainsFunc(rules, func(r rollout.Rule) bool { return shows(&r, t) })
}

// shows says whether the clock on the wall shows one of the rule's times.
func shows(r *rollout.Rule, t time.Time) bool {
	zone, err := r.Zone.Location()
	if err != nil {
		return false
	}
	wall := t.In(zone)
	clock := rollout.TimeOfDay(time.Duration(wall.Hour())*time.Hour + time.Duration(wall.Minute())*time.Minute + time.Duration(wall.Second())*time.Second)
	to := r.To
	if to == 0 {
		to = rollout.TimeOfDay(24 * time.Hour)
	}
	year, month, d := wall.Date()
	today, yesterday := time.Date(year, month, d, 12, 0, 0, 0, time.UTC), time.Date(year, month, d-1, 12, 0, 0, 0, time.UTC)
	if r.From < to {
		return clock >= r.From && clock < to && onDay(r, today)
	}
	return clock >= r.From && onDay(r, today) || clock < to && onDay(r, yesterday)
}

// onDay says whether the rule has that day.
func onDay(r *rollout.Rule, day time.Time) bool {
	short := func(name string) string { return strings.ToLower(name[:3]) }
	if len(r.Days) > 0 && !slices.Contains(r.Days, rollout.Weekday(short(day.Weekday().String()))) {
		return false
	}
	if len(r.Months) > 0 && !slices.Contains(r.Months, rollout.Month(short(day.Month().String()))) {
		return false
	}
	last := day.AddDate(0, 1, -day.Day()).Day()
	return len(r.MonthDays) == 0 || slices.ContainsFunc(r.MonthDays, func(d rollout.MonthDays) bool {
		from, to := d.First, d.Last
		if from < 0 {
			from += last + 1
		}
		if to < 0 {
			to += last + 1
		}
		return from <= day.Day() && day.Day() <= to
	})
}

// open is for how long, of a stretch of time, the rollout's ramp may have gone
// on. Calendars change at whole minutes here.
func (c *Checker) open(r *seenRollout, from, until time.Time) time.Duration {
	if r.record == nil || r.record.Spec.Rollback != "" || len(r.record.Spec.Windows) == 0 && len(c.closed) == 0 {
		return until.Sub(from)
	}
	total := time.Duration(0)
	for from.Before(until) {
		next := from.Truncate(time.Minute).Add(time.Minute)
		if next.After(until) {
			next = until
		}
		closed := len(r.record.Spec.Windows) > 0 && !anyShows(r.record.Spec.Windows, from)
		for _, b := range c.closed {
			closed = closed || b.Where == "" && b.inForce(from)
		}
		if !closed {
			total += next.Sub(from)
		}
		from = next
	}
	return total
}

// starts checks that a rollout may leave pending.
func (c *Checker) starts(r *seenRollout, m bus.Msg) {
	spec := &r.record.Spec
	if m.Time.Before(spec.Start) {
		c.violation(Unstarted, m, "%s starts before %s", r.id, spec.Start)
	}
	if after := c.rollouts[spec.After]; spec.After != "" && (after == nil || after.record == nil || after.record.State != rollout.StateCompleted) {
		c.violation(Unstarted, m, "%s starts before %s has completed", r.id, spec.After)
	}
	by := make(map[rollout.ID]bool)
	for _, a := range r.record.Approvals {
		if a.Wave == 0 && a.By != r.record.Author {
			by[a.By] = true
		}
	}
	if len(by) < spec.Approvals {
		c.violation(Unstarted, m, "%s starts with %d of %d approvals", r.id, len(by), spec.Approvals)
	}
}

// clockStarts checks that the canaries have confirmed, and baked.
func (c *Checker) clockStarts(r *seenRollout, m bus.Msg) {
	spec := &r.record.Spec
	if spec.Canary == nil {
		return
	}
	for name := range r.told {
		h := c.host(name)
		told := h.told[spec.Variable]
		since, ok := h.confirmed[spec.Variable]
		switch {
		case told.Rollout != r.id || told.Released:
		case !ok:
			c.violation(Unstarted, m, "the clock of %s starts, and its canary %s hasn't confirmed", r.id, name)
		case !r.record.Baked && m.Time.Sub(since) < time.Duration(spec.Canary.Bake)-time.Second:
			c.violation(Unstarted, m, "the clock of %s starts, and its canary %s has baked for %s of %s", r.id, name, m.Time.Sub(since), spec.Canary.Bake)
		}
	}
}

// canary checks a host that is told before the ramp's clock starts.
func (c *Checker) canary(r *seenRollout, name rollout.Host, t tally, m bus.Msg) {
	h, canary := c.host(name), r.record.Spec.Canary
	if canary == nil || !r.record.Clock.IsZero() {
		c.violation(ManyCanaries, m, "%s is a canary of %s, which has none now", name, r.id)
		return
	}
	if ok, err := r.canary.Selects(name, h.report.Role, h.report.Labels); !ok || err != nil {
		c.violation(ManyCanaries, m, "%s is a canary of %s, whose where doesn't say so", name, r.id)
	}
	told, inRole := 0, 0
	for key, g := range t.groups {
		told += g.told
		if key.role == h.report.Role {
			inRole += g.told
		}
	}
	if canary.Hosts > 0 && told > canary.Hosts || canary.PerRole > 0 && inRole > canary.PerRole {
		c.violation(ManyCanaries, m, "%s has told %d canaries, %d of role %s", r.id, told, inRole, h.report.Role)
	}
}

// length is how long the ramp's clock runs.
func length(r *rollout.Record) time.Duration {
	if r.Length > 0 {
		return r.Length
	}
	return nominal(&r.Spec.Ramp)
}

func nominal(ramp *rollout.Ramp) time.Duration {
	total := ramp.Over
	switch ramp.Preset {
	case "rapid":
		total = rollout.Duration(24 * time.Hour)
	case "common":
		total = rollout.Duration(48 * time.Hour)
	case "risky":
		total = rollout.Duration(72 * time.Hour)
	}
	for _, w := range ramp.Waves {
		total += w.Hold
	}
	for _, p := range ramp.Points {
		total = p.At
	}
	return time.Duration(total)
}

// share is the share of its target that the rollout may have reached when its
// ramp's clock shows so much: with what an operator let it jump to, and without
// waves that nobody has approved.
func (r *seenRollout) share(elapsed time.Duration) float64 {
	s := math.Max(r.curve(elapsed), r.record.Advanced)
	below := 0.0
	for i, w := range r.record.Spec.Ramp.Waves {
		if w.Approval && !slices.ContainsFunc(r.record.Approvals, func(a rollout.Approval) bool { return a.Wave == i+1 }) {
			return math.Min(s, below)
		}
		below = float64(w.Percent) / 100
	}
	return s
}

// curve is the ramp's shape alone.
func (r *seenRollout) curve(elapsed time.Duration) float64 {
	ramp := &r.record.Spec.Ramp
	x := math.Min(1, float64(elapsed+time.Microsecond)/float64(length(r.record)))
	at := time.Duration(x * float64(nominal(ramp)))
	switch ramp.Shape {
	case rollout.Exponential:
		g := ramp.Growth
		if g == 0 {
			g = 10
		}
		return (math.Pow(g, x) - 1) / (g - 1)
	case rollout.Waves:
		s, start := 0.0, time.Duration(0)
		for _, w := range ramp.Waves {
			if start > at {
				break
			}
			s, start = float64(w.Percent)/100, start+time.Duration(w.Hold)
		}
		return s
	case rollout.Points:
		var from rollout.Point
		for _, to := range ramp.Points {
			if at <= time.Duration(to.At) {
				part := float64(at-time.Duration(from.At)) / float64(to.At-from.At)
				return (float64(from.Percent) + part*float64(to.Percent-from.Percent)) / 100
			}
			from = to
		}
		return 1
	}
	return x
}

// steepest is how many times as fast as a straight line the shape gets.
func steepest(ramp *rollout.Ramp) float64 {
	switch ramp.Shape {
	case rollout.Exponential:
		g := ramp.Growth
		if g == 0 {
			g = 10
		}
		return g * math.Log(g) / (g - 1)
	case rollout.Waves:
		return math.Inf(1)
	case rollout.Points:
		most := 0.0
		var from rollout.Point
		for _, to := range ramp.Points {
			most = math.Max(most, float64(to.Percent-from.Percent)/100*float64(nominal(ramp))/float64(to.At-from.At))
			from = to
		}
		return most
	}
	return 1
}
