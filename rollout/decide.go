package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// MaxTells is how many hosts one step tells at most: with the fences and the
// progress, a batch stays well below the broker's 1,000 messages.
const MaxTells = 490

// Scheduler is the actor of changes that no person asked for by themselves.
const Scheduler ID = "scheduler"

// Tell is one host's next document.
type Tell struct {
	Host     Host
	Desired  Desired
	Variable Name // "" for a first document and for a restored one
	Previous Value
	Reason   Reason
	Actor    ID
}

// RecordChange is a rollout's next record.
type RecordChange struct {
	ID     ID
	Record Record
}

// Step is what is committed as one batch, whole or not at all.
type Step struct {
	// Rollout is the rollout behind the step, whose abort fences it; "" where
	// none is.
	Rollout ID
	// Abort is the sequence that abort.<Rollout> is expected to have.
	Abort    uint64
	Tells    []Tell
	Records  []RecordChange
	Progress *Progress
	Variable *Variable
}

// Decision is what to do now, and when to decide again if nothing changes.
type Decision struct {
	// Steps are to be committed in order. After one that was refused the rest
	// is void: decide again.
	Steps []Step
	// Next is when something becomes due; the zero time is never. A Decision
	// with Steps has none: decide again when they are committed.
	Next time.Time
}

func (d *Decision) wake(at time.Time) {
	if !at.IsZero() && (d.Next.IsZero() || at.Before(d.Next)) {
		d.Next = at
	}
}

// Decide says what to do at now. It tells for one rollout at a time; freezes
// come first, then documents that no rollout gives, then the rollouts by age.
func Decide(s *Snapshot, now time.Time) Decision {
	var d Decision
	for _, c := range s.ordered {
		if a := s.aborts[c.id]; a.Sequence > c.record.Acknowledged && c.record.State.Live() && c.record.State != StateFrozen {
			d.Steps = append(d.Steps, s.freeze(c, a, now))
		}
	}
	if len(d.Steps) > 0 {
		return d
	}
	if step, ok := s.documents(now); ok {
		d.Steps = []Step{step}
		return d
	}
	for _, c := range s.ordered {
		if !c.active {
			continue
		}
		if steps := s.advance(c, now, &d); len(steps) > 0 {
			return Decision{Steps: steps}
		}
	}
	return d
}

func (s *Snapshot) freeze(c *cohort, a Abort, now time.Time) Step {
	r := *c.record
	by := Scheduler
	if id, err := ParseID("operator", a.Actor); err == nil {
		by = id
	}
	r.freeze(by, a, now)
	return s.transition(c, r, now, Reason{Code: Frozen, Sequence: a.Sequence, Detail: a.Why}, a.Sequence)
}

// transition is the step that changes a rollout's record and stops its clock
// or lets it go on.
func (s *Snapshot) transition(c *cohort, r Record, now time.Time, hold Reason, abort uint64) Step {
	running := (r.State == StateRunning || r.State == StateCompleted) && hold.Code == ""
	p := s.progressed(c, now, s.elapsed(c, now), running, hold)
	return Step{Rollout: c.id, Abort: abort, Records: []RecordChange{{c.id, r}}, Progress: &p}
}

// elapsed is what the ramp's clock shows.
func (s *Snapshot) elapsed(c *cohort, now time.Time) time.Duration {
	e := c.progress.Elapsed
	if c.progress.Running {
		e += max(0, s.Led(now)-c.progress.Led)
	}
	return e
}

func (s *Snapshot) progressed(c *cohort, now time.Time, elapsed time.Duration, running bool, hold Reason) Progress {
	return Progress{
		Elapsed: elapsed, Led: s.Led(now), Running: running, Hold: hold,
		CaughtUp: c.progress.CaughtUp,
		Target:   c.target(), Told: c.told + c.had, Confirmed: c.confirmed, Failed: c.failed,
	}
}

// target is the rollout's: the sum over its roles.
func (c *cohort) target() int {
	sum := 0
	for _, g := range c.groups {
		sum += max(g.target(c), min(g.n, g.had+g.told))
	}
	return sum
}

