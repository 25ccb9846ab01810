package fleettest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Rule names what must always hold (design.md §13).
type Rule string

// The rules.
const (
	OverTarget   Rule = "over_target"   // a tell put a role over its target
	OverFlight   Rule = "over_flight"   // a tell put more hosts in flight than allowed
	OffLine      Rule = "off_line"      // told too early, or, where watched, too far from the straight line
	TooFast      Rule = "too_fast"      // faster than twice the slope over some window
	ToldTwice    Rule = "told_twice"    // by one rollout
	TakenBack    Rule = "taken_back"    // by an older rollout than the last one
	Unexplained  Rule = "unexplained"   // without reason, actor, or the rollout behind it
	NotRunning   Rule = "not_running"   // told by a rollout that wasn't running
	AfterAbort   Rule = "after_abort"   // told by a rollout whose abort nobody had acknowledged
	AfterStop    Rule = "after_stop"    // told while everything was stopped
	Generations  Rule = "generations"   // that don't grow by exactly one
	OneChange    Rule = "one_change"    // a message changes one variable
	Clock        Rule = "clock"         // a ramp's clock that ran faster than time, or while it was stopped
	NotAudited   Rule = "not_audited"   // a change without its audit record
	AuditedTwice Rule = "audited_twice" // two audit records of one change, or one of none

	OutsideWindow Rule = "outside_window" // told outside the rollout's windows
	InBlackout    Rule = "in_blackout"    // told in a blackout
	PinMoved      Rule = "pin_moved"      // a pinned variable that a rollout tells, or a pin that tells another value
	WrongBack     Rule = "wrong_back"     // a rollback that gives another value than the one before
	TooSoon       Rule = "too_soon"       // told before the host had settled
	Unstarted     Rule = "unstarted"      // begun before its start, its approvals, the rollout it waits for, or its canary allow it
	ManyCanaries  Rule = "many_canaries"  // more hosts told before the ramp's clock than the canary has
	NoEvidence    Rule = "no_evidence"    // told while the guard doesn't clear the rollout
)

// Violation is one place where a rule is broken.
type Violation struct {
	Rule     Rule
	Sequence uint64 // in the bucket; 0 where it is about a moment
	Time     time.Time
	What     string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s at %s, sequence %d: %s", v.Rule, v.Time.UTC().Format("2006-01-02 15:04:05"), v.Sequence, v.What)
}

// slack is how many hosts more than twice the slope a window may have: hosts of
// different roles may be due at nearly the same time.
const slack = 7

// Checker follows what is written to the bucket, the inventory and the audit
// log, and finds violations of what must always hold. It knows nothing of the
// scheduler, and shares no arithmetic with it: targets and lines are computed
// here once more, in the plainest way.
type Checker struct {
	Renew time.Duration // how often the scheduler renews its lease

	hosts    map[rollout.Host]*seenHost
	rollouts map[rollout.ID]*seenRollout
	pins     map[rollout.Host]*rollout.Pin
	closed   map[rollout.ID]*seenBlackout
	clear    map[rollout.ID]time.Time // until when the guard clears a rollout
	watched  map[rollout.ID]watch
	stopped  bool
	led      subjects.Leader
	ledAt    time.Time
	audited  map[uint64]string // sequence → subject and body of what the audit log must have
	found    []Violation
}

type seenHost struct {
	report     *rollout.Report
	reported   time.Time // when
	unseen     time.Time // zero: it is on
	generation uint64
	values     rollout.Document
	told       map[rollout.Name]rollout.Told
	before     rollout.Document           // each variable's value before it was last told
	confirmed  map[rollout.Name]time.Time // since when the host runs what it was told
}

type seenRollout struct {
	id       rollout.ID
	record   *rollout.Record
	where    rollout.Where
	canary   rollout.Where
	limits   []rollout.Where
	abort    uint64
	progress rollout.Progress
	at       time.Time // of progress
	told     map[rollout.Host]bool
	times    []time.Time    // of its tells
	most     int            // the largest sum of targets
	fresh    []rollout.Host // told in a batch whose progress is still to come
}

