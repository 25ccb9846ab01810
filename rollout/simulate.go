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
	spec := &f.c.record.Spec
	s := &simulation{forecast: f, defers: len(f.s.pins) > 0 || len(f.c.under) > 0 || spec.Settle > 0, air: f.newAirspace(f.starts), clock: f.clock, wall: f.resumes, cal: f.cal, without: w, gap: f.c.gap()}
	if w.blackouts {
		s.cal = newCalendar(spec.Windows, nil)
	}
	if w.fleet {
		s.air.limit = len(f.c.groups) + f.c.n
	}
	s.caughtUp = f.c.progress.CaughtUp
	s.hosts = append(s.hosts, f.first...)
	if f.waits {
		return s.hosts, time.Time{}
	}
	s.lanes()
	for len(s.queue) > 0 {
		l := s.queue[0]
		s.catchUp(l.at)
		s.to(l.at)
		if s.never {
			return s.hosts, time.Time{}
		}
		if !s.air.room() && s.someReady(l) {
			s.hold(l.at)
			continue
		}
		s.place(l)
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
	if s.never {
		return s.hosts, time.Time{}
	}
	if n := len(s.hosts); n > 0 && s.hosts[n-1].Due.After(end) {
		end = s.hosts[n-1].Due
	}
	return s.hosts, end
}

// simulation is a plan being made. Its clock shows clock at wall.
type simulation struct {
	*forecast
	without
	defers   bool // something may defer single hosts
	cal      *calendar
	air      *airspace
	wall     time.Time
	clock    time.Duration
	gap      time.Duration
	caughtUp time.Duration
	queue    lanes
	lapsed   []*lane // whose places came at lapsedAt, and whose hosts wait since
	lapsedAt time.Duration
	late     []*lane       // with hosts that wait, in the order of their keys
	never    bool          // the calendar doesn't open again
	idle     time.Duration // nobody who waits can be told before the clock shows it
	hosts    []Planned
}

// lane is one group's hosts, in order: those whose places have come and that
// wait, and those to come.
type lane struct {
	group *group
	line  line
	at    time.Duration // of the next place
	next  int           // its number
	all   []upcoming
	rest  []upcoming // of all
	told  int
	wait  []*member
	ready time.Time // nobody in wait is, before
}

// upcoming is a host with its place. What a plan of a million hosts needs of it
// is copied here, on all processors.
type upcoming struct {
	at   time.Duration
	host Host
	zone Word
	m    *member
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
	l.at = l.rest[0].at
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
	l.rest = make([]upcoming, 0, max(0, min(l.line.t-l.told, g.untold())))
	zone := slices.Index(s.c.record.Spec.Spread, "zone")
	for _, m := range g.queue {
		place := l.next + len(l.rest)
		if place > l.line.t {
			break
		}
		if m.state != untold || len(s.gone) > 0 && s.gone[m] {
			continue
		}
		u := upcoming{at: l.line.due(place), host: m.name, m: m}
		if zone >= 0 {
			u.zone = m.spread[zone]
		} else {
			u.zone = m.host.report.Labels["zone"]
		}
		l.rest = append(l.rest, u)
	}
	l.all = l.rest
	return l
}

// to lets the clock run until it shows at, and the calendar be open then.
func (s *simulation) to(at time.Duration) {
	if floor := min(at, s.c.floor()); s.clock < floor {
		s.clock = floor // an operator let it jump
	}
	if at > s.clock {
		t := s.cal.after(s.wall, at-s.clock)
		if s.never = s.never || t.IsZero(); !s.never {
			s.wall = t
		}
		s.clock = at
	}
	s.never = s.never || s.cal.after(s.wall, 0).IsZero()
	s.wall = soon(s.cal, s.wall)
	s.air.land(s.wall)
}

// someReady says whether one of the lane's hosts whose places have come could be
// told if there were room in flight.
func (s *simulation) someReady(l *lane) bool {
	return s.anyReady(l) || !s.readyAt(l.rest[0].m).After(s.wall)
}

