package main

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// guardText says what judges a rollout, and what follows from a breach.
func guardText(g *rollout.Guard) string {
	if g == nil || len(g.Objectives) == 0 {
		return ""
	}
	follows := "a breach freezes it"
	if g.OnBreach == rollout.BreachRollsBack {
		follows += " and takes its hosts back"
	}
	return joined(g.Objectives) + "; " + follows
}

// clearText says whether the evidence lets a rollout go on.
func clearText(g *control.GuardView, now time.Time) string {
	switch {
	case !g.Clear:
		return "not clear: " + cmp.Or(g.Why, "the guard has said nothing of it")
	case g.Until.IsZero():
		return "clear"
	}
	return "clear until " + moment(g.Until, now) + ", and longer with every new evidence"
}

// guardTables shows what froze a rollout, if the guard did, else the evidence
// against it as it stands.
func (a *app) guardTables(v *control.RolloutView, now time.Time) {
	if v.Abort != nil && v.Abort.Evidence != nil {
		fmt.Fprintln(a.out)
		a.verdict(v.Abort.Evidence, now)
		if v.State == rollout.StateFrozen {
			return // nothing has been added since
		}
	}
	if v.Guard != nil && len(v.Guard.Standings) > 0 {
		fmt.Fprintln(a.out)
		a.standings(v.Guard.Standings)
	}
}

func (a *app) standings(all []slo.Standing) {
	columns := []string{"OBJECTIVE", "EVIDENCE", "CHANGED", "NOT CHANGED"}
	if a.wide() {
		columns = append(columns, "HARM", "BREACH", "UNWATCHED")
	}
	share := weight(all)
	t := newTable(append(columns, "STOPS AFTER")...).numbers("UNWATCHED")
	for i := range all {
		s := &all[i]
		if s.Bar == 0 && s.Gate != nil {
			continue // gates follow
		}
		row := []any{s.Objective, evidenceText(s), failedOf(s.TreatedFailed, s.Treated), failedOf(s.ControlFailed, s.Control)}
		if a.wide() {
			breach := ""
			if s.Breach > 0 {
				breach = weightText(s.Breach)
			}
			row = append(row, weightText(s.Harm), breach, s.Unwatched)
		}
		t.row(append(row, needsText(s, share))...)
	}
	t.print(a.out)
	if len(all) > 1 {
		fmt.Fprintf(a.out, "together they are at %s of what freezes it\n", percent(min(share, 1)))
	}
	for i := range all {
		if g := all[i].Gate; g != nil && g.Outcome != "" {
			a.say("%s", printable(gateText(&all[i])))
		}
	}
	for i := range all {
		if s := &all[i]; s.Unwatched > 0 {
			a.say("%s", printable(fmt.Sprintf("%s doesn't watch %s: not seen healthy since the rollout was created", s.Objective, plural(s.Unwatched, "host"))))
		}
	}
}

// weight is what several objectives say together: at 1 the rollout is frozen.
func weight(all []slo.Standing) float64 {
	sum := 0.0
	for _, s := range all {
		if s.Bar > 0 {
			sum += s.E / s.Bar
		}
	}
	return sum
}

func evidenceText(s *slo.Standing) string { return weightText(s.E) + " of " + weightText(s.Bar) }

// weightText shows evidence, which may have hundreds of digits.
func weightText(e float64) string {
	switch {
	case math.IsNaN(e):
		return "?"
	case e < 0.05:
		return "0"
	case e >= 1e6:
		return "over a million"
	case e >= 100, e == math.Trunc(e):
		return fmt.Sprintf("%.0f", e)
	}
	return fmt.Sprintf("%.1f", e)
}

func failedOf(failed, watched int) string { return fmt.Sprintf("%d failed of %d", failed, watched) }

