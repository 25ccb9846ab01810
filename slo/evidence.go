package slo

import (
	"math"
	"slices"
	"time"
)

// Evidence weighs one objective of one rollout: C, treated hosts against their
// control, and A, treated hosts against the objective's budgets. Its methods
// take the time of what happened; a time before the last one counts as the last
// one. One goroutine owns it.
type Evidence struct {
	// objectiveOnly leaves out C: a rollback is judged by its objective alone.
	objectiveOnly bool
	rho           float64
	now           int64 // nanoseconds since 1970
	restarts      restarts
	strata        []*stratum
	contrast      contrast
	budget        budget

	treated, control             int // at risk
	treatedFailed, controlFailed int // that were
}

// stratum is a group of hosts that are in random order among themselves: those
// of one role, or the part of them that a limit cuts out.
type stratum struct {
	control int // at risk
	// treated ones, in the order of their treatment. Those before recent[k] were
	// treated longer than window k ago; atRisk[k] counts the others that are at
	// risk. Window 0 never ends.
	queue  []*Subject
	recent [windows]int
	atRisk [windows]int
	weights
}

// Subject is one host in the evidence. The zero Subject isn't at risk.
type Subject struct {
	stratum int32
	place   int32 // in the stratum's queue, where treated
	charge  int32 // its number among the treated, from 1; 0: never charged to A1
	atRisk  bool
	treated bool
	mature  bool // treated for longer than the budget's window
	domain  int32
	at      int64
}

// AtRisk says whether the host is watched: it was seen healthy, and hasn't
// failed or left since.
func (s *Subject) AtRisk() bool { return s.atRisk }

// Together says of what a host is a part that fails as one, by its name; "" is
// nothing. It is said before the host enters.
func (e *Evidence) Together(s *Subject, domain string) { s.domain = e.budget.domain(domain) }

// NewEvidence begins to weigh at now. For a rollback objectiveOnly is true.
func NewEvidence(o *Objective, objectiveOnly bool, now time.Time) *Evidence {
	e := &Evidence{objectiveOnly: objectiveOnly, rho: o.tolerate(), now: now.UnixNano()}
	e.restarts.begin()
	e.budget.begin(o)
	e.contrast.begin(e.restarts.started)
	return e
}

// Plan says when the rollout's ramp begins and for how long it is planned to
// run: restarts come at parts of that. Only the first plan counts, so that
// nothing that happens afterwards can move them. One that began before the
// evidence did, or before what happened last, begins now.
func (e *Evidence) Plan(begins time.Time, length time.Duration) {
	e.restarts.plan(max(e.now, begins.UnixNano()), length)
	e.contrast.plan(length)
}

// Stratum makes a stratum and returns its index. It takes the time so that the
// start points so far have come: to the last bit, the evidence is the same
// however often it was looked at.
func (e *Evidence) Stratum(now time.Time) int {
	e.advance(now)
	e.strata = append(e.strata, &stratum{weights: e.contrast.fresh(e.restarts.started)})
	return len(e.strata) - 1
}

// Enter puts a host at risk that was seen healthy. One that has been told
// already, since before the evidence was begun, is treated: it counts in C, and
// in A as one whose window is over.
func (e *Evidence) Enter(s *Subject, stratum int, treated bool, now time.Time) {
	if s.atRisk {
		return
	}
	e.advance(now)
	g := e.strata[stratum]
	*s = Subject{stratum: int32(stratum), domain: s.domain, atRisk: true}
	if !treated {
		g.control++
		e.control++
		return
	}
	e.contrast.settle(len(e.strata))
	g.admit(s, e.now)
	s.mature = true
	e.budget.old++
	e.treated++
}

// Treat moves a host at risk from the control to the treated. It is charged
// to A1 at once, so that hosts that have yet to fail keep the test
// conservative.
func (e *Evidence) Treat(s *Subject, now time.Time) {
	if !s.atRisk || s.treated {
		return
	}
	e.advance(now)
	e.contrast.settle(len(e.strata))
	g := e.strata[s.stratum]
	g.control--
	e.control--
	e.treated++
	g.admit(s, e.now)
	e.budget.charge(s)
}

