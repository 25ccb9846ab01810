package rollout

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// The checker judges what the scheduler does, by the oracle and by what it saw
// before.
type checker struct {
	tells   []tellSeen
	baking  map[ID]time.Duration // what the leaders' clock showed when the canaries came to stand
	before  map[toldKey]Value    // what a host had before a rollout told it
	last    map[ID]time.Time     // when a ramp told a host
	changes int                  // of membership, so far
	decided bool                 // by the scheduler, not by an operator
	verb    string               // the operator's, where it is known
	counted int
}

// tellSeen is one host told by a rollout.
type tellSeen struct {
	rollout ID
	host    Host
	at      time.Time
	clock   time.Duration // the ramp's
	code    Code
	view    *view
	changes int
}

type toldKey struct {
	rollout ID
	host    Host
}

func newChecker() checker {
	return checker{baking: map[ID]time.Duration{}, before: map[toldKey]Value{}, last: map[ID]time.Time{}}
}

// ledNow is what the leaders' clock shows.
func (f *fleet) ledNow() time.Duration { return f.led + min(f.now.Sub(f.renewed), 2*f.renewEvery) }

// clock is what the ramp's clock shows: it runs as the leaders' clock does, as
// far as the calendar is open. That of a layer only paces those who come. One
// that the calendar held makes up for what a scheduler may be charged that
// notices the opening late.
func (f *fleet) clock(v *view) time.Duration {
	p := v.progress
	ran := f.ledNow() - p.Led
	if code := p.Hold.Code; !p.Running && v.record.State == StateRunning && !v.record.Clock.IsZero() && (code == OutsideWindow || code == InBlackout) {
		return p.Elapsed + v.open(p.At, f.now, min(ran, 2*f.renewEvery))
	} else if !p.Running {
		return p.Elapsed
	}
	if v.record.State == StateCompleted {
		ran = min(ran, max(0, p.CaughtUp-p.Elapsed)+v.gap())
	}
	return p.Elapsed + v.open(p.At, f.now, ran)
}

func (f *fleet) held() bool { return f.stop.Sequence > 0 && !f.stop.Released || f.behind }

// step judges a step that is about to be committed: its fences hold.
func (c *checker) step(f *fleet, step Step) {
	c.watch(f, true)
	for _, t := range step.Tells {
		c.document(f, step, t)
		if c.decided && f.rollouts[step.Rollout].State == StateRunning {
			c.last[step.Rollout] = f.now
		}
	}
	for _, r := range step.Records {
		c.transition(f, step, r)
	}
	for _, h := range step.Unpin {
		if p, ok := f.pins[h]; !ok || p.Until.IsZero() || p.Until.After(f.now) {
			f.fail("%s is unpinned at %v, and its pin is %+v", h, f.now, p)
		}
	}
	if v := step.Variable; v != nil {
		c.variable(f, step, v)
	}
	if _, ok := f.rollouts[step.Rollout]; !ok || step.Progress == nil {
		return
	}
	v := f.look(step.Rollout)
	c.progress(f, v, step)
	if len(step.Tells) > 0 && c.decided {
		c.turns(f, v, step)
	}
}

