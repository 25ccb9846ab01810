package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// slot is a place on the ramp that has come.
type slot struct {
	at     time.Duration // on the ramp's clock
	group  *group
	number int // in the group's line
}

// candidate is a due host that can be told now, and the number of its place in
// its group's line.
type candidate struct {
	*member
	number int
}

// choice is a host that is told, and the place that it fills.
type choice struct {
	m      *member
	at     time.Duration // what the ramp's clock shows as of it
	number int           // of the place in its role
	code   Code
}

// round is one decision of one rollout's ramp.
type round struct {
	s       *Snapshot
	c       *cohort
	now     time.Time
	ready   map[*group][]candidate // in order
	unheard map[*group]Host        // a due host that may be online: see Unheard
	chosen  []choice
	inRole  map[*role]int  // chosen
	inGroup map[*group]int // chosen
	wake    time.Time      // when what only time holds up is over
}

func newRound(s *Snapshot, c *cohort, now time.Time) *round {
	return &round{
		s: s, c: c, now: now,
		ready: map[*group][]candidate{}, unheard: map[*group]Host{}, inRole: map[*role]int{}, inGroup: map[*group]int{},
	}
}

// ramp tells the hosts whose place has come since the last step, in the order
// of their places, and at most one that is overdue for another reason.
func (s *Snapshot) ramp(c *cohort, now time.Time, d *Decision) []Step {
	r := newRound(s, c, now)
	before, clock := c.progress.Elapsed, s.elapsed(c, now)
	var hold Reason // what stops the clock, one nanosecond before the place that waits
	gate, gateAt, gated := c.gate()
	if !c.progress.Running {
		switch c.progress.Hold.Code {
		case InFlightLimit:
			if !r.room() {
				return nil // still
			}
			clock++
		case HostUnheard:
			clock++
		case AwaitingApproval:
			if gated && clock+1 >= gateAt {
				return nil // still
			}
			clock++
		}
	}
	jumped := false
	if floor := c.floor(); clock < floor && c.record.State == StateRunning {
		clock, jumped = floor, true // an operator let it jump
	}
	if gated = gated && clock >= gateAt; gated {
		clock = gateAt - 1
	}
	onTime, overdue, next := r.places(before, clock)
	for _, p := range onTime {
		switch ready := len(r.ready[p.group]) > 0 && r.ready[p.group][0].number <= p.number; { // nobody moves up
		case !ready && r.unheard[p.group] != "":
			hold, clock = Reason{Code: HostUnheard, Host: r.unheard[p.group]}, p.at-1
		case !ready:
			continue // the place has come and nobody can fill it: overdue from now on
		case !r.room():
			hold, clock = r.full(), p.at-1
		case !r.roleRoom(p.group.role):
			continue
		default:
			r.choose(p.group, p.at, ByRamp)
			continue
		}
		break
	}
	if hold.Code == "" && gated {
		hold = Reason{Code: AwaitingApproval, Wave: gate + 1, Detail: fmt.Sprintf("wave %d, %s", gate+1, c.record.Spec.Ramp.Waves[gate].Percent)}
	}
	held := hold.Code != ""
	if held && len(r.chosen) == 0 && !c.progress.Running && hold.Code == c.progress.Hold.Code && clock == before {
		return nil // still
	}
	caughtUp := c.progress.CaughtUp
	gap := c.gap()
	if g := r.oldest(); !held && g != nil && overdue > 0 {
		switch due := caughtUp + gap; {
		case !r.room():
		case caughtUp < 0 || clock >= due:
			r.choose(g, clock, ByCatchUp)
			caughtUp = clock
		default:
			next = earlier(next, due)
		}
	}

	running := !held
	if len(r.chosen) == 0 && !held && clock >= c.length() {
		var done bool
		if hold, done = r.ending(); done && c.record.State == StateRunning {
			return []Step{s.complete(c, now, clock)}
		}
	}
	if _, at, ok := c.gate(); ok && clock < at {
		next = earlier(next, at) // to wait at it
	}
	if clock < c.length() {
		next = earlier(next, c.length()) // to end the ramp
	}
	if running && next >= 0 {
		d.wake(now.Add(next - clock))
	}
	d.wake(r.wake)
	if len(r.chosen) == 0 && len(onTime) == 0 && (!jumped || clock == before) {
		return s.note(c, now, clock, running, hold)
	}
	if c.record.State == StateCompleted && len(r.chosen) == 0 {
		return nil
	}
	return r.steps(clock, caughtUp, running, hold)
}

