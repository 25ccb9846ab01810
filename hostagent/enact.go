package hostagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// enacting is the making true: one program at a time.
type enacting struct {
	variables map[rollout.Name]*variable // with an enactor, or in the document
	sweep     []*variable                // still to be observed in this round
	sweepAt   time.Time                  // when the next round begins
	looks     bool                       // it is the round's turn, if one is under way
	attempt   *attempt                   // under way, or nil
}

// variable is one variable on this host.
type variable struct {
	name    rollout.Name
	enactor *Enactor // nil: none is configured

	actual     rollout.Value // what observe said; absent where it said nothing or failed
	observeErr error

	// Of the newest order.
	status   rollout.EnactStatus
	problem  string
	attempts int       // runs of the enactor
	next     time.Time // of the next attempt
	repair
}

// begin forgets what happened to an older order.
func (v *variable) begin() {
	v.status, v.problem, v.attempts, v.next, v.repair = "", "", 0, time.Time{}, repair{}
}

func (v *variable) executes() bool { return v.enactor != nil && len(v.enactor.Exec) > 0 }
func (v *variable) observes() bool { return v.enactor != nil && len(v.enactor.Observe) > 0 }

// phase is how far an attempt is: which program runs.
type phase int

const (
	looking   phase = iota // a round of observing, without an order
	before                 // observing before the enactor
	executing              // the enactor
	after                  // observing after the enactor
)

// attempt is one try at fulfilling one order, or one look.
type attempt struct {
	v      *variable
	phase  phase
	value  rollout.Value
	order  order
	ran    Result // of the enactor
	cancel context.CancelFunc
}

const maxObserve = rollout.Duration(time.Minute)

// variable finds a variable, or makes it.
func (a *agent) variable(name rollout.Name) *variable {
	v := a.variables[name]
	if v == nil {
		v = &variable{name: name}
		if e, ok := a.Config.Enact[name]; ok {
			v.enactor = &e
		}
		a.variables[name] = v
	}
	return v
}

func (a *agent) observable() []*variable {
	var all []*variable
	for _, name := range slices.Sorted(maps.Keys(a.variables)) {
		if v := a.variables[name]; v.observes() {
			all = append(all, v)
		}
	}
	return all
}

// actual is what the host runs: what observe said or, where nothing observes,
// what was enacted last.
func (a *agent) actual(v *variable) rollout.Value {
	if !v.observes() {
		return a.state.Enacted[v.name].Value
	}
	if w := a.state.Values[v.name]; w.Matches(v.actual) {
		return w // with its own type, where the program printed text
	}
	return v.actual
}

// open says whether the variable has an order that this host can fulfil and
// hasn't.
func (a *agent) open(v *variable) bool {
	_, wanted := a.state.Values[v.name]
	return wanted && v.executes() && !a.state.fulfilled(v.name)
}

// wants says whether the variable is to be enacted: it has an open order, or
// drifted from one.
func (a *agent) wants(v *variable) bool { return a.open(v) || v.repairing }

// enact starts the next program, if none runs.
func (a *agent) enact(now time.Time) {
	if a.attempt != nil || a.stopping {
		return
	}
	if a.started {
		if len(a.sweep) == 0 && !now.Before(a.sweepAt) {
			a.sweep = a.observable()
			a.sweepAt = now.Add(a.jittered(a.Observe))
		}
		// Orders go first, but enactors that always have something to do don't
		// keep the agent from looking: it takes turns then.
		if v := a.nextOpen(now); v != nil && (len(a.sweep) == 0 || !a.looks) {
			a.looks = true
			a.attempt = &attempt{v: v, phase: before, value: a.state.Values[v.name], order: a.state.Orders[v.name]}
			if v.repairing {
				a.attempt.order.Previous = rollout.Value{} // it is what the host drifted to
			}
			a.step(now)
			return
		}
	}
	if len(a.sweep) > 0 {
		a.looks = false
		a.attempt = &attempt{v: a.sweep[0], phase: looking}
		a.sweep = a.sweep[1:]
		a.step(now)
		return
	}
	if !a.started {
		a.start(now)
	}
}

// start follows the first round of observing: from here on the agent reports
// and listens.
func (a *agent) start(now time.Time) {
	for _, v := range a.variables {
		a.refresh(now, v)
	}
	a.started = true
	a.sweepAt = now.Add(a.jittered(a.Observe))
	a.reportAt = now
}

// nextOpen is the variable to enact now: the one that has waited longest, so
// that none that fails time and again keeps another from its turn, and before
// all a new order, the oldest first.
func (a *agent) nextOpen(now time.Time) *variable {
	if a.outletErr != nil || a.held != "" {
		return nil
	}
	var next *variable
	for _, v := range a.variables {
		if a.wants(v) && !now.Before(v.next) && (next == nil || cmp.Or(v.next.Compare(next.next), a.byOrder(v, next)) < 0) {
			next = v
		}
	}
	return next
}

