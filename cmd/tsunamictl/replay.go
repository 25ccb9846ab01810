package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

func (a *app) replayCommand() *cobra.Command {
	var files []string
	var id, since string
	cmd := &cobra.Command{
		Use: "replay --rollout ROLLOUT [NAME…]", Short: "Show what objectives would have made of a rollout", SuggestFor: []string{"simulate", "backtest"},
		Long: `Show what objectives would have made of a rollout, from the evidence that was
recorded while it moved: which failures counted, what each weighed, and when it
would have been frozen. So an objective can be tried on a rollout of last month
before it is armed, and a freeze be understood: with the objectives that a rollout
names the guard's own verdict comes out, at the same message.

It is judged by the objectives with these NAMEs, by those in FILE, or else by those
that it names, as they were then. With --since only what happened from then on
counts; who had been changed before is known all the same. It is read from the
evidence itself, so it needs no scheduler.`,
		Example: `  tsunamictl objective replay --rollout docker-1-12-3
  tsunamictl objective replay docker-healthy --rollout docker-1-12-3 --since 2026-12-01
  tsunamictl objective replay --rollout docker-1-12-3 -f stricter.yaml -o json`,
		Args: cobra.ArbitraryArgs,
		ValidArgsFunction: a.complete(func(a *app, ctx context.Context, p place) ([]cobra.Completion, error) {
			all, err := a.completeObjectives(ctx, p)
			return slices.DeleteFunc(all, func(c cobra.Completion) bool {
				name, _, _ := strings.Cut(c, "\t")
				return slices.Contains(p.words, name)
			}), err
		}),
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := notEmpty(cmd, "rollout", "since"); err != nil {
				return err
			}
			if id == "" {
				return usagef("--rollout is missing: the rollout whose evidence is replayed")
			}
			q := control.ReplayRequest{}
			var err error
			if q.Rollout, err = rolloutArg(id); err != nil {
				return err
			}
			if since != "" {
				if q.Since, err = parsePast(since, time.Now()); err != nil {
					return usagef("--since: %v", err)
				}
			}
			return a.replay(cmd.Context(), &q, names, files)
		},
	}
	cmd.Flags().StringVar(&id, "rollout", "", "the `rollout` whose evidence is replayed")
	cmd.Flags().StringVar(&since, "since", "", "only evidence from this `time` on: 2h, 2026-12-01 or 2026-12-01T09:00:00+01:00")
	fileFlag(cmd, &files)
	return cmd
}