func earlier(a, b time.Duration) time.Duration {
	if a < 0 || b < a {
		return b
	}
	return a
}

// gap is the pace of catching up, on the ramp's clock: as many hosts an hour
// as the ramp itself tells.
func (c *cohort) gap() time.Duration {
	return c.length() / time.Duration(max(1, c.target()))
}

// places finds the places that have come between before and clock, how many
// more are overdue, and when the next one comes (-1: never).
func (r *round) places(before, clock time.Duration) (onTime []slot, overdue int, next time.Duration) {
	next = -1
	r.c.rebuild()
	for _, g := range r.c.groups {
		l := g.line(r.c)
		quota := l.quota(clock)
		if quota < l.t {
			next = earlier(next, l.due(quota+1))
		}
		g.admit(r.c, quota)
		fresh := max(0, min(len(g.due), quota-max(l.quota(before), g.told)))
		if r.c.record.State == StateCompleted {
			fresh = 0 // a layer only catches up
		}
		for i := quota - fresh + 1; i <= quota; i++ {
			onTime = append(onTime, slot{l.due(i), g, i})
		}
		overdue += len(g.due) - fresh
		for i, m := range g.due {
			if ready, at := r.tellable(m.host); ready {
				r.ready[g] = append(r.ready[g], candidate{m, g.told + i + 1})
			} else if m.host.presence == Unheard && !m.host.pinned(r.c.record.Spec.Variable) {
				r.unheard[g] = m.host.name
			} else {
				r.settles(at)
			}
		}
	}
	slices.SortStableFunc(onTime, func(a, b slot) int {
		return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.group.key, b.group.key))
	})
	return onTime, overdue, next
}

// settles notes when what only time holds up is over: a host settles, or the
// rollout is watched.
func (r *round) settles(at time.Time) {
	if !at.IsZero() && (r.wake.IsZero() || at.Before(r.wake)) {
		r.wake = at
	}
}

// fit says whether the host has a document that can be followed by another.
func (h *host) fit() bool { return h.desired != nil && !h.damaged && !h.unfit }

// tellable says whether the host can be told now; if only time keeps it from
// that, until when at the least.
func (r *round) tellable(h *host) (bool, time.Time) {
	if h.presence != Online || !h.fit() || h.pinned(r.c.record.Spec.Variable) {
		return false, time.Time{}
	}
	if settle := time.Duration(r.c.record.Spec.Settle); settle > 0 {
		if at := h.lastTold(r.now).Add(settle); at.After(r.now) {
			return false, at
		}
	}
	if len(h.under) > 0 && !r.c.rollback() {
		if why, ok := h.deferred(r.now); ok {
			return false, why.Until
		}
	}
	return true, time.Time{}
}

// room says whether the fleet-wide in-flight limit lets another host be told.
func (r *round) room() bool {
	return r.c.inFlight+len(r.chosen) < r.c.limit()
}

func (c *cohort) limit() int {
	return atMost(c.record.Spec.InFlight.Max.Or(DefaultInFlight), c.n)
}

func (c *cohort) roleLimit(ro *role) int {
	return atMost(c.record.Spec.InFlight.PerRole.Or(DefaultInFlightPerRole), ro.n)
}

func (r *round) roleRoom(ro *role) bool {
	return ro.inFlight+r.inRole[ro] < r.c.roleLimit(ro)
}

func (r *round) full() Reason {
	return Reason{Code: InFlightLimit, InFlight: r.c.inFlight + len(r.chosen), Limit: r.c.limit()}
}

// choose tells the group's next host that is ready.
func (r *round) choose(g *group, at time.Duration, code Code) {
	m := r.ready[g][0].member
	r.ready[g] = r.ready[g][1:]
	r.take(m, at, code)
}

func (r *round) take(m *member, at time.Duration, code Code) {
	g := m.group
	r.inRole[g.role]++
	r.inGroup[g]++
	r.chosen = append(r.chosen, choice{m, at, g.had + g.told + r.inGroup[g], code})
}

// oldest is the group with the oldest place that a host is ready to fill.
func (r *round) oldest() *group {
	var best *group
	var bestAt time.Duration
	for _, g := range r.c.groups {
		if len(r.ready[g]) == 0 || !r.roleRoom(g.role) {
			continue
		}
		at := g.line(r.c).due(g.told + r.inGroup[g] + 1)
		if best == nil || at < bestAt {
			best, bestAt = g, at
		}
	}
	return best
}