// documents gives hosts what no rollout gives them: their first document, a
// value that they already run, or their last document where it was damaged.
func (s *Snapshot) documents(now time.Time) (Step, bool) {
	if s.Stopped() || s.behind {
		return Step{}, false
	}
	var step Step
	slices.SortFunc(s.waiting, func(a, b *host) int { return cmp.Compare(a.name, b.name) }) // not in the order of the facts
	keep := s.waiting[:0]
	for i, h := range s.waiting {
		if len(step.Tells) == MaxTells {
			keep = append(keep, s.waiting[i:]...)
			break
		}
		reason := s.needs(h)
		if reason.Code == "" {
			h.queued = false
			continue
		}
		step.Tells = append(step.Tells, s.document(h, reason, now))
		keep = append(keep, h)
	}
	clear(s.waiting[len(keep):])
	s.waiting = keep
	return step, len(step.Tells) > 0
}

// needs says why the host is to be given a document apart from any rollout.
func (s *Snapshot) needs(h *host) Reason {
	switch {
	case !h.counts():
		return Reason{}
	case h.damaged && h.desired != nil:
		return Reason{Code: ByRestore}
	case h.presence != Online:
		return Reason{}
	case h.desired == nil:
		return Reason{Code: ByFirst}
	}
	if name := s.adoptable(h); name != "" {
		return Reason{Code: ByAdoption}
	}
	return Reason{}
}

// adoptable names a variable that the host wasn't told and whose value it
// already runs; "" where there is none.
func (s *Snapshot) adoptable(h *host) Name {
	found := Name("")
	for name, v := range s.variables {
		if v.Value.IsZero() || found != "" && name > found {
			continue
		}
		if _, ok := h.desired.Values[name]; !ok && v.Value.Matches(h.report.Actual[name]) {
			found = name
		}
	}
	return found
}

func (s *Snapshot) document(h *host, reason Reason, now time.Time) Tell {
	gen := h.nextGeneration()
	t := Tell{Host: h.name, Reason: reason, Actor: Scheduler, Desired: h.desired.next(gen)}
	switch reason.Code {
	case ByFirst:
		for name, v := range s.variables {
			actual := h.report.Actual[name]
			if v.Value.IsZero() || !actual.IsZero() && !v.Value.Matches(actual) {
				continue // where they differ the host has drifted, and is left to a rollout
			}
			t.Desired.set(name, v, v.Value, h, "", gen, now)
		}
	case ByAdoption:
		name := s.adoptable(h)
		t.Variable = name
		t.Desired.set(name, s.variables[name], s.variables[name].Value, h, "", gen, now)
	}
	return t
}

// maxChecks bounds what a document remembers of a host's checks, so that one
// host's report can't make a batch too big for the broker.
const maxChecks = 64

// next copies a document for a change. The receiver may be nil.
func (d *Desired) next(generation uint64) Desired {
	n := Desired{Generation: generation, Values: Document{}, Told: map[Name]Told{}}
	if d != nil {
		maps.Copy(n.Values, d.Values)
		maps.Copy(n.Told, d.Told)
	}
	return n
}

// set puts a value into a document that is being made.
func (d *Desired) set(name Name, v *Variable, value Value, h *host, by ID, generation uint64, now time.Time) {
	t := Told{Rollout: by, Generation: generation, Time: now.UTC(), File: v != nil && v.Enact == "file"}
	for id, c := range h.report.Checks {
		if c.Status == Passing {
			t.Checks = append(t.Checks, id)
		}
	}
	slices.Sort(t.Checks)
	t.Checks = t.Checks[:min(len(t.Checks), maxChecks)]
	d.Values[name] = value
	d.Told[name] = t
}

// advance moves one rollout: what to commit now, and in d when it is due next.
func (s *Snapshot) advance(c *cohort, now time.Time, d *Decision) []Step {
	switch c.record.State {
	case StatePending:
		hold := s.pending(c, now)
		if hold.Code == "" {
			r := *c.record
			r.run(now, thetas(r.Salt, c.targets()))
			return []Step{s.transition(c, r, now, Reason{}, r.Acknowledged)}
		}
		if hold.Code == NotStarted {
			d.wake(c.record.Spec.Start)
		}
		return s.note(c, now, s.elapsed(c, now), false, hold)
	case StateRunning:
		if hold := s.held(); hold.Code != "" {
			return s.note(c, now, s.elapsed(c, now), false, hold)
		}
		return s.ramp(c, now, d)
	case StateCompleted:
		if s.held().Code != "" || s.aborts[c.id].Sequence > c.record.Acknowledged {
			return nil
		}
		return s.ramp(c, now, d)
	}
	return nil // paused and frozen: their transition stopped the clock
}