// gateText says what the last look from outside came to.
func gateText(s *slo.Standing) string {
	text := fmt.Sprintf("%s: the last look says %s", s.Objective, s.Gate.Outcome)
	if s.Gate.Why != "" {
		text += ": " + s.Gate.Why
	}
	if s.Bar == 0 {
		text += fmt.Sprintf("; %s so far, more than %d freeze", plural(s.Gate.Failures, "failure"), s.Gate.Limit)
	}
	return text
}

// needsText says how many more failures freeze the rollout.
func needsText(s *slo.Standing, share float64) string {
	switch {
	case share >= 1:
		return "it has stopped"
	case s.Needs == 1:
		return "1 more changed host that fails now"
	case s.Needs > 1:
		return fmt.Sprintf("%d more changed hosts that fail now", s.Needs)
	case s.Treated == s.TreatedFailed:
		return "no changed host is watched now"
	}
	return "can't be told from chance any more"
}

// kindText says what a verdict means.
func kindText(k slo.Kind) string {
	switch k {
	case slo.Harm:
		return "changed hosts fail more than those not yet changed"
	case slo.Breach:
		return "more changed hosts fail than the objective allows, whatever the cause"
	case slo.Limit:
		return "more failed than its failureLimit, which nothing is weighed against"
	}
	return "" // a newer guard's
}

// verdict shows on what grounds the guard froze a rollout.
func (a *app) verdict(v *slo.Verdict, now time.Time) {
	var f fields
	f.add("verdict", fmt.Sprintf("%s, by %s%s", v.Kind, v.Objective, because(kindText(v.Kind))))
	f.add("fell", fmt.Sprintf("%s, at sequence %d of the evidence", moment(v.Time, now), v.Sequence))
	for i := range v.Standings {
		s := &v.Standings[i]
		name := "evidence"
		if len(v.Standings) > 1 {
			name += " of " + string(s.Objective)
		}
		f.add(name, fmt.Sprintf("%s; changed hosts: %s, not yet changed: %s", evidenceText(s), failedOf(s.TreatedFailed, s.Treated), failedOf(s.ControlFailed, s.Control)))
	}
	for _, s := range v.RuledOut {
		f.add("cause", s)
	}
	f.print(a.out)
	a.failures(v)
}

func (a *app) failures(v *slo.Verdict) {
	if len(v.Failed) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	t := newTable("FAILED HOST", "ROLE", "HOW", "TOLD", "FAILED AFTER", "REPORTED")
	for _, h := range v.Failed {
		after := ""
		if !h.Told.IsZero() && !h.Time.IsZero() {
			after = short(max(0, h.Time.Sub(h.Told)))
		}
		t.row(h.Host, h.Role, howText(h.How), local(h.Told), after, h.Output)
	}
	t.print(a.out)
	if more := v.Of - len(v.Failed); more > 0 {
		fmt.Fprintf(a.out, "not listed: %s that failed before\n", plural(more, "changed host"))
	}
}

func howText(h slo.How) string {
	switch h {
	case slo.FailedCheck:
		return "its check fails"
	case slo.FailedEnact:
		return "gave up enacting"
	case slo.FailedSilence:
		return "silent"
	}
	return string(h)
}

// seldom is below which share of the cases a plan says how often a bad change
// would be stopped.
const seldom = 0.95

// powerText says what the guard would make of a bad change.
func powerText(p *slo.Power) string {
	s := fmt.Sprintf("a change that breaks %s of hosts", p.Breaks)
	if p.Breaks == 100 {
		s = "a change that breaks every host"
	}
	if p.Stopped <= 0 {
		return s + " wouldn't be seen"
	}
	often, else_ := "", ""
	if p.Stopped < seldom {
		often = fmt.Sprintf(" in %.0f of 100 cases", max(1, 100*p.Stopped))
		else_ = "; else it isn't seen"
	}
	return fmt.Sprintf("%s would be stopped%s after about %s, %s in, %d of them failed%s", s, often, plural(p.Hosts, "host"), spaced(time.Duration(p.After)), p.Failed, else_)
}