// progress: the clock never goes back, never runs faster than the leaders' clock
// and the calendar, and never past a wave that waits for an approval.
func (c *checker) progress(f *fleet, v *view, step Step) {
	p, last := step.Progress, v.progress
	clock, length, changed := f.clock(v), v.length(), false
	for _, r := range step.Records {
		if r.ID == v.id {
			if v.record.Clock.IsZero() && !r.Record.Clock.IsZero() {
				clock = f.now.Sub(r.Record.Clock)
			}
			changed = !c.decided && !reflect.DeepEqual(r.Record.Spec, v.spec)
			v.record, v.spec = r.Record, r.Record.Spec
		}
	}
	most := clock + 1 // a place that waited is told one nanosecond after it was held
	if a := v.record.Advanced; a > 0 {
		most = max(most, v.reaches(a)+v.slack())
	}
	switch {
	case changed && !v.record.Clock.IsZero():
		// The share stays, but for places that have come and were not told.
		least, was, is := float64(last.Elapsed)/float64(length), float64(clock)/float64(length), float64(p.Elapsed)/float64(v.length())
		if most := 1e-9 + 2/float64(v.length()); is > was+most || is < least-most {
			f.fail("a change of %s took its clock from %.9f, last %.9f, to %.9f of its length", v.id, was, least, is)
		}
	case p.Elapsed < last.Elapsed || p.Elapsed > most:
		f.fail("the clock of %s went from %v to %v in %v: at most %v; last progress %+v, now %+v", v.id, last.Elapsed, p.Elapsed, f.now.Sub(last.At), most, last, p)
	}
	if at, wave, closed := v.gate(); closed && !changed && p.Elapsed >= at+v.slack() {
		f.fail("the clock of %s shows %v, and wave %d, which nobody has approved, starts at %v", v.id, p.Elapsed, wave, at)
	}
	var was, is time.Duration
	for code, d := range last.Held {
		was += d
		if p.Held[code] < d {
			f.fail("%s was held for %v by %s, and now it says %v", v.id, d, code, p.Held[code])
		}
	}
	for _, d := range p.Held {
		is += d
	}
	if !last.At.IsZero() && is-was > f.now.Sub(last.At) {
		f.fail("%s says that it was held for %v in the last %v", v.id, is-was, f.now.Sub(last.At))
	}
}