// Leave takes a host out that hasn't failed: it was decommissioned, pinned, or
// belongs to another rollout now.
func (e *Evidence) Leave(s *Subject, now time.Time) {
	if !s.atRisk {
		return
	}
	e.advance(now)
	e.remove(s)
	if s.treated {
		e.treated--
	} else {
		e.control--
	}
}

// Fail scores the first failure of a host at risk, which thereby leaves the
// risk set.
func (e *Evidence) Fail(s *Subject, now time.Time) {
	if !s.atRisk {
		return
	}
	e.advance(now)
	g := e.strata[s.stratum]
	g.age(e.now, e.contrast.windows)
	e.contrast.score(g, e.rho, s.treated, g.within(s))
	if s.treated {
		e.budget.fail(s, &e.restarts, e.now)
		e.treated--
		e.treatedFailed++
	} else {
		e.control--
		e.controlFailed++
	}
	e.remove(s)
}

// settle ends A2.
func (e *Evidence) settle(now time.Time) {
	e.advance(now)
	e.budget.settled = true
}

func (e *Evidence) remove(s *Subject) {
	g := e.strata[s.stratum]
	if !s.treated {
		s.atRisk = false
		g.control--
		return
	}
	g.age(e.now, e.contrast.windows) // while it still counts
	s.atRisk = false
	for k := range g.atRisk {
		if int(s.place) >= g.recent[k] {
			g.atRisk[k]--
		}
	}
	if s.mature {
		e.budget.old--
	}
}

// admit adds a treated host to the stratum's queue.
func (g *stratum) admit(s *Subject, now int64) {
	s.treated, s.at, s.place = true, now, int32(len(g.queue))
	g.queue = append(g.queue, s)
	for k := range g.atRisk {
		g.atRisk[k]++
	}
}

// age moves on to who is recently treated now.
func (g *stratum) age(now int64, length [windows]int64) {
	for k := 1; k < windows; k++ {
		if length[k] == 0 {
			continue
		}
		for g.recent[k] < len(g.queue) && g.queue[g.recent[k]].at+length[k] <= now {
			if g.queue[g.recent[k]].atRisk {
				g.atRisk[k]--
			}
			g.recent[k]++
		}
	}
}

// within says in which windows a treated host is.
func (g *stratum) within(s *Subject) (in [windows]bool) {
	for k := range in {
		in[k] = s.treated && int(s.place) >= g.recent[k]
	}
	return in
}

// advance lets time pass: restarts come, windows end, and treated hosts are
// exposed.
func (e *Evidence) advance(now time.Time) {
	t := max(e.now, now.UnixNano())
	for {
		at, restart := e.restarts.next(t)
		if due := e.budget.matures(); due <= at && due <= t {
			e.budget.expose(due)
			e.budget.mature()
			continue
		}
		if !restart {
			break
		}
		e.budget.expose(at)
		e.contrast.restart(e.strata, e.restarts.weight())
		e.restarts.start(&e.budget)
	}
	e.budget.expose(t)
	e.now = t
}

// Harm is ln E_C, and Breach ln E_A, which is valid where Budgets. E is ln of
// the mean of both, or of the one that there is: how much more probable what
// was seen is if the change does harm.
func (e *Evidence) Harm() float64 {
	if e.objectiveOnly {
		return 0
	}
	return e.contrast.log(e.strata, e.restarts.unspent())
}

// Breach is ln E_A.
func (e *Evidence) Breach() float64 { return e.budget.log(&e.restarts) }

// Budgets says whether the objective has a budget, and so whether there is
// an A.
func (e *Evidence) Budgets() bool { return e.budget.within || e.budget.steady }

// E is ln of the evidence.
func (e *Evidence) E() float64 {
	switch {
	case !e.Budgets():
		return e.Harm()
	case e.objectiveOnly:
		return e.Breach()
	}
	return logAdd(e.Harm(), e.Breach()) - math.Ln2
}

// clone is a copy to try things on. The subjects stay the original's, so that
// only copies of them may be used with it.
func (e *Evidence) clone() *Evidence {
	c := *e
	c.restarts.points = slices.Clone(e.restarts.points)
	c.budget.failed = slices.Clone(e.budget.failed)
	c.strata = make([]*stratum, len(e.strata))
	for i, g := range e.strata {
		h := *g
		c.strata[i] = &h
	}
	return &c
}