func (a *agent) enactDue() time.Time {
	if a.attempt != nil || !a.started || a.stopping {
		return never
	}
	next := a.sweepAt
	if a.outletErr == nil && a.held == "" {
		for _, v := range a.variables {
			if a.wants(v) {
				next = earliest(next, v.next)
			}
		}
	}
	return next
}

// step runs the program of the attempt's phase. Where there is none, the phase
// is over at once.
func (a *agent) step(now time.Time) {
	t := a.attempt
	e := t.v.enactor
	var argv []string
	timeout := e.Timeout
	switch t.phase {
	case executing:
		// The value is one argument, whatever is in it: no shell reads it.
		argv = append(slices.Clone(e.Exec), t.value.Text())
		t.v.attempts++
		if t.v.status != rollout.EnactFail { // which holds until it succeeds
			a.setStatus(t.v, t.order, rollout.Enacting, t.v.problem, "")
		}
		a.Logger.Info("enacting", "host", a.host, "variable", t.v.name, "value", t.value.Text(), "attempt", t.v.attempts, "rollout", t.order.Rollout)
	default:
		argv, timeout = e.Observe, min(timeout, maxObserve)
		if len(argv) == 0 {
			a.observed(now, a.actual(t.v), nil)
			return
		}
	}
	ctx, cancel := context.WithTimeoutCause(a.work, time.Duration(timeout), fmt.Errorf("it ran longer than its timeout of %s", timeout))
	t.cancel = cancel
	c := Command{Args: argv, Env: a.environment(t), Answers: t.phase != executing}
	a.tasks.Go(func() {
		defer cancel()
		a.ran <- a.Exec(ctx, c)
	})
}

func (a *agent) environment(t *attempt) []string {
	env := []string{"TSUNAMI_HOST=" + string(a.host), "TSUNAMI_VARIABLE=" + string(t.v.name)}
	if t.phase == looking {
		return env
	}
	previous := t.order.Previous
	if previous.IsZero() {
		previous = a.actual(t.v)
	}
	return append(env,
		"TSUNAMI_VALUE="+t.value.Text(),
		"TSUNAMI_PREVIOUS="+previous.Text(),
		"TSUNAMI_ROLLOUT="+string(t.order.Rollout))
}

// finished takes the result of the program that ran.
func (a *agent) finished(r Result) {
	t, now := a.attempt, time.Now()
	if t == nil {
		return // abandoned
	}
	if t.phase != executing {
		value, err := observation(r)
		a.observed(now, value, err)
		return
	}
	t.ran, t.phase = r, after
	switch {
	case t.v.observes():
		a.step(now)
	case r.Err != nil:
		a.failed(now, r.failure(maxError), r.failure(maxOutput))
	default:
		a.fulfil(now)
	}
}

// observation reads what an observer printed: one value on one line, or
// nothing where the host runs none.
func observation(r Result) (rollout.Value, error) {
	if r.Err != nil {
		return rollout.Value{}, errors.New(r.failure(maxError))
	}
	s := strings.TrimSpace(r.Stdout)
	if s == "" {
		return rollout.Value{}, nil
	}
	if n := strings.Count(s, "\n") + 1; n > 1 {
		return rollout.Value{}, fmt.Errorf("it printed %d lines or more: want one value on one line", n)
	}
	return rollout.StringValue(s)
}

// observed takes what the host runs, and goes on with the attempt.
func (a *agent) observed(now time.Time, value rollout.Value, err error) {
	t := a.attempt
	v := t.v
	if v.observes() && (value != v.actual || (err == nil) != (v.observeErr == nil)) {
		a.changed(now)
		if err != nil {
			a.Logger.Warn("the variable can't be observed", "host", a.host, "variable", v.name, "err", err)
		}
	}
	if v.observes() {
		v.actual, v.observeErr = value, err
	}
	switch t.phase {
	case looking:
		a.attempt = nil
		if a.wants(v) {
			// What came true by itself is true: a late success of an attempt
			// that had timed out, say.
			if w := a.state.Values[v.name]; err == nil && w.Matches(value) && a.started {
				t.value, t.order = w, a.state.Orders[v.name]
				a.attempt = t
				a.fulfil(now)
			}
			return
		}
		if a.started {
			a.refresh(now, v)
		}
	case before:
		if err == nil && t.value.Matches(value) {
			a.fulfil(now)
			return
		}
		if !a.newestOrder(t) || !a.mayChange(now) {
			a.attempt = nil // it was told something newer, which comes next, or is held
			return
		}
		if t.order.Previous.IsZero() {
			t.order.Previous = value
		}
		t.phase = executing
		a.step(now)
	case after:
		switch {
		case err == nil && t.value.Matches(value):
			a.fulfil(now)
		case t.ran.Err != nil:
			a.failed(now, t.ran.failure(maxError), t.ran.failure(maxOutput))
		case err != nil:
			a.failed(now, "the enactor exited with 0, but observing failed: "+err.Error(), t.ran.Output)
		default:
			a.failed(now, fmt.Sprintf("the enactor exited with 0, but observe says %q", value.Text()), t.ran.Output)
		}
	}
}