// turns judges whose turn it is.
func (c *checker) turns(f *fleet, v *view, step Step) {
	first, prog := step.Tells[0].Host, step.Progress
	back := v.spec.Rollback != ""
	switch {
	case f.held():
		f.fail("%s tells %s while everything is held", v.id, first)
	case v.record.State != StateRunning && !f.layer(v.id):
		f.fail("%s tells %s and is %s, rolled back %v", v.id, first, v.record.State, f.rolledBack(v.id))
	case f.aborts[v.id].Sequence > v.record.Acknowledged:
		f.fail("%s tells %s after abort %d", v.id, first, f.aborts[v.id].Sequence)
	case v.unclear(f.now) != "":
		f.fail("%s tells %s at %v without evidence: %+v", v.id, first, f.now, f.clearances[v.id])
	case v.closed(f.now) != "":
		f.fail("%s tells %s at %v, which the calendar forbids: %s", v.id, first, f.now, v.closed(f.now))
	}
	baking := v.record.Clock.IsZero()
	may, ready := map[string][]Host{}, []Host{}
	if baking {
		if v.spec.Canary == nil {
			f.fail("%s tells %s before its clock started", v.id, first)
			return
		}
		ready, _ = v.canaries(f.now)
	}
	clock := prog.Elapsed
	for key, g := range v.groups {
		may[key] = v.may(g, v.quota(g, clock+v.slack()), f.now)
	}
	newly, overdue := map[string]int{}, 0
	for _, t := range step.Tells {
		report := f.reports[t.Host]
		_, limit := f.selected(v.id, t.Host)
		key := groupKey(report.Role, limit)
		g := v.groups[key]
		if g == nil || g.states[t.Host] != untold {
			f.fail("%s tells %s, which it doesn't select or which has had its turn", v.id, t.Host)
			return
		}
		if back && f.presence[t.Host] != Online { // told at once, and not waited for
			if !t.Desired.Told[v.spec.Variable].Released || f.pinned(t.Host, v.spec.Variable) {
				f.fail("%s tells %s, which is offline: %+v", v.id, t.Host, t.Desired)
			}
			continue
		}
		switch {
		case baking && (t.Reason.Code != ByCanary || !slices.Contains(ready, t.Host)):
			f.fail("%s tells %s before its clock started; its canaries are %v", v.id, t.Host, ready)
			return
		case baking:
		case len(may[key]) == 0 || may[key][0] != t.Host:
			f.fail("%s tells %s of %s when the clock shows %v; next are %v of %v (%d of %d told, quota %d); it is %v, held by a pin %v, by a blackout %v", v.id, t.Host, key, clock, may[key], g.waiting, g.told, g.t, v.quota(g, clock+v.slack()), f.presence[t.Host], f.pinned(t.Host, t.Variable), v.deferred(t.Host, f.now))
			return
		default:
			may[key] = may[key][1:]
		}
		newly[key]++
		if t.Reason.Position != g.had+g.told+newly[key] || t.Reason.Target != g.target || t.Reason.Role != g.role || t.Reason.Rollout != v.id {
			f.fail("%s tells %s for the reason %+v; it is number %d of %d in %s", v.id, t.Host, t.Reason, g.had+g.told+newly[key], g.target, g.role)
		}
		if g.had+g.told+newly[key] > g.target {
			f.fail("%s puts %s over its target: %d had, %d told, %d now, of %d", v.id, key, g.had, g.told, newly[key], g.target)
		}
		v.inFlight++
		v.inRole[report.Role]++
		if v.inFlight > v.limit() {
			f.fail("%s tells %s: %d hosts in flight of %d", v.id, t.Host, v.inFlight, v.limit())
		}
		if n := v.inRole[report.Role]; n > v.roleLimit(report.Role) {
			f.fail("%s tells %s: %d hosts of %s in flight of %d", v.id, t.Host, n, report.Role, v.roleLimit(report.Role))
		}
		if baking {
			continue
		}
		// The place is the reason's: one that has come since the last step, or the
		// clock's time for one that is overdue.
		at := clock
		if came := v.share(v.progress.Elapsed - v.slack()); t.Reason.Code == ByRamp || back && t.Reason.Share > came {
			if t.Reason.Share > v.share(clock+v.slack())+1e-9 || t.Reason.Share < came-1e-9 {
				f.fail("%s tells %s at %.6f of its ramp, whose clock went from %v to %v", v.id, t.Host, t.Reason.Share, v.progress.Elapsed, clock)
			}
			at = max(v.progress.Elapsed, min(clock, v.reaches(t.Reason.Share)))
		} else {
			overdue++
		}
		code := t.Reason.Code
		if want := c.code(v); code != want && (want != ByRamp || code != ByCatchUp) {
			f.fail("%s is %s and tells %s as %s", v.id, v.record.State, t.Host, code)
		}
		c.tells = append(c.tells, tellSeen{v.id, t.Host, f.now, at, code, v, c.changes})
	}
	if last := v.progress.CaughtUp; overdue > 1 || overdue > 0 && last >= 0 && clock < last+v.gap() {
		f.fail("%s tells %d overdue hosts when its clock shows %v; the last came at %v, and the gap is %v", v.id, overdue, clock, last, v.gap())
	}
	fresh := c.tells[len(c.tells)-sum(newly, baking):]
	slices.SortStableFunc(fresh, func(a, b tellSeen) int { return cmp.Compare(a.clock, b.clock) })
	for i := len(c.tells) - len(fresh) + 1; i <= len(c.tells); i++ {
		c.pace(f, c.tells[:i])
	}
}

func (c *checker) code(v *view) Code {
	switch {
	case v.record.State == StateCompleted:
		return ByLayer
	case v.spec.Rollback != "":
		return ByRollback
	}
	return ByRamp
}

func sum(counts map[string]int, baking bool) (n int) {
	for _, k := range counts {
		n += k
	}
	if baking {
		return 0
	}
	return n
}

// pace: in any stretch of the ramp's clock no more hosts are told than the ramp
// itself would (one a role more for rounding), and, one a gap, those that are
// overdue; and one more for each change of membership within it, as a change
// moves the line. Those overdue at its start may fill places that wait for room.
func (c *checker) pace(f *fleet, tells []tellSeen) {
	last := tells[len(tells)-1]
	n, total := 0, 0
	for _, t := range slices.Backward(tells) {
		if t.rollout != last.rollout {
			continue
		}
		if !reflect.DeepEqual(t.view.spec.Ramp, last.view.spec.Ramp) || t.view.length() != last.view.length() {
			return // changed meanwhile
		}
		n++
		total = max(total, t.view.total)
		rise := last.view.share(last.clock+last.view.slack()) - last.view.share(t.clock-1-last.view.slack())
		mean := float64(last.clock-t.clock) / float64(last.view.length())
		most := float64(total)*(rise+mean)*(1+1e-6) + float64(max(len(t.view.groups), len(last.view.groups))+1+last.changes-t.changes)
		for _, g := range t.view.groups {
			most += float64(max(0, t.view.quota(g, t.view.progress.Elapsed)-g.told))
		}
		if float64(n) > most+1e-6 {
			f.fail("%s told %d hosts while its clock went from %v to %v: at most %.2f", last.rollout, n, t.clock, last.clock, most)
			return
		}
		if total == 0 || last.changes-t.changes > 50 {
			return
		}
	}
}

