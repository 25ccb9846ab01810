package rollout

import (
	"fmt"
	"slices"
	"time"
)

// Planned is one host's place in a plan.
type Planned struct {
	Host     Host
	Role     Word
	Zone     Word // the host's label zone
	Position int  // in its role, from 1
	Due      time.Time
	Canary   bool
}

// Plan is what will happen to which host when, if nothing but limits and
// calendars holds the rollout, evidence is always fresh, approvals are given at
// once, and offline hosts are back in time.
type Plan struct {
	Starts time.Time     // when the first host may be told
	Clock  time.Time     // when the ramp's clock starts, or started
	Ends   time.Time     // the zero time: never, as far as its calendar is known
	Length time.Duration // of the ramp, on its clock
	Target int           // hosts that are to have the value at the end
	Told   int           // hosts that had their turn before
	Hosts  []Planned     // by Due
	Roles  []RoleStatus
	Closed []Closure // in which nobody is told, at most maxClosures
	// Costs is how much earlier it would end without each limit or calendar.
	Costs map[Code]time.Duration
	// Conflicts are in plain words what an operator should know beforehand.
	Conflicts []string
}

// Closure is a stretch in which a rollout's calendar lets nobody be told.
type Closure struct {
	From, Until time.Time
	Why         Reason
}

const maxClosures = 1000

// PlanOptions says what a plan assumes.
type PlanOptions struct {
	// Confirm is how long a host takes from being told to confirming.
	Confirm time.Duration
	With    With
}

// Plan lists what a rollout that has been created has still to do.
func (s *Snapshot) Plan(id ID, o PlanOptions, now time.Time) (Plan, error) {
	c, err := s.find(id)
	if err != nil {
		return Plan{}, err
	}
	if !c.active {
		return Plan{}, refusef("%s is %s: nothing is left to plan", id, c.record.State)
	}
	if back := s.rolledBack(c); back != nil {
		return Plan{}, refusef("%s takes back what %s told, or has: nothing is left to plan", back.id, id)
	}
	return s.plan(c, o, now), nil
}

// PlanSpec lists what a document would do if it were created now. The seed is
// the fleet's, so that the plan is the one that the rollout will follow.
func (s *Snapshot) PlanSpec(spec Spec, seed string, o PlanOptions, now time.Time) (Plan, error) {
	if err := s.check(spec, o.With); err != nil {
		return Plan{}, err
	}
	return s.planRecord(&Record{Spec: spec, State: StatePending, Created: s.created(now), Salt: Salt(seed, spec.Name)}, Progress{CaughtUp: -1}, o, now)
}

// PlanChanged lists what a rollout would still do if its document were changed
// now, as [Snapshot.Change] does.
func (s *Snapshot) PlanChanged(spec Spec, o PlanOptions, now time.Time) (Plan, error) {
	c, err := s.find(spec.Name)
	if err != nil {
		return Plan{}, err
	}
	r, p, err := s.changed(c, spec, o.With, now)
	if err != nil {
		return Plan{}, err
	}
	return s.planRecord(r, p, o, now)
}

func (s *Snapshot) planRecord(r *Record, p Progress, o PlanOptions, now time.Time) (Plan, error) {
	c, err := newCohort(s.cohorts, r.Spec.Name, r)
	if err != nil {
		return Plan{}, err
	}
	c.progress = p
	for _, h := range s.hosts {
		if h.counts() && c.selects(h) {
			c.add(h, false).update()
		}
	}
	return s.plan(c, o, now), nil
}

func (s *Snapshot) plan(c *cohort, o PlanOptions, now time.Time) Plan {
	f, asIs := s.forecast(c, o, now), c.record
	c = f.c
	p := Plan{Starts: f.starts, Clock: f.clockStarts, Length: c.length(), Target: c.target(), Told: c.told + c.had}
	p.Hosts, p.Ends = f.simulate(without{})
	shown := p.Ends
	if p.Ends.IsZero() {
		shown = f.starts.AddDate(1, 0, 0)
	}
	p.Roles = s.roles(f)
	p.Costs = f.costs(p.Ends)
	for at := f.now; at.Before(shown) && len(p.Closed) < maxClosures; {
		span := f.cal.at(at)
		until := span.until
		if until.IsZero() || until.After(shown) {
			until = shown
		}
		if span.why.Code != "" {
			p.Closed = append(p.Closed, Closure{at, until, span.why})
		}
		at = until
	}
	p.Conflicts = s.conflicts(c, asIs, f.waits, &p)
	return p
}

// forecast is what a plan starts from: the rollout as it will be when its
// ramp's clock goes on.
type forecast struct {
	s *Snapshot
	o PlanOptions
	// c is the rollout as planned: one that has not started draws its phases
	// now, from today's roles, and has its length from when its clock will start.
	c           *cohort
	cal         *calendar
	now         time.Time     // of the plan, or when the rollout is to start
	starts      time.Time     // when somebody may be told again
	clockStarts time.Time     // when the ramp's clock starts, or did
	resumes     time.Time     // when it goes on
	clock       time.Duration // and what it shows then
	first       []Planned     // told apart from the ramp: canaries, and a rollback's absent hosts
	gone        map[*member]bool
	ofGroup     map[*group]int // of first
	waits       bool           // for a canary that nobody can be
}

