package rollout

import (
	"cmp"
	"container/heap"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// simulate goes through the places that have still to come, in the order of
// the ramp's clock, as [round] decides them one by one, and lists when each
// host is told, and when the ramp ends. Where nothing defers anybody, each is
// told at its own place.
func (f *forecast) simulate(w without) ([]Planned, time.Time) {
	s := &simulation{forecast: f, air: f.newAirspace(f.starts), clock: f.clock, wall: f.resumes, cal: f.cal, without: w, gap: f.c.gap()}
	if w.blackouts {
		s.cal = newCalendar(f.c.record.Spec.Windows, nil)
	}
	if w.fleet {
		s.air.limit = len(f.c.groups) + f.c.n
	}
	s.caughtUp = f.c.progress.CaughtUp
	s.hosts = append(s.hosts, f.first...)
	s.lanes()
	for len(s.queue) > 0 {
		l := s.queue[0]
		at := l.at
		s.catchUp(at)
		s.to(at)
		if !s.place(l) {
			s.wait(l)
		}
		if l.step() {
			heap.Fix(&s.queue, 0)
		} else {
			heap.Pop(&s.queue)
		}
	}
	s.catchUp(f.c.length())
	end := f.c.record.ends(s.cal, s.wall, max(0, f.c.length()-max(s.clock, f.c.floor())))
	s.to(f.c.length())
	s.catchUp(-1)
	slices.SortStableFunc(s.hosts, byDue)
	if n := len(s.hosts); n > 0 && s.hosts[n-1].Due.After(end) {
		end = s.hosts[n-1].Due
	}
	return s.hosts, end
}

// simulation is a plan being made. Its clock shows clock at wall.
type simulation struct {
	*forecast
	without
	cal      *calendar
	air      *airspace
	wall     time.Time
	clock    time.Duration
	gap      time.Duration
	caughtUp time.Duration
	queue    lanes
	late     []*lane // with hosts that wait, in the order of their keys
	hosts    []Planned
}

// lane is one group's hosts, in order: those whose places have come and that
// wait, and those to come.
type lane struct {
	group *group
	line  line
	at    time.Duration // of the next place
	next  int           // its number
	rest  []*member
	told  int
	wait  []*member
	ready time.Time // nobody in wait is, before
}

// step goes on to the next place that has a host; false: there is none.
func (l *lane) step() bool {
	l.next++
	l.rest = l.rest[1:]
	return l.begin()
}

func (l *lane) begin() bool {
	if len(l.rest) == 0 || l.next > l.line.t {
		return false
	}
	l.at = l.line.due(l.next)
	return true
}

// lanes makes the lanes. It works on all processors: the groups don't know each
// other, and it is here that a plan of a million hosts reads them from memory.
func (s *simulation) lanes() {
	c := s.c
	c.rebuild()
	all := make([]lane, len(c.groups))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(all)) {
		workers.Go(func() {
			for i := int(next.Add(1)); i <= len(all); i = int(next.Add(1)) {
				all[i-1] = s.lane(c.groups[i-1])
			}
		})
	}
	workers.Wait()
	total := 0
	for i := range all {
		l := &all[i]
		total += len(l.rest)
		for came := l.line.quota(s.clock); c.record.State != StatePending && l.begin() && l.next <= came; l.next++ {
			s.wait(l)
			l.rest = l.rest[1:]
		}
		if l.begin() {
			s.queue = append(s.queue, l)
		}
	}
	s.hosts = slices.Grow(s.hosts, total)
	heap.Init(&s.queue)
}

// lane lists the group's hosts, whose order is known.
func (s *simulation) lane(g *group) lane {
	l := lane{group: g, line: g.line(s.c), told: g.told + s.ofGroup[g]}
	if s.c.rollback() { // its absent hosts take no places
		l.line.t, l.told = l.line.t-s.ofGroup[g], g.told
	}
	l.next = l.told + 1
	l.rest = make([]*member, 0, max(0, min(l.line.t-l.told, g.untold())))
	for _, m := range g.queue {
		if len(l.rest) >= l.line.t-l.told {
			break
		}
		if m.state == untold && !s.gone[m] {
			l.rest = append(l.rest, m)
		}
	}
	return l
}