// document judges one tell by itself.
func (c *checker) document(f *fleet, step Step, t Tell) {
	old := f.desired[t.Host]
	floor := max(old.Generation, f.marker[t.Host], f.reports[t.Host].Generation)
	if t.Desired.Generation != floor+1 {
		f.fail("%s goes from generation %d to %d", t.Host, floor, t.Desired.Generation)
	}
	if t.Reason.Code == "" || t.Reason.String() == "" || t.Actor == "" {
		f.fail("%s is told %v without a reason or an actor: %+v", t.Host, t.Desired.Values, t)
	}
	if f.held() {
		f.fail("%s is told something while everything is held", t.Host)
	}
	if _, ok := f.reports[t.Host]; !ok {
		f.fail("%s is told something and never reported itself", t.Host)
	}
	was, is := old.Told[t.Variable], t.Desired.Told[t.Variable]
	value := t.Desired.Values[t.Variable]
	for name, told := range old.Told {
		if name != t.Variable && (!reflect.DeepEqual(told, t.Desired.Told[name]) || old.Values[name] != t.Desired.Values[name]) {
			f.fail("%s: a change of %q took %s from %v to %v", t.Host, t.Variable, name, old.Values[name], t.Desired.Values[name])
		}
	}
	for name, told := range t.Desired.Told {
		if _, ok := old.Told[name]; ok && name != t.Variable || t.Reason.Code == ByRelease {
			continue
		}
		if told.Generation != t.Desired.Generation || told.Rollout != step.Rollout || !told.Time.Equal(f.now) || told.Pin != (t.Reason.Code == ByPin) {
			f.fail("%s: %s is said to be told by %+v", t.Host, name, told)
		}
	}
	if t.Variable != "" && t.Previous != old.Values[t.Variable] {
		f.fail("%s: the previous value of %s is said to be %v, and is %v", t.Host, t.Variable, t.Previous, old.Values[t.Variable])
	}
	switch t.Reason.Code {
	case ByPin:
		if p, ok := f.pins[t.Host]; !ok || p.Values[t.Variable] != value || t.Actor != p.By || value.IsZero() {
			f.fail("%s is told %s=%v by %s, and its pin is %+v", t.Host, t.Variable, value, t.Actor, p)
		}
	case ByRelease:
		is.Generation, is.Time, is.Released = was.Generation, was.Time, false
		if c.decided || was.Released || value != old.Values[t.Variable] || !reflect.DeepEqual(was, is) || was.Rollout != step.Rollout || !t.Desired.Told[t.Variable].Released {
			f.fail("%s is released: %+v became %+v", t.Host, old, t.Desired)
		}
	case ByFirst, ByAdoption, ByRestore:
		// Only what the host runs anyway, or what it has nothing of; or its last
		// document again.
		for name, v := range t.Desired.Values {
			actual := f.reports[t.Host].Actual[name]
			if old.Values[name].IsZero() && !actual.IsZero() && !v.Matches(actual) {
				f.fail("%s runs %s=%v and its document says %v", t.Host, name, actual, v)
			}
			if old.Values[name].IsZero() && v != f.variables[name].Value {
				f.fail("%s is told %s=%v, and the variable is %v", t.Host, name, v, f.variables[name].Value)
			}
			if !old.Values[name].IsZero() && v != old.Values[name] {
				f.fail("%s: %v became %v, as %s", t.Host, old.Values, t.Desired.Values, t.Reason.Code)
			}
		}
		if step.Rollout != "" || len(t.Desired.Values) < len(old.Values) {
			f.fail("%s: %v became %v, as %s", t.Host, old.Values, t.Desired.Values, t.Reason.Code)
		}
	default:
		c.byRollout(f, step, t, old, is)
	}
}