// newestOrder says whether the attempt is at what the host was told last.
func (a *agent) newestOrder(t *attempt) bool {
	return a.state.Values[t.v.name] == t.value && a.state.Orders[t.v.name].Generation == t.order.Generation
}

// fulfil ends an attempt that made the value true.
func (a *agent) fulfil(now time.Time) {
	t := a.attempt
	a.attempt = nil
	v := t.v
	a.Logger.Info("enacted", "host", a.host, "variable", v.name, "value", t.value.Text(), "rollout", t.order.Rollout)
	current := a.newestOrder(t)
	if _, ok := a.state.Values[v.name]; ok {
		a.state = a.state.withEnacted(v.name, enactedValue{Value: t.value, Generation: t.order.Generation})
		a.persist(now)
	}
	if !current {
		// It was told something newer meanwhile, which comes next.
		a.enactEvent(v, t.order, t.value, rollout.Enacted, v.attempts, "")
		a.changed(now)
		return
	}
	v.repairing, v.enactedAt = false, now
	if v.repairs() {
		v.next = a.nextAttempt(now, v) // should it drift
	}
	a.refresh(now, v)
	a.settle(now, true)
	a.changed(now)
}

// failed ends an attempt that didn't make the value true, and sets when the
// next one is. The output is for the event, which has room for more.
func (a *agent) failed(now time.Time, why, output string) {
	t := a.attempt
	a.attempt = nil
	v, e := t.v, t.v.enactor
	a.changed(now)
	if !a.newestOrder(t) {
		a.Logger.Info("enacting failed, and was superseded", "host", a.host, "variable", v.name, "value", t.value.Text(), "err", why)
		return
	}
	status := rollout.Retrying
	if v.attempts >= e.Retry.Attempts {
		status = rollout.EnactFail
	}
	v.next = a.nextAttempt(now, v)
	if v.attempts <= e.Retry.Attempts {
		a.Logger.Warn("enacting failed", "host", a.host, "variable", v.name, "value", t.value.Text(), "attempt", v.attempts, "status", status, "next", v.next, "err", why)
	}
	if output == "" {
		output = why
	}
	a.setStatus(v, t.order, status, why, output)
}

// nextAttempt is when the enactor may run again, after an attempt that ends
// now.
func (a *agent) nextAttempt(now time.Time, v *variable) time.Time {
	switch r := v.enactor.Retry; {
	case v.attempts == 0:
		return now
	case v.attempts >= r.Attempts:
		return now.Add(a.jittered(time.Duration(r.Max)))
	default:
		return now.Add(wait(v.attempts-1, time.Duration(r.First), time.Duration(r.Max), a.Random))
	}
}

// abandon gives up what may be given up when the agent stops: everything but a
// running enactor.
func (a *agent) abandon() {
	a.sweep = nil
	if t := a.attempt; t != nil && t.phase != executing && t.phase != after {
		t.cancel()
		a.attempt = nil
	}
}

// refresh works out the status of a variable that no attempt is at.
func (a *agent) refresh(now time.Time, v *variable) {
	want, wanted := a.state.Values[v.name]
	if !wanted {
		return
	}
	o := a.state.Orders[v.name]
	switch {
	case !v.executes():
		a.setStatus(v, o, rollout.Unenacted, "", "")
	case !a.state.fulfilled(v.name):
		if v.status == "" {
			a.setStatus(v, o, rollout.Enacting, "", "")
		}
	case v.observeErr != nil && v.unstuck: // that holds
	case v.observeErr != nil:
		a.setStatus(v, o, rollout.Enacted, "observing failed: "+v.observeErr.Error(), "")
	case !want.Matches(a.actual(v)):
		a.drifted(v, o)
	default:
		if a.stuck(now, v); v.unstuck {
			a.doesntStick(v, o)
		} else {
			a.setStatus(v, o, rollout.Enacted, "", "")
		}
	}
}

