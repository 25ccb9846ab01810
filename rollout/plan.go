package rollout

import (
	"cmp"
	"slices"
	"strings"
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
	clock := s.elapsed(c, now)
	p := Plan{Starts: now, Target: c.target()}
	if c.record.Theta == nil { // it has not started: its phases are drawn now, from today's roles
		r := *c.record
		r.Theta = thetas(r.Salt, c.targets())
		d := *c
		d.record = &r
		c = &d
		if r.Spec.Start.After(now) {
			p.Starts = r.Spec.Start
		}
	}
	p.Ends = p.Starts.Add(max(0, c.over()-clock))
	type entry struct {
		at       time.Duration
		m        *member
		position int32
	}
	var entries []entry
	for _, g := range c.groups {
		if g.dirty {
			g.rebuild(c)
		}
		l := g.line(c)
		i := g.told
		entries = slices.Grow(entries, max(0, min(l.t-i, len(g.queue))))
		for _, m := range g.queue {
			if m.state != untold {
				continue
			}
			if i++; i > l.t {
				break
			}
			entries = append(entries, entry{l.due(i), m, int32(g.had + i)})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(string(a.m.host.name), string(b.m.host.name)))
	})
	// Hosts whose place has gone by come one a gap, the oldest first.
	gap, catchUp := c.gap(), clock
	if c.progress.CaughtUp >= 0 {
		catchUp = max(catchUp, c.progress.CaughtUp+gap)
	}
	p.Hosts = make([]Planned, len(entries))
	sorted := true
	for i, e := range entries {
		at := e.at
		if at <= clock && c.record.State != StatePending {
			at, sorted = catchUp, false
			catchUp += gap
		}
		p.Hosts[i] = Planned{e.m.host.name, e.m.group.role.name, int(e.position), p.Starts.Add(at - clock)}
	}
	if !sorted {
		slices.SortStableFunc(p.Hosts, func(a, b Planned) int { return a.Due.Compare(b.Due) })
	}
	if n := len(p.Hosts); n > 0 && p.Hosts[n-1].Due.After(p.Ends) {
		p.Ends = p.Hosts[n-1].Due
	}
	p.Roles = s.roles(c, p.Starts, clock)
	return p
}