// held is why nothing at all may be told.
func (s *Snapshot) held() Reason {
	switch {
	case s.Stopped():
		return Reason{Code: Stopped, Sequence: s.stop.Sequence, Detail: s.stop.Why}
	case s.behind:
		return Reason{Code: AuditBehind}
	}
	return Reason{}
}

// pending is why the rollout doesn't start yet.
func (s *Snapshot) pending(c *cohort, now time.Time) Reason {
	if hold := s.held(); hold.Code != "" {
		return hold
	}
	spec := &c.record.Spec
	if now.Before(spec.Start) {
		return Reason{Code: NotStarted}
	}
	if spec.After != "" {
		if o := s.cohorts[spec.After]; o == nil || o.record.State != StateCompleted {
			return Reason{Code: WaitingForRollout, Rollout: spec.After}
		}
	}
	return Reason{}
}

func (c *cohort) targets() map[string]int {
	out := make(map[string]int, len(c.groups))
	for _, g := range c.groups {
		if g.n > 0 { // a role that everybody left would shift the others' phases
			out[g.key] = g.target(c)
		}
	}
	return out
}

// note writes the progress where what holds the rollout has changed.
func (s *Snapshot) note(c *cohort, now time.Time, elapsed time.Duration, running bool, hold Reason) []Step {
	if c.record.State == StateCompleted || running == c.progress.Running && hold.Code == c.progress.Hold.Code {
		return nil
	}
	p := s.progressed(c, now, elapsed, running, hold)
	return []Step{{Rollout: c.id, Abort: c.record.Acknowledged, Progress: &p}}
}

// slot is a place on the ramp that has come.
type slot struct {
	at    time.Duration // on the ramp's clock
	group *group
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
	ready   map[*group][]*member // due hosts that can be told now, in order
	chosen  []choice
	inRole  map[*role]int  // chosen
	inGroup map[*group]int // chosen
	wake    time.Time      // when a settling host is ready
}

// ramp tells the hosts whose place has come since the last step, in the order
// of their places, and at most one that is overdue for another reason.
func (s *Snapshot) ramp(c *cohort, now time.Time, d *Decision) []Step {
	r := &round{s: s, c: c, now: now, ready: map[*group][]*member{}, inRole: map[*role]int{}, inGroup: map[*group]int{}}
	before, clock := c.progress.Elapsed, s.elapsed(c, now)
	held := c.progress.Hold.Code == InFlightLimit && !c.progress.Running
	if held && r.room() {
		held, clock = false, clock+1 // it was stopped one nanosecond before the place that waits
	}
	onTime, overdue, next := r.places(before, clock)
	for _, p := range onTime {
		ready := r.ready[p.group]
		if len(ready) == 0 || !r.roleRoom(p.group.role) {
			continue // the place has come and nobody can fill it: overdue from now on
		}
		if !r.room() {
			held, clock = true, p.at-1
			break
		}
		r.choose(p.group, p.at, ByRamp)
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

	hold, running := Reason{}, !held
	if held {
		hold = r.full()
	}
	if len(r.chosen) == 0 && !held && clock >= c.over() {
		var done bool
		if hold, done = r.ending(); done && c.record.State == StateRunning {
			return []Step{s.complete(c, now, clock)}
		}
	}
	if clock < c.over() {
		next = earlier(next, c.over()) // to end the ramp
	}
	if running && next >= 0 {
		d.wake(now.Add(next - clock))
	}
	d.wake(r.wake)
	if len(r.chosen) == 0 && len(onTime) == 0 {
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
	return c.over() / time.Duration(max(1, c.target()))
}

// places finds the places that have come between before and clock, how many
// more are overdue, and when the next one comes (-1: never).
func (r *round) places(before, clock time.Duration) (onTime []slot, overdue int, next time.Duration) {
	next = -1
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
			onTime = append(onTime, slot{l.due(i), g})
		}
		overdue += len(g.due) - fresh
		for _, m := range g.due {
			if ready, at := r.tellable(m.host); ready {
				r.ready[g] = append(r.ready[g], m)
			} else if !at.IsZero() && (r.wake.IsZero() || at.Before(r.wake)) {
				r.wake = at
			}
		}
	}
	slices.SortStableFunc(onTime, func(a, b slot) int {
		return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.group.key, b.group.key))
	})
	return onTime, overdue, next
}

