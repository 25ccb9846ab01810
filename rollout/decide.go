package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
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
	// Abort is the sequence that abort.<Rollout> is expected to have, and Stop
	// that of the key stop where the step tells anybody: as they were when it
	// was decided.
	Abort, Stop uint64
	Tells       []Tell
	Records     []RecordChange
	Progress    *Progress
	Variable    *Variable
	Unpin       []Host // whose pins have come to their end: their keys are deleted
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
// come first, and the rollbacks that follow from them, then documents that no
// rollout gives, then the rollouts by age.
func Decide(s *Snapshot, now time.Time) Decision {
	var d Decision
	for _, c := range s.ordered {
		if a := s.aborts[c.id]; a.Sequence > c.record.Acknowledged && c.record.State.Live() && c.record.State != StateFrozen && !c.unfit {
			d.Steps = append(d.Steps, s.freeze(c, a, now))
		}
	}
	if len(d.Steps) > 0 {
		return d
	}
	if d.Steps = s.retreat(now); len(d.Steps) > 0 {
		return d
	}
	if d.Steps = s.expire(now, &d); len(d.Steps) > 0 {
		return d
	}
	if step, ok := s.documents(now); ok {
		d.Steps = []Step{step}
		return d
	}
	for _, c := range s.ordered {
		if !c.active || c.unfit {
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
	running := (r.State == StateRunning || r.State == StateCompleted) && hold.Code == "" && !r.Clock.IsZero()
	p := s.progressed(c, now, s.stand(c, now), running, hold)
	if r.State == StateFrozen {
		p.Baking = 0 // the canary bakes anew
	}
	return Step{Rollout: c.id, Abort: abort, Records: []RecordChange{{c.id, r}}, Progress: &p}
}

// elapsed is what the ramp's clock shows: it runs while a scheduler leads and
// the calendar is open. That of a layer only serves to tell one host a gap.
func (s *Snapshot) elapsed(c *cohort, now time.Time) time.Duration {
	p := &c.progress
	if !p.Running {
		return p.Elapsed + s.reopened(c, now)
	}
	ran := max(0, s.Led(now)-p.Led)
	if c.record.State == StateCompleted {
		ran = min(ran, max(0, p.CaughtUp-p.Elapsed)+c.gap())
	}
	if cal := s.calendar(c); !cal.always() {
		from := p.At
		if now.Before(from) { // the wall clock of whoever wrote it was ahead
			from = now.Add(-ran)
		}
		ran = cal.open(from, now, ran)
	}
	return p.Elapsed + ran
}

// reopened is for how long the calendar has been open that holds the ramp's
// clock: a scheduler takes a moment to notice, and without that moment a ramp
// whose windows are counted would end a window later.
func (s *Snapshot) reopened(c *cohort, now time.Time) time.Duration {
	code := c.progress.Hold.Code
	if c.record.State != StateRunning || c.record.Clock.IsZero() || code != OutsideWindow && code != InBlackout || s.unclear(c, now).Code != "" {
		return 0
	}
	span := s.calendar(c).at(now)
	if span.why.Code != "" || !span.from.After(c.progress.At) {
		return 0
	}
	return min(now.Sub(span.from), s.moment(now))
}

// moment is how late a scheduler that leads can be with a decision: what hasn't
// been renewed. One that has just taken over was late with nothing.
func (s *Snapshot) moment(now time.Time) time.Duration { return s.Led(now) - s.led }

func (s *Snapshot) progressed(c *cohort, now time.Time, elapsed time.Duration, running bool, hold Reason) Progress {
	return Progress{
		Elapsed: elapsed, Led: s.Led(now), Running: running, At: now.UTC(), Hold: hold,
		CaughtUp: c.progress.CaughtUp, Last: c.progress.Last, Baking: c.progress.Baking, Held: s.heldFor(c, now),
		Target: c.target(), Told: c.told + c.had, Confirmed: c.confirmed, Failed: c.failed,
	}
}

// heldFor is for how long the rollout stood still for each reason, the present
// one included, since it left pending.
func (s *Snapshot) heldFor(c *cohort, now time.Time) map[Code]time.Duration {
	p := &c.progress
	code, since := p.Hold.Code, now.Sub(p.At)
	if p.Running { // as far as nobody led
		code, since = NoScheduler, since-max(0, s.Led(now)-p.Led)
	}
	if c.record.Theta == nil || c.record.State == StateCompleted || p.At.IsZero() || code == "" || since < time.Second {
		return p.Held
	}
	held := maps.Clone(p.Held)
	if held == nil {
		held = make(map[Code]time.Duration, 1)
	}
	held[code] += since
	return held
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
	step := Step{Stop: s.stop.Sequence}
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
	case !h.counts() || h.unfit:
		return Reason{}
	case h.damaged && h.desired != nil:
		return Reason{Code: ByRestore}
	case h.unpinned() != "":
		return h.pin.reason()
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
		if !s.carries(h, name) && v.Value.Matches(h.report.Actual[name]) {
			found = name
		}
	}
	return found
}

// carries says whether the host was told the variable, or had it taken out by a
// rollout that still stands.
func (s *Snapshot) carries(h *host, name Name) bool {
	if _, ok := h.desired.Values[name]; ok {
		return true
	}
	c := s.cohorts[h.desired.Told[name].Rollout]
	return c != nil && c.active
}

func (s *Snapshot) document(h *host, reason Reason, now time.Time) Tell {
	gen := h.nextGeneration()
	t := Tell{Host: h.name, Reason: reason, Actor: Scheduler, Desired: h.desired.next(gen)}
	switch reason.Code {
	case ByFirst:
		for name, v := range s.variables {
			actual := h.report.Actual[name]
			if v.Value.IsZero() || h.pinned(name) || !actual.IsZero() && !v.Value.Matches(actual) {
				continue // where they differ the host has drifted, and is left to a rollout
			}
			if h.report.Enact[name].Status == Unobserved {
				continue // it may run anything
			}
			t.Desired.set(name, v, v.Value, h, "", gen, now)
		}
	case ByPin:
		name := h.unpinned()
		t.Variable, t.Previous, t.Actor = name, h.desired.Values[name], h.pin.By
		t.Desired.set(name, s.variables[name], h.pin.Values[name], h, "", gen, now)
		t.Desired.Told[name] = pinned(t.Desired.Told[name])
	case ByAdoption:
		name := s.adoptable(h)
		t.Variable = name
		t.Desired.set(name, s.variables[name], s.variables[name].Value, h, "", gen, now)
	}
	return t
}

// maxChecks bounds what a document remembers of a host's checks, so that one
// host's report can't make a batch too big for the broker.
const maxChecks = 16

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
	if by != "" {
		t.Previous = d.Values[name]
		if actual := h.report.Actual[name]; t.Previous.IsZero() && v != nil && v.Accept(actual) == nil {
			t.Previous = actual // it had drifted
		}
	}
	d.Values[name] = value
	if value.IsZero() {
		delete(d.Values, name)
	}
	d.Told[name] = t
}