// watch is how far a rollout may be from its straight line.
type watch struct {
	fleet, role float64 // hosts; role 0: not watched
}

// NewChecker makes a checker of a bucket that it sees from the beginning.
func NewChecker() *Checker {
	return &Checker{
		Renew: 5 * time.Second,
		hosts: make(map[rollout.Host]*seenHost), rollouts: make(map[rollout.ID]*seenRollout),
		pins: make(map[rollout.Host]*rollout.Pin), closed: make(map[rollout.ID]*seenBlackout), clear: make(map[rollout.ID]time.Time),
		watched: make(map[rollout.ID]watch), audited: make(map[uint64]string),
	}
}

// Watch says that a rollout is undisturbed: at every check it must be within so
// many hosts of the straight line, and each role within its own number of its
// line. A role number of 0 isn't checked.
func (c *Checker) Watch(id rollout.ID, fleet, role float64) { c.watched[id] = watch{fleet, role} }

// Unwatch ends that.
func (c *Checker) Unwatch(id rollout.ID) { delete(c.watched, id) }

// Unseen says that a host was switched off: seven days later it no longer
// counts.
func (c *Checker) Unseen(name rollout.Host, at time.Time) { c.host(name).unseen = at }

// Seen says that it is back.
func (c *Checker) Seen(name rollout.Host) { c.host(name).unseen = time.Time{} }

// Take takes what was written since the last time to the bucket and to the
// inventory, both in order, and returns the violations in it. The inventory's
// records come first among those of one instant.
func (c *Checker) Take(bucket, inventory []bus.Msg, now time.Time) []Violation {
	c.found = nil
	for _, m := range bucket {
		for len(inventory) > 0 && !inventory[0].Time.After(m.Time) {
			c.report(inventory[0])
			inventory = inventory[1:]
		}
		c.record(m)
	}
	for _, m := range inventory {
		c.report(m)
	}
	for id, w := range c.watched {
		c.line(id, w, now)
	}
	return c.found
}

// TakeAudit takes what was written to the audit log since the last time. The
// log must have everything that Take was given.
func (c *Checker) TakeAudit(records []bus.Msg) []Violation {
	c.found = nil
	for _, m := range records {
		from := origin(m)
		kind, name, err := subjects.ParseKey(m.Subject)
		want, ok := c.audited[from]
		if err != nil || !ok {
			c.violation(AuditedTwice, bus.Msg{Sequence: from, Time: m.Time}, "record %d of the audit log, %s, is of no change, or of one that it has already", m.Sequence, m.Subject)
			continue
		}
		if have := kind.Subject(name) + " " + string(m.Data); have != want {
			c.violation(NotAudited, bus.Msg{Sequence: from, Time: m.Time}, "the log has %q, the change was %q", have, want)
		}
		delete(c.audited, from)
	}
	for sequence, what := range c.audited {
		c.violation(NotAudited, bus.Msg{Sequence: sequence}, "the log lacks %s", what)
	}
	clear(c.audited)
	return c.found
}

func (c *Checker) violation(r Rule, m bus.Msg, format string, args ...any) {
	c.found = append(c.found, Violation{r, m.Sequence, m.Time, fmt.Sprintf(format, args...)})
}

func (c *Checker) host(name rollout.Host) *seenHost {
	h := c.hosts[name]
	if h == nil {
		h = new(seenHost)
		h.forget()
		c.hosts[name] = h
	}
	return h
}

func (h *seenHost) forget() {
	h.report, h.values = nil, nil
	h.told, h.before, h.confirmed = make(map[rollout.Name]rollout.Told), make(rollout.Document), make(map[rollout.Name]time.Time)
}

