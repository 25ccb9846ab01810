package hostagent

import (
	"context"
	"fmt"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// checking is what the checks say.
type checking struct {
	checks  []*check
	settled uint64 // the generation with which checks last started anew
}

// check is one check on this host.
type check struct {
	Check
	id         rollout.ID
	status     rollout.CheckStatus
	generation uint64
	output     string    // of the last failure
	anew       int       // counts the new starts: a run of an older one doesn't count for passing
	since      time.Time // it has passed since then; zero: it doesn't
	running    bool
	next       time.Time // when it is to be run
	scraped    scraped   // by the run before; a run that goes on owns it
}

// checkRun is the outcome of one run.
type checkRun struct {
	c       *check
	anew    int
	started time.Time
	result  Result
}

// startChecks runs the checks that are due, each at most once at a time.
func (a *agent) startChecks(now time.Time) {
	for _, c := range a.checks {
		if c.running || now.Before(c.next) {
			continue
		}
		c.running = true
		c.next = now.Add(time.Duration(c.Every))
		env := []string{"TSUNAMI_HOST=" + string(a.host), "TSUNAMI_CHECK=" + string(c.id)}
		anew := c.anew
		a.begin(func(ctx context.Context) {
			ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(c.Timeout), fmt.Errorf("it ran longer than its timeout of %s", c.Timeout))
			defer cancel()
			a.checked <- checkRun{c, anew, now, c.probe(ctx, a.Exec, env, &c.scraped, now)}
		})
	}
}

func (a *agent) checkDue() time.Time {
	next := never
	if a.stopping {
		return next
	}
	for _, c := range a.checks {
		if !c.running {
			next = earliest(next, c.next)
		}
	}
	return next
}

// startAnew begins all checks again, for the document that is settled now.
func (a *agent) startAnew(now time.Time) {
	for _, c := range a.checks {
		c.generation, c.since, c.next = a.settled, time.Time{}, now
		c.anew++
		if c.status == rollout.Passing {
			a.setCheck(c, rollout.Pending, "")
		}
	}
	if len(a.checks) > 0 {
		a.changed(now)
	}
}

// judge takes the outcome of a run.
func (a *agent) judge(r checkRun) {
	c, now := r.c, time.Now()
	c.running = false
	if a.stopping {
		return // it was killed, or doesn't matter any more
	}
	if r.result.Err != nil {
		c.since = time.Time{}
		a.setCheck(c, rollout.Failing, r.result.failure(maxError))
		return
	}
	if r.anew != c.anew {
		return // what it saw was before the change
	}
	if c.since.IsZero() {
		c.since = now
	}
	// What counts is a run that began when the time was over.
	if settles := c.since.Add(time.Duration(c.For)); c.For == 0 || !r.started.Before(settles) {
		a.setCheck(c, rollout.Passing, "")
	} else {
		a.setCheck(c, rollout.Pending, "")
		c.next = earliest(c.next, settles)
	}
}

// setCheck sets a check's status, and tells a transition. The output of a
// check that goes on failing stays that of its first failure, so that a
// changing text doesn't make a report every time.
func (a *agent) setCheck(c *check, status rollout.CheckStatus, output string) {
	if status == c.status {
		return
	}
	was := c.status
	c.status, c.output = status, output
	switch {
	case status == rollout.Failing:
		a.Logger.Warn("a check fails", "host", a.host, "check", c.id, "generation", c.generation, "err", output)
	case status == rollout.Passing:
		a.Logger.Info("a check passes", "host", a.host, "check", c.id, "generation", c.generation, "was", was)
	}
	a.event(subjects.HealthEvent{
		Kind: subjects.HealthCheck, Generation: a.state.Generation, Rollout: a.state.Rollout, Check: c.id,
		Status: string(status), Output: output,
	})
	a.changed(time.Now())
}

// checkStatuses is Report.Checks.
func (a *agent) checkStatuses() map[rollout.ID]rollout.Check {
	all := make(map[rollout.ID]rollout.Check, len(a.checks))
	for _, c := range a.checks {
		all[c.id] = rollout.Check{Status: c.status, Generation: c.generation, Output: c.output}
	}
	return all
}