// setStatus sets a status and, where that is a result that wasn't known,
// tells it as a health event.
func (a *agent) setStatus(v *variable, o order, status rollout.EnactStatus, problem, output string) {
	was, attempts := v.status, v.attempts
	problem = printable(problem, maxError)
	if was != status || v.problem != problem {
		a.changed(time.Now())
	}
	v.status, v.problem = status, problem
	if status == rollout.DriftedOff && was != status {
		a.Logger.Warn("a variable has drifted", "host", a.host, "variable", v.name, "value", a.state.Values[v.name].Text(), "actual", v.actual.Text())
	}
	switch {
	case status == rollout.Enacting:
		// Not a result.
	case status == rollout.Retrying, status != was && !(was == "" && a.knownAtStart(v, status)):
		a.enactEvent(v, o, a.state.Values[v.name], status, attempts, output)
	}
}

// knownAtStart says whether the status was told by an earlier run of the
// agent: what was fulfilled before is no news.
func (a *agent) knownAtStart(v *variable, status rollout.EnactStatus) bool {
	return !a.started && (status == rollout.Enacted || status == rollout.Unenacted)
}

func (a *agent) enactEvent(v *variable, o order, value rollout.Value, status rollout.EnactStatus, attempts int, output string) {
	a.event(subjects.HealthEvent{
		Kind: subjects.HealthEnact, Generation: o.Generation, Rollout: o.Rollout, Variable: v.name, Value: value,
		Status: string(status), Attempts: attempts, Output: printable(output, maxOutput),
	})
}

// settledGeneration is the document's generation if none of its own orders is
// left, or else the last that was.
func (a *agent) settledGeneration() uint64 {
	if a.outletErr != nil {
		return a.settled
	}
	for name, o := range a.state.Orders {
		if o.Generation == a.state.Generation && a.open(a.variable(name)) {
			return a.settled
		}
	}
	return a.state.Generation
}

// settledAtStart is the same for an agent that knows only its state file: the
// newest order that was fulfilled.
func (a *agent) settledAtStart() uint64 {
	for name, o := range a.state.Orders {
		if !a.open(a.variable(name)) {
			a.settled = max(a.settled, o.Generation)
		}
	}
	return max(a.settled, a.settledGeneration())
}

// settle starts the checks anew if a document, or one more order, was
// fulfilled.
func (a *agent) settle(now time.Time, fulfilled bool) {
	if s := a.settledGeneration(); s != a.settled || fulfilled {
		a.settled = s
		a.startAnew(now)
	}
}

// enactStatuses is Report.Enact.
func (a *agent) enactStatuses() map[rollout.Name]rollout.Enact {
	all := make(map[rollout.Name]rollout.Enact)
	for name := range a.state.Values {
		v := a.variable(name)
		e := rollout.Enact{
			Status: v.status, Generation: a.state.Orders[name].Generation, Attempts: v.attempts, Error: v.problem,
			Pinned: a.state.Orders[name].Pin,
		}
		if a.held != "" && a.open(v) {
			e.Status, e.Error = rollout.Retrying, a.heldBack()
		}
		if a.outletErr != nil && !a.state.fulfilled(name) {
			e.Status = rollout.Retrying
			e.Error = printable("the desired state can't be written where other programs read it: "+a.outletErr.Error(), maxError)
		}
		all[name] = e
	}
	for name, v := range a.variables {
		if _, told := a.state.Values[name]; !told && v.observes() && v.observeErr != nil {
			all[name] = rollout.Enact{Status: rollout.Unobserved, Error: printable("observing failed: "+v.observeErr.Error(), maxError)}
		}
	}
	// Documents that aren't taken have no generation in the report, but what
	// stands in their way has its place.
	mark := func(c *subjects.Change, status rollout.EnactStatus, why string) {
		for name, value := range c.Desired.Values {
			if old, ok := a.state.Values[name]; ok && old == value {
				continue
			}
			all[name] = rollout.Enact{
				Status: status, Generation: cmp.Or(min(c.Desired.Told[name].Generation, c.Desired.Generation), c.Desired.Generation), Error: printable(why, maxError),
			}
		}
	}
	switch {
	case a.pending == nil:
	case a.held != "":
		mark(a.pending, rollout.Retrying, a.heldBack())
	case a.unproven != nil:
		mark(a.pending, rollout.Retrying, fmt.Sprintf("generation %d isn't taken without a fresh epoch: %v", a.pending.Desired.Generation, a.unproven))
	default:
		mark(a.pending, rollout.Retrying, fmt.Sprintf("generation %d isn't taken, since it can't be put on disk: %v", a.pending.Desired.Generation, a.pendingErr))
	}
	if a.offered != nil {
		mark(a.offered, rollout.EnactFail, fmt.Sprintf("generation %d isn't taken: %v", a.offered.Desired.Generation, a.damaged))
	}
	return all
}