// soon is t, or when the calendar opens next; t itself where it never does.
func soon(cal *calendar, t time.Time) time.Time {
	if at := cal.after(t, 0); !at.IsZero() {
		return at
	}
	return t
}

func (s *Snapshot) forecast(c *cohort, o PlanOptions, now time.Time) *forecast {
	f := &forecast{s: s, o: o, cal: s.calendar(c), gone: map[*member]bool{}, ofGroup: map[*group]int{}}
	d, r := *c, *c.record
	d.record, f.c = &r, &d
	if r.Theta == nil {
		r.Theta = thetas(r.Salt, c.targets())
		if r.Spec.Start.After(now) {
			now = r.Spec.Start
		}
	}
	f.now, f.starts = now, soon(f.cal, now)
	f.clock = s.stand(c, now)
	f.resumes, f.clockStarts = f.starts, r.Clock
	if c.rollback() {
		f.absent()
	}
	if r.Clock.IsZero() {
		f.resumes = f.starts
		if r.Spec.Canary != nil {
			f.resumes = f.canaries(now)
		}
		f.clockStarts = f.resumes
		r.Length = openLength(&r.Spec, f.resumes)
	}
	return f
}

func (f *forecast) tell(m *member, at time.Time, canary bool) {
	g := m.group
	f.gone[m] = true
	f.ofGroup[g]++
	f.first = append(f.first, Planned{m.name, g.role.name, m.host.report.Labels["zone"], g.had + g.told + f.ofGroup[g], at, canary})
}

// absent plans the hosts that a rollback tells at once.
func (f *forecast) absent() {
	for _, g := range f.c.groups {
		for _, m := range g.members {
			if p := m.host.presence; m.state == untold && (p == Offline || p == Gone) && !m.outside {
				f.tell(m, f.starts, false)
			}
		}
	}
}

// canaries plans the hosts that go first, and returns when the ramp's clock
// starts.
func (f *forecast) canaries(now time.Time) time.Time {
	wanted := newRound(f.s, f.c, f.starts).canaries()
	left := wanted.ready
	f.waits = wanted.nobody && !f.c.record.Baked
	at, last := f.starts, now
	air := f.newAirspace(f.starts)
	for len(left) > 0 {
		air.land(at)
		var still []*member
		for _, m := range left {
			if air.room() && air.roleRoom(m.group.role) {
				f.tell(m, at, true)
				air.launch(m.group.role, at)
				last = at
			} else {
				still = append(still, m)
			}
		}
		if left = still; len(left) > 0 {
			at = soon(f.cal, air.next())
		}
	}
	if f.c.inFlight > 0 || len(f.first) > 0 {
		last = last.Add(f.o.Confirm)
	}
	bake := time.Duration(f.c.record.Spec.Canary.Bake)
	if b := f.c.progress.Baking; b > 0 && len(f.first) == 0 {
		bake = max(0, b+bake-f.s.Led(now))
	}
	if !f.c.record.Baked {
		last = last.Add(bake)
	}
	return soon(f.cal, last)
}

// without leaves a limit or calendar out of a simulation, to see what it costs.
type without struct{ fleet, role, blackouts bool }

// costs is how much later the rollout ends because of each limit and calendar.
func (f *forecast) costs(ends time.Time) map[Code]time.Duration {
	out := map[Code]time.Duration{}
	try := func(code Code, w without) {
		if _, other := f.simulate(w); !ends.IsZero() && ends.Sub(other) >= time.Second {
			out[code] = ends.Sub(other)
		}
	}
	if f.o.Confirm > 0 {
		try(InFlightLimit, without{fleet: true})
		try(RoleInFlightLimit, without{role: true})
	}
	if len(f.c.closed) > 0 || len(f.c.under) > 0 {
		try(InBlackout, without{blackouts: true})
	}
	if f.resumes.Sub(f.starts) >= time.Second && f.c.record.Clock.IsZero() {
		out[CanaryBake] = f.resumes.Sub(f.starts)
	}
	return out
}