// place fills the lane's next place with the first of its hosts that can be
// told. If there is none, the place's own host waits.
func (s *simulation) place(l *lane) {
	switch u := l.rest[0]; {
	case !s.someReady(l) || !s.roleRoom(l):
		s.wait(l)
		if s.lapsedAt != l.at {
			s.lapsedAt, s.lapsed = l.at, s.lapsed[:0]
		}
		s.lapsed = append(s.lapsed, l)
	case s.anyReady(l): // one that waits goes first
		s.wait(l)
		s.pick(l)
	default:
		s.tell(l, u.host, u.zone)
	}
}

// hold lets the clock stand until somebody has confirmed. The places of that
// very time whose hosts wait since have not come then.
func (s *simulation) hold(at time.Duration) {
	s.idle = 0
	s.wall = soon(s.cal, s.air.next())
	s.air.land(s.wall)
	if s.lapsedAt != at {
		return
	}
	for _, l := range slices.Backward(s.lapsed) {
		last := len(l.wait) - 1
		if last < 0 || l.next-1 < 1 || l.all[len(l.all)-len(l.rest)-1].m != l.wait[last] {
			continue
		}
		ended := len(l.rest) == 0
		l.wait = l.wait[:last]
		if last == 0 {
			s.forget(l)
		}
		l.rest = l.all[len(l.all)-len(l.rest)-1:]
		l.next--
		l.begin()
		if ended {
			s.queue = append(s.queue, l)
		}
	}
	s.lapsed = s.lapsed[:0]
	heap.Init(&s.queue)
}

func (s *simulation) forget(l *lane) {
	s.late = slices.DeleteFunc(s.late, func(o *lane) bool { return o == l })
}

func (s *simulation) tell(l *lane, host Host, zone Word) {
	l.told++
	s.hosts = append(s.hosts, Planned{host, l.group.role.name, zone, l.group.had + l.told, s.wall, false})
	s.air.launch(l.group.role, s.wall)
}

// wait lets the host of the lane's next place wait, unless that has no end.
func (s *simulation) wait(l *lane) {
	m := l.rest[0].m
	at := s.readyAt(m)
	if at.Equal(forever) {
		return
	}
	s.idle = 0
	if len(l.wait) == 0 {
		i, _ := slices.BinarySearchFunc(s.late, l, func(a, b *lane) int { return cmp.Compare(a.group.key, b.group.key) })
		s.late = slices.Insert(s.late, i, l)
		l.ready = time.Time{}
	}
	l.wait = append(l.wait, m)
	if at.Before(l.ready) {
		l.ready = at
	}
}

// readyAt is when the host can be told: not after the wall clock, if nothing
// defers it.
func (s *simulation) readyAt(m *member) time.Time {
	if !s.defers {
		return time.Time{}
	}
	h := m.host
	switch {
	case h.pinned(s.c.record.Spec.Variable):
		return forever // whoever is pinned keeps nobody waiting
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

// pick tells the first of the lane's waiting hosts that can be told.
func (s *simulation) pick(l *lane) {
	i := slices.IndexFunc(l.wait, func(m *member) bool { return !s.readyAt(m).After(s.wall) })
	m := l.wait[i]
	l.wait = slices.Delete(l.wait, i, i+1)
	if len(l.wait) == 0 {
		s.forget(l)
	}
	s.tell(l, m.name, m.host.report.Labels["zone"])
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
		if until >= 0 && max(at, s.idle) >= until {
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
			if until < 0 && next.After(s.starts.AddDate(1, 0, 0)) {
				s.never = true // each of its hosts' blackouts lets the next one begin
				return
			}
			at = s.clock + s.cal.open(s.wall, next, 1<<62)
			if until >= 0 && at >= until {
				s.idle = at
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
		s.pick(best)
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