// advance moves one rollout: what to commit now, and in d when it is due next.
func (s *Snapshot) advance(c *cohort, now time.Time, d *Decision) []Step {
	switch c.record.State {
	case StatePending:
		hold := s.pending(c, now)
		if hold.Code == "" {
			return []Step{s.run(c, now)}
		}
		if hold.Code == NotStarted {
			d.wake(c.record.Spec.Start)
		}
		return s.note(c, now, s.elapsed(c, now), false, hold)
	case StateRunning:
		if hold := s.held(); hold.Code != "" {
			return s.halt(c, now, hold)
		}
		if c.rollback() {
			if steps := s.absent(c, now); len(steps) > 0 {
				return steps
			}
		}
		if c.record.Clock.IsZero() {
			return s.prepare(c, now, d)
		}
		if hold := s.closed(c, now, d); hold.Code != "" {
			clock := s.stand(c, now)
			switch left, done := s.left(c, now, clock, d); {
			case hold.Code == NoFreshEvidence:
			case done:
				return []Step{s.complete(c, now, clock)} // which tells nobody
			case left.Code == ObjectiveWindow:
				hold = left
			}
			return s.halt(c, now, hold)
		}
		return s.ramp(c, now, d)
	case StatePaused: // by its rollback, which has a progress of its own; else its transition stopped the clock
		if c.progress.Running {
			return s.halt(c, now, Reason{Code: Paused, Detail: c.record.Why})
		}
	case StateCompleted:
		if s.held().Code != "" || s.aborts[c.id].Sequence > c.record.Acknowledged || s.closed(c, now, d).Code != "" {
			return nil
		}
		return s.ramp(c, now, d)
	}
	return nil // frozen: its transition stopped the clock
}