func (c *Checker) rollout(id rollout.ID) *seenRollout {
	r := c.rollouts[id]
	if r == nil {
		r = &seenRollout{id: id, told: make(map[rollout.Host]bool)}
		c.rollouts[id] = r
	}
	return r
}

func (c *Checker) report(m bus.Msg) {
	name, err := subjects.HostOf(m.Subject)
	if err != nil {
		return
	}
	if r, err := subjects.Decode[rollout.Report](m.Data); err == nil {
		h := c.host(name)
		h.report, h.reported = r, m.Time
		h.confirm()
	}
}

// confirm notes what the host's report confirms of what it was told. Reports and
// desired state come by two streams, at one instant in either order.
func (h *seenHost) confirm() {
	for variable, told := range h.told {
		switch _, was := h.confirmed[variable]; {
		case !h.confirms(variable, h.values[variable], told):
			delete(h.confirmed, variable)
		case !was:
			h.confirmed[variable] = h.reported
		}
	}
}

func (c *Checker) record(m bus.Msg) {
	kind, name, err := subjects.ParseKey(m.Subject)
	if err != nil {
		return
	}
	if slices.Contains(subjects.Audited, kind) {
		c.audited[m.Sequence] = m.Subject + " " + string(m.Data)
	}
	switch kind {
	case subjects.KindDesired:
		c.desired(rollout.Host(name), m)
	case subjects.KindRollout:
		c.transition(c.rollout(rollout.ID(name)), m)
	case subjects.KindProgress:
		c.progress(c.rollout(rollout.ID(name)), m)
	case subjects.KindAbort:
		c.rollout(rollout.ID(name)).abort = m.Sequence
	case subjects.KindStop:
		c.stopped = !subjects.DecodeAbort(m.Header, m.Data, m.Sequence).Released
	case subjects.KindPin:
		c.pin(rollout.Host(name), m)
	case subjects.KindBlackout:
		c.blackout(rollout.ID(name), m)
	case subjects.KindGuard:
		c.clearances(m)
	case subjects.KindLeader:
		if l, err := subjects.Decode[subjects.Leader](m.Data); err == nil {
			c.led, c.ledAt = *l, m.Time
		}
	}
}

func (c *Checker) transition(r *seenRollout, m bus.Msg) {
	record, err := subjects.Decode[rollout.Record](m.Data)
	if err != nil || m.Header.Get(subjects.HeaderTime) == "" {
		return // put by hand
	}
	old := r.record
	if old == nil {
		old = new(rollout.Record)
	}
	changed := r.record != nil && !reflect.DeepEqual(old.Spec.Windows, record.Spec.Windows)
	if was, is := length(old), length(record); was > 0 && (changed || was != is) {
		// Up to now its clock went by what the record was.
		if r.progress.Running {
			r.progress.Elapsed += c.open(r, r.at, m.Time)
			r.at = m.Time
		}
		r.progress.Elapsed = time.Duration(float64(r.progress.Elapsed) / float64(was) * float64(is))
		r.times = nil // it has another slope from now on
	}
	r.record = record
	spec := &record.Spec
	if r.where, err = rollout.ParseWhere(spec.Where); err == nil && spec.Canary != nil {
		r.canary, err = rollout.ParseWhere(spec.Canary.Where)
	}
	r.limits = nil
	for _, l := range spec.Limits {
		w, lerr := rollout.ParseWhere(l.Where)
		r.limits, err = append(r.limits, w), errors.Join(err, lerr)
	}
	if err != nil {
		c.violation(Unexplained, m, "%s can't select hosts: %v", r.id, err)
	}
	if old.State == rollout.StatePending && record.State == rollout.StateRunning {
		c.starts(r, m)
	}
	if old.Clock.IsZero() && !record.Clock.IsZero() {
		c.clockStarts(r, m)
	}
}