// byRollout judges a tell of a rollout: the value, what it remembers, and that
// nobody is taken back.
func (c *checker) byRollout(f *fleet, step Step, t Tell, old Desired, is Told) {
	r, ok := f.rollouts[step.Rollout]
	if !ok || !c.decided || r.Spec.Variable != t.Variable || t.Variable == "" || t.Actor != r.Author {
		f.fail("%s is told %s for no rollout: %+v", t.Host, t.Variable, t)
		return
	}
	before := old.Values[t.Variable]
	if before.IsZero() { // it had drifted, or has been told nothing of it
		if v := f.variables[t.Variable]; v.Accept(f.reports[t.Host].Actual[t.Variable]) == nil {
			before = f.reports[t.Host].Actual[t.Variable]
		}
	}
	if is.Previous != before {
		f.fail("%s: its document remembers %v, and it had %v", t.Host, is.Previous, before)
	}
	by := old.Told[t.Variable].Rollout
	want := r.Spec.To
	if r.Spec.Rollback != "" {
		if by != r.Spec.Rollback {
			f.fail("%s takes %s back, which %q told", step.Rollout, t.Host, by)
		}
		if want.IsZero() {
			want = c.before[toldKey{r.Spec.Rollback, t.Host}]
		}
	}
	if value, has := t.Desired.Values[t.Variable]; value != want || has == want.IsZero() {
		f.fail("%s tells %s %v, want %v", step.Rollout, t.Host, value, want)
	}
	c.before[toldKey{step.Rollout, t.Host}] = before
	given := f.rollouts[by].Spec.Rollback == step.Rollout && f.rollouts[by].State == StateCancelled // the host is its again
	if by != "" && !given && !f.newer(step.Rollout, by) {
		f.fail("%s: %s takes back what %s told it", t.Host, step.Rollout, by)
	}
	if f.pinned(t.Host, t.Variable) {
		f.fail("%s tells %s, which is pinned: %+v", step.Rollout, t.Host, f.pins[t.Host])
	}
}

// variable: a variable's value moves when a rollout that covers everybody
// completes, and back when one of its is rolled back.
func (c *checker) variable(f *fleet, step Step, v *Variable) {
	old := f.variables[v.Name]
	old.Value = v.Value
	if !reflect.DeepEqual(old, *v) {
		f.fail("%s changes the variable: %+v", step.Rollout, v)
	}
	for _, r := range step.Records {
		switch spec := r.Record.Spec; {
		case spec.Variable != v.Name:
		case spec.Rollback != "" && !c.decided && v.Value == cmp.Or(spec.To, f.rollouts[spec.Rollback].From):
			return
		case c.decided && r.Record.State == StateCompleted && covers(&spec) && v.Value == spec.To:
			return
		}
	}
	f.fail("%s makes %s %v", step.Rollout, v.Name, v.Value)
}

// watch notes since when the canaries of each rollout stand. While there is
// more to decide at this instant a host may look like one more canary that is
// about to get its document from elsewhere.
func (c *checker) watch(f *fleet, more bool) {
	for id, r := range f.rollouts {
		if r.Spec.Canary == nil || r.State != StateRunning && r.State != StatePaused || !r.Clock.IsZero() {
			delete(c.baking, id)
			continue
		}
		if r.State == StatePaused || f.held() {
			continue // nobody looks at the canaries
		}
		v := f.look(id)
		if _, stand := v.canaries(f.now); !stand && (!more || v.inFlight > 0) {
			delete(c.baking, id)
		} else if _, ok := c.baking[id]; !ok && stand {
			c.baking[id] = f.ledNow()
		}
	}
}

// pass pairs the decision to do nothing with what there is to do.
type pass struct {
	*fleet
	d     Decision
	v     *view
	clock time.Duration
}

