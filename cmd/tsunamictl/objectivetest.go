package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

func (a *app) objectiveTestCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use: "test [NAME | -f FILE]", Short: "Show what an objective sees on the fleet as it is", SuggestFor: []string{"try", "check", "lint"},
		Long: `Show what an objective sees on the fleet as it is: in each role how many hosts
pass its check, fail it, are silent or have no such check; how many have failed it
in the last day, by the same rules as in a rollout; and whether its budgets would
be kept at that rate without any change. A budget that isn't would freeze rollouts
that do no harm.

It tests the objective with this NAME, those in FILE, or else all there are.
Nothing is written.`,
		Example: `  tsunamictl objective test docker-healthy
  tsunamictl objective test -f docker-healthy.yaml`,
		Args:              arguments("[NAME]"),
		ValidArgsFunction: a.complete(first((*app).completeObjectives)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && len(files) > 0 {
				return usagef("wants the NAME of an objective or -f FILE, not both")
			}
			all, err := a.toTest(cmd.Context(), args, files)
			if err != nil {
				return err
			}
			tests, err := a.testObjectives(cmd.Context(), all, time.Now())
			if err != nil {
				return err
			}
			return a.emit(tests, func() {
				for i := range tests {
					if i > 0 {
						fmt.Fprintln(a.out)
					}
					a.tested(&tests[i])
				}
			})
		},
	}
	fileFlag(cmd, &files)
	return cmd
}

// toTest are the objectives that were asked for.
func (a *app) toTest(ctx context.Context, names, files []string) (all []*slo.Objective, err error) {
	if len(files) > 0 {
		return a.objectivesIn(files)
	}
	if len(names) > 0 {
		v, err := a.objective(ctx, names[0])
		if err != nil {
			return nil, err
		}
		return []*slo.Objective{&v.Objective}, nil
	}
	views, err := a.objectives(ctx)
	for i := range views {
		all = append(all, &views[i].Objective)
	}
	if err == nil && len(all) == 0 {
		err = control.Errorf(control.NotFound, "there is no objective: apply its document first, or test it with -f FILE")
	}
	return all, err
}

// tested is how an objective sees the fleet.
type tested struct {
	Objective slo.Objective `json:"objective"`
	Roles     []testedRole  `json:"roles"`
	// From and Until bound the evidence of failures. Watched are the hosts that
	// have the check, Failed those that failed it then at least once, and PerDay
	// the share of hosts that do so on a day.
	From    time.Time `json:"from,omitzero"`
	Until   time.Time `json:"until"`
	Watched int       `json:"watched"`
	Failed  int       `json:"failed"`
	PerDay  float64   `json:"perDay"`
}

// testedRole counts the hosts of a role, each as one of passing, failing, silent
// and without the check.
type testedRole struct {
	Role    rollout.Word `json:"role"`
	Hosts   int          `json:"hosts"`
	Passing int          `json:"passing"`
	Failing int          `json:"failing"`
	Silent  int          `json:"silent"`
	NoCheck int          `json:"noCheck"`
	Failed  int          `json:"failed"` // in the time of the evidence, at least once
}

// testSpan is the time whose failures are counted; of less than leastSpan no rate
// is told.
const (
	testSpan  = 24 * time.Hour
	leastSpan = time.Hour
)

func (a *app) testObjectives(ctx context.Context, all []*slo.Objective, now time.Time) ([]tested, error) {
	hosts, err := a.everyHost(ctx)
	if err != nil {
		return nil, err
	}
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	tests := make([]tested, len(all))
	for i, objective := range all {
		o := filled(objective)
		if o.Signal() {
			return nil, &exitError{exitRefused, fmt.Errorf("%s is judged by its %s, which tsunamid asks while a rollout names it: 'tsunamictl rollout show' says what it sees", o.Name, o.Source())}
		}
		failures, err := c.Failures(ctx, o.Check, time.Duration(*o.For), time.Duration(*o.Grace), now.Add(-testSpan))
		if err != nil {
			return nil, err
		}
		tests[i] = testOf(objective, hosts, failures)
	}
	return tests, nil
}

// everyHost asks for the inventory, page by page.
func (a *app) everyHost(ctx context.Context) (all []control.HostView, err error) {
	var q control.HostListRequest
	for {
		var page control.HostListResponse
		if err := a.call(ctx, control.HostList, q, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Hosts...)
		if !page.More || len(page.Hosts) == 0 {
			return all, nil
		}
		q.After = page.Hosts[len(page.Hosts)-1].Host
	}
}