// conflicts says in plain words what stands in the plan's way. The record is the
// rollout's as it is, before the plan starts it.
func (s *Snapshot) conflicts(c *cohort, asIs *Record, waits bool, p *Plan) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch {
	case waits:
		add("no host matches the canary's where: it waits until somebody advances it")
	case p.Ends.IsZero():
		add("its calendar doesn't open for long enough in the years to come: it never ends")
	}
	named := map[ID]bool{}
	for _, x := range p.Closed {
		if id := x.Why.Blackout; id != "" && !named[id] {
			named[id] = true
			add("blackout %s holds it from %s until %s", id, x.From.Format(time.RFC3339), x.Until.Format(time.RFC3339))
		}
	}
	for _, b := range s.Blackouts() {
		if scope := s.scopes[b.Name]; scope != nil && !named[b.Name] && c.under[scope] > 0 {
			if in, until := scope.during(p.Starts, p.Ends); in {
				add("blackout %s defers %d of its hosts%s", b.Name, c.under[scope], until)
			}
		}
	}
	shared, pinned, offline := map[ID]int{}, 0, 0
	groups := c.groups
	if s.away == 0 && len(s.pins) == 0 && !slices.ContainsFunc(s.ordered, func(o *cohort) bool { return o.id != c.id && o.record.State.Live() }) {
		groups = nil // there is nothing to find
	}
	for _, g := range groups {
		for _, m := range g.members {
			if m.outside || m.state == told {
				continue
			}
			for _, o := range m.host.members {
				if o.cohort.id != c.id && o.cohort.record.State.Live() && !o.outside && o.cohort.id != asIs.Spec.Supersedes && o.cohort.id != asIs.Spec.After {
					shared[o.cohort.id]++
				}
			}
			if m.host.pinned(c.record.Spec.Variable) && m.state == untold {
				pinned++
			}
			if m.host.presence == Offline {
				offline++
			}
		}
	}
	for _, o := range s.ordered {
		switch n := shared[o.id]; {
		case n == 0:
		case o.record.Spec.Variable == c.record.Spec.Variable:
			add("%s moves %s on %d of its hosts: it has to be cancelled, or superseded by this one", o.id, o.record.Spec.Variable, n)
		case c.record.Spec.Settle == 0:
			add("%s moves %s on %d of its hosts, and without settle a host may change twice at once", o.id, o.record.Spec.Variable, n)
		default:
			add("%s moves %s on %d of its hosts; changes of one host are %s apart", o.id, o.record.Spec.Variable, n, c.record.Spec.Settle)
		}
	}
	if pinned > 0 {
		add("%d of its hosts are pinned, and are told when that ends", pinned)
	}
	if offline > 0 {
		add("%d of its hosts are offline, and are told when they are back", offline)
	}
	if asIs.State == StatePaused || asIs.State == StateFrozen {
		add("it is %s; the times are those if it is resumed now", asIs.State)
	}
	if n := asIs.Needed(); n > 0 {
		add("it waits for %d approvals; the times are those if they are given at once", n)
	}
	if a := c.record.Spec.After; a != "" && asIs.Theta == nil {
		if o := s.cohorts[a]; o == nil || o.record.State != StateCompleted {
			add("it waits for %s to complete; the times are those if that is at once", a)
		}
	}
	return out
}

// during says whether the blackout is in force at some time between, and in
// words until when.
func (b *scope) during(from, until time.Time) (bool, string) {
	span := b.calendar.at(from)
	if span.why.Code == "" && !span.until.IsZero() && span.until.Before(until) {
		span = b.calendar.at(span.until)
	}
	if span.why.Code == "" {
		return false, ""
	}
	return true, span.why.until("")
}

// dueOf says when one host is due, as the plan has it, and its place in its
// group; ok is false where its place is beyond the target.
func (s *Snapshot) dueOf(m *member, now time.Time) (due time.Time, place int, late, ok bool) {
	f := s.forecast(m.cohort, PlanOptions{}, now)
	c, g := f.c, m.group
	if f.gone[m] {
		i := slices.IndexFunc(f.first, func(p Planned) bool { return p.Host == m.name })
		return f.first[i].Due, f.first[i].Position - g.had, false, true
	}
	if g.dirty {
		g.rebuild(c)
	}
	l := g.line(c)
	place = g.told + f.ofGroup[g]
	for _, o := range g.queue {
		if o.state == untold && !f.gone[o] {
			place++
		}
		if o == m {
			break
		}
	}
	if place > l.t {
		return time.Time{}, place, false, false
	}
	at := l.due(place)
	if c.record.Clock.IsZero() || at > f.clock {
		return f.wall(at), place, false, true
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
	next := f.clock
	if c.progress.CaughtUp >= 0 {
		next = max(next, c.progress.CaughtUp+c.gap())
	}
	return f.wall(next + time.Duration(before)*c.gap()), place, true, true
}

// ends is when the ramp's clock comes to its end; the zero time: never.
func (f *forecast) ends() time.Time {
	left := f.c.length() - max(f.clock, f.c.floor())
	return f.c.record.ends(f.cal, f.resumes, max(0, left))
}

// wall is when the ramp's clock will show at; the zero time: never.
func (f *forecast) wall(at time.Duration) time.Time {
	from := max(f.clock, min(at, f.c.floor())) // an operator let it jump
	if t := f.cal.after(f.resumes, at-from); !t.IsZero() {
		return soon(f.cal, t)
	}
	return time.Time{}
}

// untold counts the group's hosts that may still be told.
func (g *group) untold() int { return g.n - g.had - g.told }