// idle judges a decision to do nothing: nobody who may be told has room and
// isn't, but for those who are catching up one a gap; and it wakes in time.
func (c *checker) idle(f *fleet, d Decision) {
	if len(f.inflight) > 0 {
		return // the mirror is behind
	}
	c.watch(f, false)
	for h, p := range f.pins {
		_, ok := f.desired[h]
		for name, v := range p.Values {
			if told := f.desired[h].Told[name]; ok && !f.held() && !f.out[h] && f.presence[h] != Gone && (!told.Pin || f.desired[h].Values[name] != v) {
				f.fail("%s is pinned at %s=%v and isn't told", h, name, v)
			}
		}
		if !p.Until.IsZero() && !p.Until.After(f.now) {
			f.fail("the pin of %s has outlived its time, %v", h, p.Until)
		} else if !p.Until.IsZero() {
			pass{fleet: f, d: d}.wakes(p.Until, "a pin ends")
		}
	}
	for h := range f.reports {
		if _, ok := f.desired[h]; !ok && !f.held() && !f.out[h] && f.presence[h] == Online {
			f.fail("%s has no document", h)
		}
	}
	c.retreats(f)
	for id, r := range sorted(f.rollouts) {
		if !f.active(id) {
			continue
		}
		v := f.look(id)
		if c.counted++; c.counted%4 == 0 {
			c.counts(f, v)
		}
		if aborted := f.aborts[id].Sequence > r.Acknowledged; aborted && r.State.Live() && r.State != StateFrozen {
			f.fail("%s is %s after abort %d", id, r.State, f.aborts[id].Sequence)
		} else if aborted || f.held() || r.State != StateRunning && r.State != StateCompleted && r.State != StatePending {
			if r.State != StateCompleted && v.progress.Running {
				f.fail("%s is held and its clock runs", id)
			}
			continue
		}
		p := pass{fleet: f, d: d, v: v, clock: f.clock(v)}
		closed := cmp.Or(v.unclear(f.now), v.closed(f.now))
		switch {
		case r.State == StatePending:
			if c.mayStart(f, &r) == "" {
				f.fail("%s may start and doesn't", id)
			} else if f.now.Before(r.Spec.Start) {
				p.wakes(r.Spec.Start, "it starts")
			}
		case r.Clock.IsZero():
			p.bakes(closed)
		case closed == "":
			p.ramps()
		case r.State == StateRunning && v.progress.Running:
			f.fail("%v runs, and the calendar is closed: %s", v, closed)
		}
		if v.guarded() && closed != NoFreshEvidence && r.State == StateRunning {
			p.wakes(f.clearances[id].Until, "its clearance runs out")
		}
	}
}

// wakes wants the scheduler to be asked again by then.
func (p pass) wakes(at time.Time, why string) {
	if p.d.Next.IsZero() || p.d.Next.After(at) {
		p.fail("%v: at %v %s, and the scheduler is to be asked at %v", p.v, at, why, p.d.Next)
	}
}

// bakes judges a rollout whose ramp's clock has not started.
func (p pass) bakes(closed Code) {
	v, since := p.v, p.check.baking[p.v.id]
	if v.progress.Running {
		p.fail("%v runs before its clock started", v)
	}
	if v.spec.Canary == nil {
		if closed == "" {
			p.fail("%v could start its clock", v)
		}
		return
	}
	ready, stand := v.canaries(p.now)
	for _, h := range ready {
		if closed == "" && v.room(p.reports[h].Role) {
			p.fail("%v could tell its canary %s", v, h)
			return
		}
	}
	if !stand {
		return
	}
	left := since + time.Duration(v.spec.Canary.Bake) - p.ledNow()
	// The scheduler may have begun to count later than the checker, as it saw
	// the canaries stand.
	if v.progress.Baking > 0 {
		left = max(left, v.progress.Baking+time.Duration(v.spec.Canary.Bake)-p.ledNow())
	}
	if v.record.Baked {
		left = 0
	}
	if left <= 0 && closed == "" {
		p.fail("%v: the canary has baked, and the clock doesn't start", v)
	} else if left > 0 {
		p.wakes(p.now.Add(left), "the canary has baked")
	}
}