func (c *Checker) desired(name rollout.Host, m bus.Msg) {
	change, err := subjects.DecodeChange(name, m.Header, m.Data)
	if err != nil {
		if !errors.Is(err, subjects.ErrForeign) {
			c.violation(Unexplained, m, "%v", err)
		}
		return // put by hand, and for agents to leave alone
	}
	h := c.host(name)
	want := h.generation + 1
	if h.report != nil && h.reported.Before(m.Time) { // at one instant it may be about this very document
		want = max(want, h.report.Generation+1)
	}
	if have := change.Desired.Generation; have != want {
		c.violation(Generations, m, "%s gets generation %d, want %d", name, have, want)
	}
	h.generation = change.Desired.Generation
	if change.Actor == "" || change.Reason.Code == "" {
		c.violation(Unexplained, m, "%s is told without actor or reason: %q, %q", name, change.Actor, change.Reason.Code)
	}
	if change.Decommissioned {
		h.forget()
		for _, r := range c.rollouts {
			delete(r.told, name)
		}
		return
	}
	if c.stopped {
		c.violation(AfterStop, m, "%s is told while everything is stopped", name)
	}
	c.oneChange(name, h, change, m)
	before := *h
	h.values, h.told = change.Desired.Values, change.Desired.Told
	if h.report != nil {
		defer h.confirm()
	}
	switch change.Reason.Code {
	case rollout.ByRamp, rollout.ByCatchUp, rollout.ByLayer, rollout.ByCanary, rollout.ByRollback:
		c.tell(name, change, &before, m)
		h.moved(change.Variable, before.values[change.Variable])
	case rollout.ByPin:
		c.pinned(name, change, m)
		h.moved(change.Variable, before.values[change.Variable])
	case rollout.ByRelease:
		want := before.told[change.Variable]
		want.Released = true
		if have := h.told[change.Variable]; !reflect.DeepEqual(have, want) || h.values[change.Variable] != before.values[change.Variable] {
			c.violation(Unexplained, m, "%s is released, and told %s %v beside", name, h.values[change.Variable], have)
		}
	}
}

// moved notes that a variable of the host was told, and what it was before: one
// that it wasn't told then is what it ran.
func (h *seenHost) moved(variable rollout.Name, before rollout.Value) {
	if before.IsZero() && h.report != nil {
		before = h.report.Actual[variable]
	}
	h.before[variable] = before
	delete(h.confirmed, variable)
}

// oneChange finds changes beyond the one that the message names. A host's
// first document, and one put back, name none.
func (c *Checker) oneChange(name rollout.Host, h *seenHost, change *subjects.Change, m bus.Msg) {
	if h.values == nil || change.Reason.Code == rollout.ByRestore {
		return
	}
	for v := range h.values {
		if _, ok := change.Desired.Values[v]; !ok && v != change.Variable {
			c.violation(OneChange, m, "%s loses %s", name, v)
		}
	}
	for v, value := range change.Desired.Values {
		if v != change.Variable && value != h.values[v] {
			c.violation(OneChange, m, "%s is told %s beside %s", name, v, change.Variable)
		}
	}
}