// run is the step that lets a rollout leave pending. Without a canary, and if
// nothing closes it, its ramp's clock starts at once.
func (s *Snapshot) run(c *cohort, now time.Time) Step {
	r := *c.record
	r.run(now, thetas(r.Salt, c.targets()))
	cal := s.calendar(c)
	if r.Spec.Canary == nil && s.unclear(c, now).Code == "" && (cal.always() || cal.at(now).why.Code == "") {
		return s.startClock(c, r, now, cal)
	}
	return s.transition(c, r, now, Reason{}, r.Acknowledged)
}

// closed is why the evidence or the calendar lets nobody be told, and wakes when
// that changes by itself.
func (s *Snapshot) closed(c *cohort, now time.Time, d *Decision) Reason {
	if why := s.unclear(c, now); why.Code != "" {
		return why
	}
	if c.guarded() && c.record.State != StateCompleted { // nothing ends with a layer's clearance
		d.wake(s.clearances[c.id].Until)
	}
	cal := s.calendar(c)
	if cal.always() {
		return Reason{}
	}
	span := cal.at(now)
	if span.why.Code != "" || c.record.State != StateCompleted { // nothing ends with a layer's window
		d.wake(span.until)
	}
	return span.why
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
		return Reason{Code: NotStarted, Until: spec.Start}
	}
	if spec.After != "" {
		o := s.cohorts[spec.After]
		if o == nil || o.record.State != StateCompleted {
			hold := Reason{Code: WaitingForRollout, Rollout: spec.After}
			if o != nil && !o.record.State.Live() {
				hold.Detail = "which is " + string(o.record.State) + ", so that never happens"
			}
			return hold
		}
	}
	if given := c.record.approvals(0); given < spec.Approvals {
		return Reason{Code: AwaitingApproval, Detail: fmt.Sprintf("%d of %d are given", given, spec.Approvals)}
	}
	return Reason{}
}

// halt notes that the ramp's clock stands.
func (s *Snapshot) halt(c *cohort, now time.Time, hold Reason) []Step {
	return s.note(c, now, s.stand(c, now), false, hold)
}

// left says what the rollout still waits for when the ramp's clock shows clock,
// once that has run out, and whether that is nothing.
func (s *Snapshot) left(c *cohort, now time.Time, clock time.Duration, d *Decision) (Reason, bool) {
	if clock < c.length() || c.inFlight > 0 {
		return Reason{}, false
	}
	r := newRound(s, c, now)
	r.places(clock, clock)
	hold, done := r.ending()
	if hold.Code == ObjectiveWindow {
		d.wake(hold.Until)
	}
	return hold, done
}

// stand is what the ramp's clock shows if it stops now: where a place has come
// meanwhile and nobody was told, one nanosecond before it, so that nothing that
// stops the clock makes anybody overdue.
func (s *Snapshot) stand(c *cohort, now time.Time) time.Duration {
	before, clock := c.progress.Elapsed, s.elapsed(c, now)
	if c.active && c.record.State == StateRunning && clock > before {
		if _, at, ok := c.gate(); ok && clock >= at {
			clock = max(before, at-1)
		}
		if came, _, _ := newRound(s, c, now).places(before, clock); len(came) > 0 {
			return max(before, came[0].at-1)
		}
	}
	return clock
}

func (c *cohort) targets() map[string]int {
	out := make(map[string]int, len(c.groups))
	for _, g := range c.groups {
		if g.n > 0 { // a role that everybody left would shift the others' phases
			out[g.key] = g.target(c)
		}
	}
	if len(out) > maxPhases {
		return nil
	}
	return out
}

// maxPhases is how many roles' phases a record has room for. Where there are
// more, all have a hash: as even as it gets with so many.
const maxPhases = 10_000

// note writes the progress where what holds the rollout has changed.
func (s *Snapshot) note(c *cohort, now time.Time, elapsed time.Duration, running bool, hold Reason) []Step {
	if c.record.State == StateCompleted || running == c.progress.Running && hold.Code == c.progress.Hold.Code {
		return nil
	}
	p := s.progressed(c, now, elapsed, running, hold)
	return []Step{{Rollout: c.id, Abort: c.record.Acknowledged, Progress: &p}}
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