// replay finds the objectives, and replays.
func (a *app) replay(ctx context.Context, q *control.ReplayRequest, names, files []string) error {
	if len(names) > 0 && len(files) > 0 {
		return usagef("wants NAMEs of objectives or -f FILE, not both")
	}
	for _, name := range names {
		if err := checkName(control.KindObjective, name); err != nil {
			return err
		}
	}
	if len(files) > 0 {
		var err error
		if q.Objectives, err = a.objectivesIn(files); err != nil {
			return err
		}
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	if a.timeout != 0 {
		bounded, cancel := a.bounded(ctx)
		defer cancel()
		ctx = bounded
	}
	for _, name := range names {
		o, err := c.Objective(ctx, rollout.ID(name))
		if err != nil {
			return a.found(ctx, c, err)
		}
		q.Objectives = append(q.Objectives, o)
	}
	r, err := c.Replay(ctx, *q)
	if err != nil {
		return a.found(ctx, c, err)
	}
	return a.emit(r, func() { a.replayed(r) })
}

// found adds to an error about something that isn't there what is, and to one
// about what wasn't said how to say it.
func (a *app) found(ctx context.Context, c *control.Client, err error) error {
	e, ok := errors.AsType[*control.Error](err)
	switch {
	case ok && e.Code == control.NotFound:
		return a.listing(ctx, c, e)
	case ok && e.Code == control.Usage:
		return usagef("%s, with NAMEs of objectives or -f FILE", e.Message)
	}
	return err
}

// objectivesIn reads the objectives of files; other documents may stand beside
// them.
func (a *app) objectivesIn(files []string) ([]*slo.Objective, error) {
	docs, err := a.read(files)
	if err != nil {
		return nil, err
	}
	var all []*slo.Objective
	for _, d := range docs {
		if d.Objective != nil {
			all = append(all, d.Objective)
		}
	}
	if len(all) == 0 {
		return nil, usagef("no objective in these files")
	}
	return all, nil
}

// mostEvents is how many failures a table shows of either end.
const mostEvents = 20

// replayed tells what would have happened.
func (a *app) replayed(r *control.Replay) {
	var f fields
	f.add("rollout", r.Rollout)
	f.add("evidence", evidenceSpan(r))
	f.add("told", plural(r.Told, "host")+" by the rollout, in all")
	f.print(a.out)
	a.events(r.Events)
	for i := range r.Verdicts {
		fmt.Fprintln(a.out)
		a.wouldFreeze(&r.Verdicts[i])
		a.failures(&r.Verdicts[i])
	}
	fmt.Fprintln(a.out)
	switch {
	case len(r.Verdicts) > 0 && r.ToldAfter > 0:
		a.say("%s of %d were told after that: they would have been spared", plural(r.ToldAfter, "host"), r.Told)
	case len(r.Verdicts) > 0:
		a.say("no host was told after that")
	case len(r.Peaks) == 0:
		a.say("nothing: there is no evidence about this rollout in that time")
	}
	if len(r.Verdicts) > 0 {
		return
	}
	for i := range r.Peaks {
		p := &r.Peaks[i]
		a.say("nothing by %s: its evidence was at most %s; changed hosts: %s, not yet changed: %s", p.Objective, evidenceText(p), failedOf(p.TreatedFailed, p.Treated), failedOf(p.ControlFailed, p.Control))
	}
	if r.Unclear != "" {
		a.say("the rollout would wait now: %s", printable(r.Unclear))
	}
}

// evidenceSpan says which evidence was taken.
func evidenceSpan(r *control.Replay) string {
	s := "none"
	switch {
	case r.From.After(r.Until):
		s = "none from " + local(r.From) + " on"
	case !r.Until.IsZero():
		s = fmt.Sprintf("%s to %s, %s", local(r.From), local(r.Until), plural(r.Messages, "message"))
	}
	if r.Unread > 0 {
		s += fmt.Sprintf("; %d of them can't be read and change nothing", r.Unread)
	}
	if !r.Begins.IsZero() {
		s += "; what was before " + local(r.Begins) + " isn't kept any more"
	}
	return s
}

func (a *app) events(all []control.ReplayEvent) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	t := newTable("TIME", "SEQUENCE", "HOST", "ROLE", "HOW", "CHANGED?", "OBJECTIVE", "CHANGED", "NOT CHANGED", "EVIDENCE").numbers("SEQUENCE")
	for i := range all {
		if hidden := len(all) - 2*mostEvents; hidden > 0 && !a.wide() && i >= mostEvents && i < mostEvents+hidden {
			if i == mostEvents {
				t.row(fmt.Sprintf("… %d more (-o wide)", hidden))
			}
			continue
		}
		e := &all[i]
		s := &e.Standing
		changed := "no"
		if e.Treated {
			changed = "yes"
		}
		t.row(local(e.Counted), e.Sequence, e.Host, e.Role, howText(e.How), changed, s.Objective, failedOf(s.TreatedFailed, s.Treated), failedOf(s.ControlFailed, s.Control), evidenceText(s))
	}
	t.print(a.out)
}

// wouldFreeze says when a rollout would have been frozen, and why.
func (a *app) wouldFreeze(v *slo.Verdict) {
	for i := range v.Standings {
		if s := &v.Standings[i]; s.Objective == v.Objective {
			a.say("at %s (sequence %d) it would have frozen %s: %s by %s, evidence %s, after %s of %d changed", local(v.Time), v.Sequence, v.Rollout,
				v.Kind, v.Objective, evidenceText(s), plural(s.TreatedFailed, "failed host"), s.Treated)
		}
	}
	if len(v.Standings) > 1 {
		a.say("  together the objectives were at %s of what freezes it", percent(weight(v.Standings)))
	}
	a.say("  %s", kindText(v.Kind))
	for _, s := range v.RuledOut {
		a.say("  %s", printable(s))
	}
}
