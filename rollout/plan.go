package rollout

import (
	"container/heap"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Planned is one host's place in a plan.
type Planned struct {
	Host     Host
	Role     Word
	Position int // in its role, from 1
	Due      time.Time
}

// Plan is what will happen to which host when, if nothing holds the rollout
// and every host confirms at once.
type Plan struct {
	Starts, Ends time.Time
	Target       int // hosts that are to have the value at the end
	Hosts        []Planned
	Roles        []RoleStatus
}

// Plan lists what a rollout that has been created has still to do.
func (s *Snapshot) Plan(id ID, now time.Time) (Plan, error) {
	c, err := s.find(id)
	if err != nil {
		return Plan{}, err
	}
	if !c.active {
		return Plan{}, refusef("%s is %s: nothing is left to plan", id, c.record.State)
	}
	return s.plan(c, now), nil
}

// PlanSpec lists what a document would do if it were created now. The seed is
// the fleet's, so that the plan is the one that the rollout will follow.
func (s *Snapshot) PlanSpec(spec Spec, seed string, now time.Time) (Plan, error) {
	if err := s.Check(spec); err != nil {
		return Plan{}, err
	}
	c, err := newCohort(s.cohorts, spec.Name, &Record{Spec: spec, State: StatePending, Created: now, Salt: Salt(seed, spec.Name)})
	if err != nil {
		return Plan{}, err
	}
	for _, h := range s.hosts {
		if h.counts() && c.selects(h) {
			c.add(h, false).update()
		}
	}
	return s.plan(c, now), nil
}

func (s *Snapshot) plan(c *cohort, now time.Time) Plan {
	c, starts, clock := s.planned(c, now)
	p := Plan{Starts: starts, Ends: starts.Add(max(0, c.over()-clock)), Target: c.target()}
	// Each group's places come in order; they are merged.
	runs, total := c.runs()
	heap.Init(&runs)
	p.Hosts = make([]Planned, 0, total)
	catchUp, late := s.catchUpAt(c, clock), false
	for len(runs) > 0 {
		r := runs[0]
		at := r.at
		if c.overdue(at, clock) { // one a gap, the oldest first
			at, late = catchUp, true
			catchUp += c.gap()
		}
		p.Hosts = append(p.Hosts, Planned{r.host, r.group.role.name, r.group.had + r.place, starts.Add(at - clock)})
		if r.step() {
			heap.Fix(&runs, 0)
		} else {
			heap.Pop(&runs)
		}
	}
	if late {
		slices.SortStableFunc(p.Hosts, func(a, b Planned) int { return a.Due.Compare(b.Due) })
	}
	if n := len(p.Hosts); n > 0 && p.Hosts[n-1].Due.After(p.Ends) {
		p.Ends = p.Hosts[n-1].Due
	}
	p.Roles = s.roles(c, starts, clock)
	return p
}

// planned is the rollout as it is planned: one that has not started draws its
// phases now, from today's roles. Its ramp's clock shows clock at starts.
func (s *Snapshot) planned(c *cohort, now time.Time) (as *cohort, starts time.Time, clock time.Duration) {
	clock = s.elapsed(c, now)
	if c.record.Theta != nil {
		return c, now, clock
	}
	r := *c.record
	r.Theta = thetas(r.Salt, c.targets())
	d := *c
	d.record = &r
	if r.Spec.Start.After(now) {
		now = r.Spec.Start
	}
	return &d, now, clock
}

// overdue says whether the place at has gone by.
func (c *cohort) overdue(at, clock time.Duration) bool {
	return at <= clock && c.record.State != StatePending
}

// catchUpAt is what the ramp's clock shows when the next overdue host can be
// told.
func (s *Snapshot) catchUpAt(c *cohort, clock time.Duration) time.Duration {
	if c.progress.CaughtUp < 0 {
		return clock
	}
	return max(clock, c.progress.CaughtUp+c.gap())
}

// dueOf says when one host is due, as the plan has it, and its place in its
// group; ok is false where its place is beyond the target.
func (s *Snapshot) dueOf(m *member, now time.Time) (due time.Time, place int, late, ok bool) {
	c, starts, clock := s.planned(m.cohort, now)
	g := m.group
	if g.dirty {
		g.rebuild(c)
	}
	l := g.line(c)
	place = m.place()
	if place > l.t {
		return time.Time{}, place, false, false
	}
	at := l.due(place)
	if !c.overdue(at, clock) {
		return starts.Add(at - clock), place, false, true
	}
	before := place - 1 - g.told // overdue hosts that are older
	for _, o := range c.groups {
		if o == g {
			continue
		}
		older := at
		if o.key > g.key {
			older-- // of two that came at once
		}
		l := o.line(c)
		before += max(0, min(l.quota(older), l.t, o.told+o.untold())-o.told)
	}
	return starts.Add(s.catchUpAt(c, clock) + time.Duration(before)*c.gap() - clock), place, true, true
}

// untold counts the group's hosts that may still be told.
func (g *group) untold() int { return g.n - g.had - g.told }

// place is the number of the place that the member fills, if it is untold and
// the group's order is known.
func (m *member) place() int {
	n := m.group.told
	for _, o := range m.group.queue {
		if o.state == untold {
			n++
		}
		if o == m {
			break
		}
	}
	return n
}

// run is one group's untold hosts within its target, in order, each with the
// time of its place.
type run struct {
	group *group
	rest  []upcoming
	// The current one:
	place int
	upcoming
}

type upcoming struct {
	host Host
	at   time.Duration
}

// step goes on to the next host; false: there is none.
func (r *run) step() bool {
	if len(r.rest) == 0 {
		return false
	}
	r.upcoming, r.rest = r.rest[0], r.rest[1:]
	r.place++
	return true
}

// runs makes the run of each group that has one, and counts their hosts. It
// works on all processors: the groups don't know each other, and it is here
// that a plan of a million hosts reads them from memory.
func (c *cohort) runs() (runs merge, total int) {
	c.rebuild()
	all := make([]run, len(c.groups))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(all)) {
		workers.Go(func() {
			for i := int(next.Add(1)); i <= len(all); i = int(next.Add(1)) {
				all[i-1] = c.groups[i-1].run(c)
			}
		})
	}
	workers.Wait()
	for i := range all {
		total += len(all[i].rest)
		if all[i].step() {
			runs = append(runs, &all[i])
		}
	}
	return runs, total
}

// run lists the group's hosts, whose order is known.
func (g *group) run(c *cohort) run {
	l := g.line(c)
	rest := make([]upcoming, 0, max(0, min(l.t-g.told, g.untold())))
	place := g.told
	for _, m := range g.queue {
		if place >= l.t {
			break
		}
		if m.state == untold {
			place++
			rest = append(rest, upcoming{m.name, l.due(place)})
		}
	}
	return run{group: g, rest: rest, place: g.told}
}

// merge is a heap of runs by their current places.
type merge []*run

func (m merge) Len() int      { return len(m) }
func (m merge) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m merge) Less(i, j int) bool {
	if m[i].at != m[j].at {
		return m[i].at < m[j].at
	}
	return m[i].group.key < m[j].group.key
}
func (m *merge) Push(x any) { *m = append(*m, x.(*run)) }
func (m *merge) Pop() any {
	last := len(*m) - 1
	r := (*m)[last]
	*m = (*m)[:last]
	return r
}