// ramps judges a rollout whose calendar is open.
func (p pass) ramps() {
	v, clock := p.v, p.clock
	running := v.record.State == StateRunning
	at, _, gated := v.gate()
	for h := range p.reports {
		if yes, _ := p.selected(v.id, h); yes && running && v.spec.Rollback != "" && p.stateOf(v.id, h) == untold && p.presence[h] != Online && !p.damaged[h] && !p.pinned(h, v.spec.Variable) {
			p.fail("%v could tell %s, which is offline", v, h)
		}
	}
	if !v.progress.Running {
		switch {
		case v.inFlight >= v.limit():
		case gated && clock >= at-1-v.slack():
		default:
			p.fail("the clock of %v stands, and there is room", v)
		}
		return
	}
	if gated && clock > at+v.slack() {
		p.fail("%v has come to a wave that nobody approved, which starts at %v", v, at)
	}
	if a := v.record.Advanced; a > 0 && running && !gated && clock < v.reaches(a)-v.slack() {
		p.fail("%v shows %v and was advanced to %v", v, clock, v.reaches(a))
	}
	wake, whose := time.Duration(-1), ""
	for key, g := range v.groups {
		quota, before := v.quota(g, clock-v.slack()), v.quota(g, v.progress.Elapsed+v.slack())
		if quota < g.t && running {
			next := v.reaches((float64(quota+1) - g.theta) / float64(g.t))
			if next > clock+v.slack() && (!gated || next < at) && g.told <= quota {
				if at := next + v.slack(); wake < 0 || at < wake {
					wake, whose = at, fmt.Sprintf("place %d of %d in %s comes", quota+1, g.t, key)
				}
			}
		}
		may := v.may(g, quota, p.now)
		if len(may) == 0 || !v.room(g.role) {
			continue
		}
		due := v.progress.CaughtUp + v.gap()
		onTime := running && min(len(g.due(quota)), quota-max(before, g.told)) > 0
		if onTime || v.progress.CaughtUp < 0 || clock >= due {
			p.fail("%v could tell %s of %s and doesn't (clock %v, caught up at %v, gap %v)", v, may[0], key, clock, v.progress.CaughtUp, v.gap())
			return
		}
		if wake < 0 || due < wake {
			wake, whose = due, fmt.Sprintf("%s of %s is overdue, and the gap is over", may[0], key)
		}
	}
	if wake >= 0 {
		p.wakes(p.now.Add(wake-clock), whose)
	}
}

// counts compares what the snapshot says with what the oracle counts.
func (c *checker) counts(f *fleet, v *view) {
	st, err := f.snap.Status(v.id, f.now)
	if err != nil {
		f.fail("%s: %v", v.id, err)
		return
	}
	sum := 0
	for _, g := range v.groups {
		sum += g.had + g.told
	}
	if st.Target != v.total || st.Told != sum || st.InFlight != v.inFlight || st.Limit != v.limit() {
		f.fail("%s: target %d, told %d, in flight %d of %d; counted anew: %d, %d, %d of %d", v.id, st.Target, st.Told, st.InFlight, st.Limit, v.total, sum, v.inFlight, v.limit())
	}
	for _, role := range st.Roles {
		if role.Hosts != v.ofRole[role.Role] || role.InFlight != v.inRole[role.Role] {
			f.fail("%s: role %s has %d hosts and %d in flight; counted anew: %d and %d", v.id, role.Role, role.Hosts, role.InFlight, v.ofRole[role.Role], v.inRole[role.Role])
		}
	}
}

// toldBy lists the hosts that the rollout told, by their places.
func (c *checker) toldBy(id ID) []tellSeen {
	out := slices.DeleteFunc(slices.Clone(c.tells), func(t tellSeen) bool { return t.rollout != id })
	slices.SortStableFunc(out, func(a, b tellSeen) int { return cmp.Compare(a.clock, b.clock) })
	return out
}
