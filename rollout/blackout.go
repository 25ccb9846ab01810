package rollout

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
)

// scope is a blackout that selects hosts by its where.
type scope struct {
	*Blackout
	where    Where
	calendar *calendar
}

func (b *scope) selects(h *host) bool {
	if h.report == nil {
		return false
	}
	ok, err := b.where.Selects(h.name, h.report.Role, h.report.Labels)
	return ok && err == nil
}

// PutBlackout sets a blackout; nil removes it. It returns an error for one whose
// expression doesn't compile.
func (s *Snapshot) PutBlackout(name ID, b *Blackout) error {
	var made *scope
	if b != nil && b.Where != "" {
		w, err := ParseWhere(b.Where)
		if err != nil {
			return field.Errorf("where", "%v", err)
		}
		made = &scope{b, w, newCalendar(nil, []*Blackout{b})}
	}
	delete(s.blackouts, name)
	if b != nil {
		s.blackouts[name] = b
	}
	s.fleetwide = nil
	for _, b := range s.Blackouts() {
		if b.Where == "" {
			s.fleetwide = append(s.fleetwide, b)
		}
	}
	for _, c := range s.ordered {
		c.calendar = nil
	}
	old := s.scopes[name]
	delete(s.scopes, name)
	if made != nil {
		s.scopes[name] = made
	}
	if old == nil && made == nil {
		return nil
	}
	for _, h := range s.hosts {
		s.cover(h)
	}
	return nil
}

// cover finds anew which scopes select the host.
func (s *Snapshot) cover(h *host) {
	var under []*scope
	for _, b := range s.scopes {
		if b.selects(h) {
			under = append(under, b)
		}
	}
	slices.SortFunc(under, func(a, b *scope) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if slices.Equal(under, h.under) {
		return
	}
	for _, m := range h.members {
		m.count(-1)
	}
	h.under = under
	for _, m := range h.members {
		m.count(1)
	}
}

// Blackouts lists the blackouts by name.
func (s *Snapshot) Blackouts() []*Blackout {
	return slices.SortedFunc(maps.Values(s.blackouts), func(a, b *Blackout) int { return strings.Compare(string(a.Name), string(b.Name)) })
}

// BlackoutStatus says whether a blackout is in force, when that changes (the
// zero time: never), and which running rollouts it holds, or some of whose hosts
// it defers. An unknown one isn't
// in force.
func (s *Snapshot) BlackoutStatus(name ID, now time.Time) (inForce bool, next time.Time, holds []ID) {
	b := s.blackouts[name]
	if b == nil {
		return false, time.Time{}, nil
	}
	inForce, next = b.at(now)
	for _, c := range s.ordered {
		if inForce && c.record.State == StateRunning && (s.calendar(c).at(now).why.Blackout == name || !c.rollback() && c.under[s.scopes[name]] > 0) {
			holds = append(holds, c.id)
		}
	}
	return inForce, next, holds
}

// calendar says when the rollout may tell anybody. A blackout with a where
// stops a rollout all of whose hosts it selects; of others it only defers its
// hosts. Nothing of the kind holds a rollback.
func (s *Snapshot) calendar(c *cohort) *calendar {
	if c.rollback() {
		return nil
	}
	closed := s.fleetwide
	for _, b := range s.scopes {
		if n := c.under[b]; n > 0 && n == c.n {
			closed = append(slices.Clip(closed), b.Blackout)
		}
	}
	if len(closed) > len(s.fleetwide) {
		slices.SortFunc(closed, func(a, b *Blackout) int { return strings.Compare(string(a.Name), string(b.Name)) })
	}
	if c.calendar == nil || !slices.Equal(closed, c.closed) {
		c.calendar, c.closed = newCalendar(c.record.Spec.Windows, closed), closed
	}
	return c.calendar
}

// deferred says whether a blackout with a where keeps the host from being told
// at now, and until when at the least.
func (h *host) deferred(now time.Time) (Reason, bool) {
	for _, b := range h.under {
		if sp := b.calendar.at(now); sp.why.Code != "" {
			return sp.why, true
		}
	}
	return Reason{}, false
}

// openLength is how long a ramp's clock runs that starts at now: by its own
// words, or, where there are windows, the time for which these are open until
// then. It might start just before a window closes, or its windows might be
// rare: one of less than a week has no less than the windows' share, over four
// weeks, of a day or of its length; a longer one no less than half their share
// over a year.
func openLength(spec *Spec, now time.Time) time.Duration {
	nominal := spec.Ramp.Length()
	if len(spec.Windows) == 0 {
		return nominal
	}
	const day, week, year = 24 * time.Hour, 7 * 24 * time.Hour, 365 * 24 * time.Hour
	windows := newCalendar(spec.Windows, nil)
	length := windows.open(now, now.Add(nominal), nominal)
	if nominal < week {
		share := float64(windows.open(now, now.Add(4*week), 4*week)) / float64(4*week)
		length = max(length, min(nominal, time.Duration(share*float64(max(nominal, day)))))
	} else {
		share := float64(windows.open(now, now.Add(year), year)) / float64(year)
		length = max(length, time.Duration(share/2*float64(nominal)))
	}
	return max(1, length)
}