// tell checks a change that a rollout is behind. The host is as it was before.
func (c *Checker) tell(name rollout.Host, change *subjects.Change, h *seenHost, m bus.Msg) {
	r := c.rollouts[change.Rollout]
	if r == nil || r.record == nil {
		c.violation(Unexplained, m, "%s is told by rollout %q, which isn't there", name, change.Rollout)
		return
	}
	if s := r.record.State; s != rollout.StateRunning && s != rollout.StateCompleted {
		c.violation(NotRunning, m, "%s is told by %s, which is %s", name, r.id, s)
	}
	if r.abort > r.record.Acknowledged {
		c.violation(AfterAbort, m, "%s is told by %s after its abort %d", name, r.id, r.abort)
	}
	before := h.told[change.Variable]
	last := c.rollouts[before.Rollout]
	// A rollback that was cancelled has taken hosts back, and its original goes on.
	again := last != nil && last.record != nil && last.record.Spec.Rollback == r.id && last.record.State == rollout.StateCancelled
	if r.told[name] && !again {
		c.violation(ToldTwice, m, "%s is told by %s again", name, r.id)
	}
	if !again && last != nil && last.record != nil && last.record.Created.After(r.record.Created) {
		c.violation(TakenBack, m, "%s is told by %s, and was told by the newer %s before", name, r.id, last.id)
	}
	c.value(r, name, change, h, m)
	c.calendar(r, name, h, m)
	c.evidence(r, name, m)
	if p := c.pins[name]; p != nil && !p.Values[change.Variable].IsZero() {
		c.violation(PinMoved, m, "%s is told %s by %s, and is pinned", name, change.Variable, r.id)
	}
	for variable, t := range h.told {
		if settle := time.Duration(r.record.Spec.Settle); m.Time.Sub(t.Time) < settle-time.Millisecond {
			c.violation(TooSoon, m, "%s is told by %s %s after %s was told; it settles for %s", name, r.id, m.Time.Sub(t.Time), variable, settle)
		}
	}
	r.told[name] = true
	t := c.tally(r, m.Time)
	g := t.groups[c.group(r, name)]
	if g == nil || !r.selects(name, c.host(name)) {
		c.violation(OverTarget, m, "%s is told by %s, which doesn't select it", name, r.id)
		return
	}
	if g.told+g.had > g.target {
		c.violation(OverTarget, m, "%s has told %d of role %s and %d had the value, the target is %d of %d", r.id, g.told, g.role, g.had, g.target, g.n)
	}
	if change.Desired.Told[change.Variable].Released {
		return // a rollback doesn't wait for hosts that are offline
	}
	c.flight(r, g.role, t, m)
	if change.Reason.Code == rollout.ByCanary {
		c.canary(r, name, t, m)
		return
	}
	if r.record.Clock.IsZero() {
		c.violation(Unstarted, m, "%s is told by %s, whose ramp's clock hasn't started", name, r.id)
	}
	r.fresh = append(r.fresh, name)
	if r.record.Advanced > 0 && t.told() <= r.record.Advanced*float64(t.target)+float64(len(t.keys)) {
		return // an operator let it jump this far
	}
	r.times = append(r.times, m.Time)
	r.most = max(r.most, t.target)
	c.pace(r, m)
}

// value checks what a rollout tells a host.
func (c *Checker) value(r *seenRollout, name rollout.Host, change *subjects.Change, h *seenHost, m bus.Msg) {
	rule, want := Unexplained, r.record.Spec.To
	if r.record.Spec.Rollback != "" {
		if rule = WrongBack; want.IsZero() {
			want = h.before[change.Variable]
		}
		if by := h.told[change.Variable].Rollout; by != r.record.Spec.Rollback {
			c.violation(WrongBack, m, "%s is taken back by %s, and was told by %q", name, r.id, by)
		}
	}
	if have := change.Desired.Values[change.Variable]; !have.Matches(want) {
		c.violation(rule, m, "%s is told %s by %s, which moves it to %s", name, have, r.id, want)
	}
	if change.Variable != r.record.Spec.Variable {
		c.violation(Unexplained, m, "%s is told %s by %s, which moves %s", name, change.Variable, r.id, r.record.Spec.Variable)
	}
}

func (c *Checker) flight(r *seenRollout, role rollout.Word, t tally, m bus.Msg) {
	limit := func(p, otherwise rollout.Percent, n int) int {
		return max(1, int(float64(cmp.Or(p, otherwise))/100*float64(n)+1e-9))
	}
	in := r.record.Spec.InFlight
	if most := limit(in.Max, rollout.DefaultInFlight, t.n); t.flight > most {
		c.violation(OverFlight, m, "%s has %d of %d hosts in flight, the limit is %d", r.id, t.flight, t.n, most)
	}
	x := t.roles[role]
	if most := limit(in.PerRole, rollout.DefaultInFlightPerRole, x.n); x.flight > most {
		c.violation(OverFlight, m, "%s has %d of role %s in flight, the limit is %d", r.id, x.flight, role, most)
	}
}