// ending says, once the ramp's clock has run out, what the rollout still waits
// for, and whether that is nothing: every online target is told, everyone told
// has confirmed, and the objectives' windows have passed.
func (r *round) ending() (Reason, bool) {
	for _, g := range r.c.groups {
		for _, m := range g.due {
			if m.host.presence == Unheard {
				return Reason{Code: HostUnheard, Host: m.host.name}, false
			}
			if m.host.presence != Online || m.host.pinned(r.c.record.Spec.Variable) {
				continue
			}
			blackout, deferred := m.host.deferred(r.now)
			switch {
			case m.host.unfit || m.host.damaged:
				return Reason{Code: RecordDamaged, Host: m.host.name, Detail: "host " + string(m.host.name) + " has no good document"}, false
			case !r.room():
				return r.full(), false
			case !r.roleRoom(g.role):
				return Reason{Code: RoleInFlightLimit, Role: g.role.name, InFlight: g.role.inFlight, Limit: r.c.roleLimit(g.role)}, false
			case deferred && !r.c.rollback():
				blackout.Host = m.host.name
				return blackout, false
			case len(r.ready[g]) == 0:
				return Reason{Code: HostSettling, Host: m.host.name}, false
			}
			return Reason{Code: CatchingUp, Role: g.role.name, Position: g.had + g.told + 1, Target: g.target(r.c)}, false
		}
	}
	if r.c.inFlight > 0 {
		return r.c.unconfirmed(), false
	}
	if until := r.s.watchedUntil(r.c); until.After(r.now) {
		r.settles(until)
		return Reason{Code: ObjectiveWindow, Until: until}, false
	}
	return Reason{}, true
}

func (c *cohort) unconfirmed() Reason {
	n := c.inFlight
	return Reason{Code: Unconfirmed, InFlight: n, Detail: fmt.Sprintf("%d of %d hosts", n, max(n, c.told))}
}

// steps cuts what was chosen into batches. The progress of all but the last
// shows the clock as of the last host in it, so that a crash between two of
// them makes nobody overdue.
func (r *round) steps(clock, caughtUp time.Duration, running bool, hold Reason) []Step {
	c := r.c
	var steps []Step
	told := c.told + c.had
	chosen := r.chosen
	for {
		n := min(len(chosen), MaxTells)
		last := n == len(chosen)
		told += n
		p := r.s.progressed(c, r.now, clock, running, hold)
		p.Told, p.Baking = told, 0
		if c.record.State != StateCompleted {
			p.Last = r.now.UTC()
		}
		if last {
			p.CaughtUp = caughtUp
		} else if p.Elapsed = chosen[n-1].at; !c.record.Clock.IsZero() {
			p.Running, p.Hold = true, Reason{}
		}
		step := Step{Rollout: c.id, Abort: c.record.Acknowledged, Stop: r.s.stop.Sequence, Progress: &p}
		for _, ch := range chosen[:n] {
			step.Tells = append(step.Tells, r.tell(ch))
		}
		steps = append(steps, step)
		if last {
			return steps
		}
		chosen = chosen[n:]
	}
}

func (r *round) tell(ch choice) Tell {
	c, h, g := r.c, ch.m.host, ch.m.group
	spec := &c.record.Spec
	gen := h.nextGeneration()
	t := Tell{Host: h.name, Variable: spec.Variable, Actor: c.record.Author, Desired: h.desired.next(gen), Previous: h.desired.Values[spec.Variable]}
	t.Desired.set(spec.Variable, r.s.variables[spec.Variable], c.value(h), h, c.id, gen, r.now)
	t.Reason = Reason{
		Code: ch.code, Role: g.role.name, Position: ch.number, Target: g.target(c), Told: ch.number - 1,
		Share: c.curve().share(ch.at), Rollout: c.id,
	}
	switch {
	case c.record.State == StateCompleted:
		t.Reason.Code = ByLayer
	case c.rollback():
		t.Reason.Code = ByRollback
		if h.presence != Online { // it is not waited for
			told := t.Desired.Told[spec.Variable]
			told.Released = true
			t.Desired.Told[spec.Variable] = told
		}
	}
	return t
}

// floor is what the ramp's clock shows at the share that an operator let the
// rollout jump to.
func (c *cohort) floor() time.Duration {
	if c.record.Advanced == 0 {
		return 0
	}
	return c.curve().at(c.record.Advanced)
}

// gate is the first wave that waits for an approval, and what the ramp's clock
// shows when it starts.
func (c *cohort) gate() (wave int, at time.Duration, ok bool) {
	if c.record.State != StateRunning {
		return 0, 0, false
	}
	return c.curve().gate(c.record.Approvals)
}