// to lets the clock run until it shows at, and the calendar be open then.
func (s *simulation) to(at time.Duration) {
	if floor := min(at, s.c.floor()); s.clock < floor {
		s.clock = floor // an operator let it jump
	}
	if at > s.clock {
		if t := s.cal.after(s.wall, at-s.clock); !t.IsZero() {
			s.wall = t
		}
		s.clock = at
	}
	s.wall = soon(s.cal, s.wall)
	s.air.land(s.wall)
}

// place fills the lane's next place with the first of its hosts that can be
// told; false: there is none.
func (s *simulation) place(l *lane) bool {
	m := l.rest[0]
	if s.readyAt(m).After(s.wall) && !s.anyReady(l) || !s.roleRoom(l) {
		return false
	}
	for !s.air.room() { // the clock stands
		s.wall = soon(s.cal, s.air.next())
		s.air.land(s.wall)
	}
	if s.anyReady(l) { // one that waits is first
		s.wait(l)
		m = s.pick(l)
	}
	s.tell(l, m)
	return true
}

func (s *simulation) tell(l *lane, m *member) {
	l.told++
	s.hosts = append(s.hosts, planned(m, l.group.had+l.told, s.wall, false))
	s.air.launch(l.group.role, s.wall)
}

// wait lets the host of the lane's next place wait.
func (s *simulation) wait(l *lane) {
	if len(l.wait) == 0 {
		i, _ := slices.BinarySearchFunc(s.late, l, func(a, b *lane) int { return cmp.Compare(a.group.key, b.group.key) })
		s.late = slices.Insert(s.late, i, l)
		l.ready = time.Time{}
	}
	l.wait = append(l.wait, l.rest[0])
	if at := s.readyAt(l.rest[0]); at.Before(l.ready) {
		l.ready = at
	}
}

// readyAt is when the host can be told: not after the wall clock, if nothing
// defers it.
func (s *simulation) readyAt(m *member) time.Time {
	h := m.host
	switch {
	case h.pinned(s.c.record.Spec.Variable):
		return cmp.Or(h.pin.Until, forever)
	case len(h.under) > 0 && !s.blackouts && !s.c.rollback():
		if why, ok := h.deferred(s.wall); ok {
			return cmp.Or(why.Until, forever)
		}
	}
	if settle := time.Duration(s.c.record.Spec.Settle); settle > 0 {
		return h.lastTold(s.starts).Add(settle)
	}
	return time.Time{}
}

var forever = time.Unix(1<<40, 0)

func (s *simulation) roleRoom(l *lane) bool { return s.without.role || s.air.roleRoom(l.group.role) }

// anyReady says whether one of the lane's waiting hosts can be told.
func (s *simulation) anyReady(l *lane) bool {
	if len(l.wait) == 0 || l.ready.After(s.wall) {
		return false
	}
	l.ready = forever
	for _, m := range l.wait {
		if at := s.readyAt(m); at.Before(l.ready) {
			if l.ready = at; !at.After(s.wall) {
				return true
			}
		}
	}
	return false
}

// pick takes the first of the lane's waiting hosts that can be told.
func (s *simulation) pick(l *lane) *member {
	i := slices.IndexFunc(l.wait, func(m *member) bool { return !s.readyAt(m).After(s.wall) })
	m := l.wait[i]
	l.wait = slices.Delete(l.wait, i, i+1)
	if len(l.wait) == 0 {
		s.late = slices.DeleteFunc(s.late, func(o *lane) bool { return o == l })
	}
	return m
}