// pace checks every window that ends with the newest tell.
func (c *Checker) pace(r *seenRollout, m bus.Msg) {
	steepest := steepest(&r.record.Spec.Ramp)
	if math.IsInf(steepest, 1) {
		return
	}
	slope := steepest * float64(r.most) / float64(length(r.record))
	last := len(r.times) - 1
	for i := last - 1; i >= 0; i-- {
		window := r.times[last].Sub(r.times[i])
		if n := last - i + 1; float64(n) > 2*slope*float64(window)+slack {
			c.violation(TooFast, m, "%s told %d hosts in %s, and its ramp tells %.1f", r.id, n, window, slope*float64(window))
			return
		}
	}
}

func (c *Checker) progress(r *seenRollout, m bus.Msg) {
	p, err := subjects.Decode[rollout.Progress](m.Data)
	if err != nil || m.Header.Get(subjects.HeaderTime) == "" {
		return // put by hand
	}
	at := m.Time
	if !p.At.IsZero() {
		at = p.At // a step that steers leaves the progress as it was
	}
	ran := p.Elapsed - r.progress.Elapsed
	switch {
	case at.After(m.Time):
		c.violation(Clock, m, "the progress of %s is of %s, in the future", r.id, at)
	case r.at.IsZero():
	case r.record != nil && r.record.Advanced > 0 && r.curve(p.Elapsed) <= r.record.Advanced+1e-6: // it jumped
	case r.progress.Running && ran > c.open(r, r.at, at)+time.Millisecond:
		c.violation(Clock, m, "the clock of %s went on by %s in %s", r.id, ran, c.open(r, r.at, at))
	case !r.progress.Running && ran > time.Millisecond:
		c.violation(Clock, m, "the clock of %s went on by %s while it was stopped", r.id, ran)
	}
	r.progress, r.at = *p, at
	fresh := r.fresh
	r.fresh = nil
	if len(fresh) == 0 || r.record.State != rollout.StateRunning {
		return // a layer has no line
	}
	// Only roles that were told in this batch can be early: a target that
	// falls later makes nobody early.
	t := c.tally(r, m.Time)
	for _, name := range fresh {
		g := t.groups[c.group(r, name)]
		if g == nil {
			continue
		}
		if most := float64(g.line)*r.share(p.Elapsed) + 1; float64(g.told) > most+1e-6 {
			c.violation(OffLine, m, "%s has told %d of role %s at %.2f%% of %d", r.id, g.told, g.role, 100*r.share(p.Elapsed), g.line)
		}
	}
}

// line compares a watched rollout with its straight line.
func (c *Checker) line(id rollout.ID, w watch, now time.Time) {
	r := c.rollouts[id]
	if r == nil || r.record == nil || r.record.State != rollout.StateRunning || !r.progress.Running {
		return
	}
	clock := r.progress.Elapsed
	if c.led.Holder != "" {
		led := c.led.Led + min(now.Sub(c.ledAt), 2*c.Renew)
		clock += max(0, led-r.progress.Led)
	}
	share := r.share(clock)
	t := c.tally(r, now)
	off := 0.0
	for _, key := range t.keys {
		g := t.groups[key]
		d := float64(g.told) - float64(g.line)*share
		off += d
		if w.role > 0 && math.Abs(d) > w.role+1e-6 {
			c.violation(OffLine, bus.Msg{Time: now}, "role %s of %s is %+.2f hosts off its line (told %d, target %d, at %.2f%%)", g.role, id, d, g.told, g.target, 100*share)
		}
	}
	if math.Abs(off) > w.fleet+1e-6 {
		c.violation(OffLine, bus.Msg{Time: now}, "%s is %+.2f hosts off its line at %.2f%%", id, off, 100*share)
	}
}