// testOf counts.
func testOf(o *slo.Objective, hosts []control.HostView, failures *control.Failures) tested {
	t := tested{Objective: *o, From: failures.From, Until: failures.Until, Roles: []testedRole{}}
	roles := make(map[rollout.Word]*testedRole)
	for i := range hosts {
		h := &hosts[i]
		r := roles[h.Role]
		if r == nil {
			r = &testedRole{Role: h.Role}
			roles[h.Role] = r
		}
		r.Hosts++
		check, has := h.Checks[o.Check]
		switch {
		case !has:
			r.NoCheck++
		case !h.Online:
			r.Silent++
		case check.Status == rollout.Failing:
			r.Failing++
		default:
			r.Passing++
		}
		if !has {
			continue
		}
		t.Watched++
		if _, failed := failures.Hosts[h.Host]; failed {
			r.Failed++
			t.Failed++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		t.Roles = append(t.Roles, *roles[name])
	}
	if days := t.span().Hours() / 24; t.Watched > 0 && days > 0 {
		t.PerDay = float64(t.Failed) / float64(t.Watched) / days
	}
	return t
}

// span is for how long there is evidence.
func (t *tested) span() time.Duration {
	if t.From.IsZero() {
		return 0
	}
	return t.Until.Sub(t.From)
}

func (a *app) tested(t *tested) {
	o := filled(&t.Objective)
	a.say("%s: check %s, failed for %s, or silent for %s longer than three heartbeats", o.Name, o.Check, o.For, o.Grace)
	if len(t.Roles) == 0 {
		a.say("there are no hosts")
		return
	}
	fmt.Fprintln(a.out)
	table := newTable("ROLE", "HOSTS", "PASS", "FAIL", "SILENT", "NO CHECK", "FAILED IN "+short(t.span())).
		numbers("HOSTS", "PASS", "FAIL", "SILENT", "NO CHECK", "FAILED IN "+short(t.span()))
	for _, r := range t.Roles {
		table.row(r.Role, r.Hosts, r.Passing, r.Failing, r.Silent, r.NoCheck, r.Failed)
	}
	table.print(a.out)
	fmt.Fprintln(a.out)
	for _, s := range t.sentences(&o) {
		a.say("%s", s)
	}
}

// sentences say what the numbers mean for rollouts.
func (t *tested) sentences(o *slo.Objective) (all []string) {
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if t.Watched == 0 {
		follows := "a rollout that names the objective waits until one has"
		if o.NoData == slo.NoDataPass {
			follows = "a rollout that names the objective goes on unjudged"
		}
		say("no host has a check %s: %s", o.Check, follows)
		return all
	}
	failing, silent := 0, 0
	for _, r := range t.Roles {
		failing, silent = failing+r.Failing, silent+r.Silent
	}
	if n := failing + silent; n > 0 {
		say("%s now: a rollout begins to watch a host when it passes", failNow(n))
	}
	if t.span() < leastSpan {
		say("the evidence reaches back %s: too short a time to tell how often hosts fail", spaced(t.span()))
		return all
	}
	say("in the last %s %d of %s with the check failed at least once: %s of hosts a day", spaced(t.span()), t.Failed, plural(t.Watched, "host"), share(t.PerDay))
	if s := o.Steady; s != nil {
		say("at this rate the objective's steady budget of %s per %s %s", s.AtMost, s.Per, kept(t.PerDay, s.AtMost, s.Per))
	}
	if w := o.WithinOfChange; w != nil {
		say("at this rate its budget of %s within %s of a change %s", w.AtMost, w.Window, kept(t.PerDay, w.AtMost, w.Window))
	}
	if o.Steady == nil && o.WithinOfChange == nil {
		say("it has no budgets: changed hosts are only compared with those not yet changed")
	}
	return all
}

func failNow(n int) string {
	if n == 1 {
		return "1 host fails or is silent"
	}
	return fmt.Sprintf("%d hosts fail or are silent", n)
}

// kept says whether a budget is kept by hosts that nobody changes.
func kept(perDay float64, most rollout.Percent, over rollout.Duration) string {
	expected := min(1, perDay*time.Duration(over).Hours()/24)
	if expected <= float64(most)/100 {
		return fmt.Sprintf("would be kept without any change: %s are expected to fail", share(expected))
	}
	return fmt.Sprintf("wouldn't be kept without any change: %s are expected to fail, and rollouts that do no harm may be frozen", share(expected))
}

// share shows a share of hosts, a small one to the two digits that matter.
func share(f float64) string {
	if f >= 0.1 {
		return fmt.Sprintf("%.0f%%", 100*f)
	}
	return fmt.Sprintf("%.2g%%", 100*f)
}