// tellable says whether the host can be told now; if it only has to settle,
// when it can.
func (r *round) tellable(h *host) (bool, time.Time) {
	if h.presence != Online || h.desired == nil || h.damaged {
		return false, time.Time{}
	}
	if settle := time.Duration(r.c.record.Spec.Settle); settle > 0 {
		if at := h.lastTold().Add(settle); at.After(r.now) {
			return false, at
		}
	}
	return true, time.Time{}
}

// room says whether the fleet-wide in-flight limit lets another host be told.
func (r *round) room() bool {
	return r.c.inFlight()+len(r.chosen) < r.c.limit()
}

func (c *cohort) limit() int {
	return atMost(c.record.Spec.InFlight.Max.or(DefaultInFlight), c.n)
}

func (c *cohort) roleLimit(ro *role) int {
	return atMost(c.record.Spec.InFlight.PerRole.or(DefaultInFlightPerRole), ro.n)
}

func (r *round) roleRoom(ro *role) bool {
	return ro.inFlight()+r.inRole[ro] < r.c.roleLimit(ro)
}

func (r *round) full() Reason {
	return Reason{Code: InFlightLimit, InFlight: r.c.inFlight() + len(r.chosen), Limit: r.c.limit()}
}

// choose tells the group's next host that is ready.
func (r *round) choose(g *group, at time.Duration, code Code) {
	m := r.ready[g][0]
	r.ready[g] = r.ready[g][1:]
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
// for, and whether that is nothing: every online target is told, and everyone
// told has confirmed.
func (r *round) ending() (Reason, bool) {
	for _, g := range r.c.groups {
		for _, m := range g.due {
			if m.host.presence != Online {
				continue
			}
			switch {
			case !r.room():
				return r.full(), false
			case !r.roleRoom(g.role):
				return Reason{Code: RoleInFlightLimit, Role: g.role.name, InFlight: g.role.inFlight(), Limit: r.c.roleLimit(g.role)}, false
			case len(r.ready[g]) == 0:
				return Reason{Code: HostSettling, Host: m.host.name}, false
			}
			return Reason{Code: CatchingUp, Role: g.role.name, Position: g.had + g.told + 1, Target: g.target(r.c)}, false
		}
	}
	if n := r.c.inFlight(); n > 0 {
		return Reason{Code: Unconfirmed, InFlight: n, Detail: fmt.Sprintf("%d of %d hosts", n, r.c.told)}, false
	}
	return Reason{}, true
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
		p.Told = told
		if last {
			p.CaughtUp = caughtUp
		} else {
			p.Elapsed, p.Running, p.Hold = chosen[n-1].at, true, Reason{}
		}
		step := Step{Rollout: c.id, Abort: c.record.Acknowledged, Progress: &p}
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
	t.Desired.set(spec.Variable, r.s.variables[spec.Variable], spec.To, h, c.id, gen, r.now)
	t.Reason = Reason{
		Code: ch.code, Role: g.role.name, Position: ch.number, Target: g.target(c), Told: ch.number - 1,
		Share: c.share(ch.at), Rollout: c.id,
	}
	if c.record.State == StateCompleted {
		t.Reason.Code = ByLayer
	}
	return t
}

// share is S: how far the ramp's shape is at a time on its clock, 0 to 1.
func (c *cohort) share(at time.Duration) float64 {
	return max(0, min(1, float64(at)/float64(c.over())))
}

// complete ends the ramp. With full coverage the variable's value becomes the
// new one; otherwise the rollout stays as a layer for those who join.
func (s *Snapshot) complete(c *cohort, now time.Time, clock time.Duration) Step {
	r := *c.record
	r.complete(now)
	p := s.progressed(c, now, clock, true, Reason{})
	step := Step{Rollout: c.id, Abort: r.Acknowledged, Records: []RecordChange{{c.id, r}}, Progress: &p}
	if v := s.variables[r.Spec.Variable]; v != nil && r.Spec.Covers() && v.Value != r.Spec.To {
		w := *v
		w.Value = r.Spec.To
		step.Variable = &w
	}
	return step
}