// catchUp tells hosts that wait, one a gap, the oldest place first, until the
// clock shows until; with a negative one, until nobody waits whom time alone
// makes ready.
func (s *simulation) catchUp(until time.Duration) {
	for len(s.late) > 0 {
		at := s.clock
		if s.caughtUp >= 0 {
			at = max(at, s.caughtUp+s.gap)
		}
		if until >= 0 && at >= until {
			return
		}
		s.to(at)
		best := s.oldest()
		if best == nil {
			// Somebody is ready later, or has room in its role.
			next := s.soonest()
			if !next.After(s.wall) || next.Equal(forever) {
				return
			}
			at = s.clock + s.cal.open(s.wall, next, 1<<62)
			if until >= 0 && at >= until {
				return
			}
			s.clock, s.wall = at, soon(s.cal, next)
			s.air.land(s.wall)
			continue
		}
		if !s.air.room() {
			if until >= 0 {
				return // the next place stops the clock
			}
			s.wall = soon(s.cal, s.air.next())
			s.air.land(s.wall)
			continue
		}
		s.tell(best, s.pick(best))
		s.caughtUp = s.clock
	}
}

// oldest is the lane with the oldest place that a host is ready to fill.
func (s *simulation) oldest() *lane {
	var best *lane
	var bestAt time.Duration
	for _, l := range s.late {
		if !s.anyReady(l) || !s.roleRoom(l) {
			continue
		}
		if at := l.line.due(l.told + 1); best == nil || at < bestAt {
			best, bestAt = l, at
		}
	}
	return best
}

// soonest is when the first of those that wait may be ready.
func (s *simulation) soonest() time.Time {
	next := forever
	for _, l := range s.late {
		at := l.ready
		if s.anyReady(l) && !s.roleRoom(l) {
			at = s.air.nextIn(l.group.role)
		}
		next = sooner(next, at)
	}
	return next
}

// airspace is who is in flight, if each host takes as long to confirm.
type airspace struct {
	c       *cohort
	confirm time.Duration
	limit   int
	all     []time.Time // when each confirms, in order
	roles   map[*role][]time.Time
}

func (f *forecast) newAirspace(now time.Time) *airspace {
	a := &airspace{c: f.c, confirm: f.o.Confirm, limit: f.c.limit(), roles: map[*role][]time.Time{}}
	if a.confirm > 0 {
		for _, r := range f.c.roles {
			for range r.inFlight {
				a.launch(r, now)
			}
		}
		for _, p := range f.first {
			a.launch(f.c.roles[p.Role], p.Due)
		}
	}
	return a
}

func (a *airspace) launch(r *role, at time.Time) {
	if a.confirm > 0 {
		a.all = append(a.all, at.Add(a.confirm))
		a.roles[r] = append(a.roles[r], at.Add(a.confirm))
	}
}

// land lets those go that have confirmed by t.
func (a *airspace) land(t time.Time) {
	if a.confirm == 0 {
		return
	}
	past := func(q []time.Time) []time.Time {
		for len(q) > 0 && !q[0].After(t) {
			q = q[1:]
		}
		return q
	}
	if len(a.all) == 0 || a.all[0].After(t) {
		return
	}
	a.all = past(a.all)
	for r, q := range a.roles {
		a.roles[r] = past(q)
	}
}

func (a *airspace) room() bool               { return len(a.all) < a.limit }
func (a *airspace) roleRoom(r *role) bool    { return len(a.roles[r]) < a.c.roleLimit(r) }
func (a *airspace) next() time.Time          { return a.all[0] }
func (a *airspace) nextIn(r *role) time.Time { return a.roles[r][0] }

// lanes is a heap by their next places.
type lanes []*lane

func (q lanes) Len() int      { return len(q) }
func (q lanes) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q lanes) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].group.key < q[j].group.key
}
func (q *lanes) Push(x any) { *q = append(*q, x.(*lane)) }
func (q *lanes) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	*q = (*q)[:last]
	return l
}
