package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func (a *app) rolloutCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "rollout", Short: "Rollouts: start, watch and stop them"})
	cmd.AddCommand(
		a.rolloutStartCommand(), a.watchCommand(), a.planCommand(), a.abortCommand(), a.resumeCommand(),
		&cobra.Command{
			Use: "list", Short: "List rollouts, the oldest first", Args: arguments(""),
			RunE: func(cmd *cobra.Command, _ []string) error {
				views := []control.RolloutView{}
				if err := a.call(cmd.Context(), control.RolloutList, nil, &views); err != nil {
					return err
				}
				return a.emit(views, func() { a.rolloutTable(views, time.Now()) })
			},
		},
		&cobra.Command{
			Use: "show ROLLOUT", Short: "Show how a rollout stands", Args: arguments("ROLLOUT"),
			RunE: func(cmd *cobra.Command, args []string) error {
				v, err := a.show(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.emit(v, func() { a.rolloutFields(v, time.Now()) })
			},
		},
		a.transitionCommand(control.RolloutPause, "pause", "Hold a running rollout", `Hold a running rollout. Its clock stops; when it is resumed it goes on from
where it was, without a burst.`,
			func(v *control.RolloutView) {
				a.say("%s is paused at %d of %d hosts: nobody more is told until 'tsunamictl rollout resume %s'", v.ID, v.Told, v.Target, v.ID)
				if v.InFlight > 0 {
					a.say("%s were told before and may still enact", plural(v.InFlight, "host"))
				}
			}),
		a.transitionCommand(control.RolloutCancel, "cancel", "End a rollout for good", `End a rollout for good. Hosts keep what they were told; nobody more is told.
A cancelled rollout can't be resumed: start a new one.`,
			func(v *control.RolloutView) {
				a.say("%s is cancelled at %d of %d hosts: those keep %s=%s, nobody more is told", v.ID, v.Told, v.Target, v.Variable, printable(v.To.Text()))
				a.say("it can't be resumed; a new rollout of %s can be started now", v.Variable)
			}),
	)
	return cmd
}

func rolloutArg(s string) (rollout.ID, error) {
	id, err := rollout.ParseID("rollout", s)
	if err != nil {
		return "", &usageError{err}
	}
	return id, nil
}

func (a *app) show(ctx context.Context, name string) (*control.RolloutView, error) {
	id, err := rolloutArg(name)
	if err != nil {
		return nil, err
	}
	v := new(control.RolloutView)
	return v, a.call(ctx, control.RolloutShow, control.RolloutRequest{ID: id}, v)
}

func (a *app) transitionCommand(verb control.Verb, use, short, long string, consequence func(*control.RolloutView)) *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: use + " ROLLOUT", Short: short, Long: long, Args: arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			v := new(control.RolloutView)
			if err := a.call(cmd.Context(), verb, control.RolloutRequest{ID: id, Why: why}, v); err != nil {
				return err
			}
			return a.emit(v, func() { consequence(v) })
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "what the audit log shall say")
	return cmd
}

func (a *app) resumeCommand() *cobra.Command {
	var why string
	var acknowledge uint64
	cmd := &cobra.Command{
		Use: "resume ROLLOUT", Short: "Go on with a paused or frozen rollout",
		Long: `Go on with a paused or frozen rollout. A frozen one was aborted: whoever
resumes it acknowledges that abort by its sequence, which 'rollout resume'
without --acknowledge shows.`,
		Example: `  tsunamictl rollout resume docker-1-12-3 --acknowledge 4711 --why "ticket 812 is fixed"`,
		Args:    arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := a.show(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if before.State == rollout.StateFrozen && acknowledge == 0 && before.Abort != nil {
				b := before.Abort
				a.dateAbort(cmd.Context(), before.ID, b)
				return &exitError{exitRefused, fmt.Errorf("refused: %s is frozen by abort %d%s: %s\n  resume it with: tsunamictl rollout resume %s --acknowledge %d --why %s",
					before.ID, b.Sequence, byAt(b, time.Now()), b.Why, before.ID, b.Sequence, orDots(why))}
			}
			v := new(control.RolloutView)
			if err := a.call(cmd.Context(), control.RolloutResume, control.RolloutRequest{ID: before.ID, Why: why, Acknowledge: acknowledge}, v); err != nil {
				return err
			}
			return a.emit(v, func() {
				a.say("%s is %s again, from %d of %d hosts: its clock goes on from where it stood, nothing is made up for at once", v.ID, v.State, v.Told, v.Target)
				if acknowledge != 0 {
					a.say("abort %d is acknowledged by %s; a newer one freezes it again", acknowledge, a.actor)
				}
				if v.Reason != "" {
					a.say("it isn't moving yet: %s", printable(v.Reason))
				}
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "what the audit log shall say")
	cmd.Flags().Uint64Var(&acknowledge, "acknowledge", 0, "the `sequence` of the abort that you have read")
	return cmd
}

// dateAbort adds what the scheduler doesn't keep of an abort: when it was
// written. Without it the abort is shown as well.
func (a *app) dateAbort(ctx context.Context, id rollout.ID, b *control.AbortView) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	if last, err := a.client.LastAbort(ctx, id); err == nil && last != nil && last.Sequence == b.Sequence {
		*b = last.AbortView
	}
}

// byAt says who wrote an abort or a stop, and when, as far as is known.
func byAt(b *control.AbortView, now time.Time) string {
	s := " by hand"
	if b.Actor != "" {
		s = " by " + b.Actor
	}
	if !b.Time.IsZero() {
		s += ", " + relative(b.Time, now)
	}
	return s
}

func orDots(why string) string {
	if why == "" {
		return "…"
	}
	return quoted(why)
}

func (a *app) rolloutTable(views []control.RolloutView, now time.Time) {
	columns := []string{"ID", "VARIABLE", "TO", "STATE", "TOLD", "OF", "DONE", "CONFIRMED", "FAILED", "ENDS"}
	if a.wide() {
		columns = append(columns, "IN FLIGHT", "LIMIT", "PLANNED", "BY", "CREATED")
	}
	t := newTable(append(columns, "REASON")...).numbers("TOLD", "OF", "DONE", "CONFIRMED", "FAILED", "IN FLIGHT", "LIMIT", "PLANNED")
	for i := range views {
		v := &views[i]
		ends := relative(v.Ends, now)
		if a.wide() {
			ends = local(v.Ends)
		}
		row := []any{v.ID, v.Variable, valueText(v.To), v.State, v.Told, v.Target, percent(v.Fraction), v.Confirmed, v.Failed, ends}
		if a.wide() {
			row = append(row, v.InFlight, v.Limit, v.Planned, v.By, local(v.Created))
		}
		t.row(append(row, v.Reason)...)
	}
	t.paint = func(column int, text string) string {
		if column == 3 {
			return a.color(stateColor(rollout.State(text)), text)
		}
		return text
	}
	t.print(a.out)
}

func (a *app) rolloutFields(v *control.RolloutView, now time.Time) {
	var f fields
	f.add("rollout", v.ID)
	f.add("variable", fmt.Sprintf("%s → %s", v.Variable, v.To))
	f.add("state", v.State)
	f.add("reason", v.Reason)
	f.add("told", fmt.Sprintf("%d of %d (%s); the straight line is at %d", v.Told, v.Target, percent(v.Fraction), v.Planned))
	f.add("confirmed", v.Confirmed)
	if v.Failed > 0 {
		f.add("failed", v.Failed)
	}
	f.add("in flight", fmt.Sprintf("%d, at most %d", v.InFlight, v.Limit))
	f.add("clock", fmt.Sprintf("%s of %s", short(time.Duration(v.Elapsed)), v.Over))
	f.add("next host", moment(v.Next, now))
	f.add("ends", moment(v.Ends, now))
	f.add("started by", fmt.Sprintf("%s, %s", v.Author, moment(v.Created, now)))
	f.add("changed by", fmt.Sprintf("%s, %s%s", v.By, moment(v.Changed, now), because(v.Why)))
	if v.Abort != nil {
		f.add("abort", fmt.Sprintf("%d%s: %s", v.Abort.Sequence, byAt(v.Abort, now), v.Abort.Why))
	}
	if v.Layer {
		f.add("layer", "it has completed, and still covers hosts that join")
	}
	if v.NotEnacted > 0 {
		f.add("told, not enacted", plural(v.NotEnacted, "host")+" may yet enact what they were told")
	}
	if s := v.Spec; s != nil {
		f.add("where", s.Where)
		f.add("after", s.After)
	}
	f.print(a.out)
	if v.State == rollout.StateFrozen && v.Abort != nil {
		fmt.Fprintf(a.out, "\nit stays frozen until: tsunamictl rollout resume %s --acknowledge %d --why …\n", v.ID, v.Abort.Sequence)
	}
	if v.State != rollout.StateRunning && v.State != rollout.StatePending {
		for i := range v.Roles {
			v.Roles[i].Next = time.Time{} // nobody comes next while it is held
		}
	}
	a.roleTable(v.Roles, now)
	if len(v.Waiting) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	t := newTable("IN FLIGHT", "ROLE", "TOLD", "STATUS", "ERROR")
	for _, w := range v.Waiting {
		status := string(w.Status)
		if !w.Online {
			status += " (offline)"
		}
		t.row(w.Host, w.Role, relative(w.Since, now), status, w.Error)
	}
	t.print(a.out)
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func (a *app) roleTable(roles []control.RoleView, now time.Time) {
	if len(roles) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	t := newTable("ROLE", "HOSTS", "TARGET", "TOLD", "CONFIRMED", "FAILED", "IN FLIGHT", "NEXT").
		numbers("HOSTS", "TARGET", "TOLD", "CONFIRMED", "FAILED", "IN FLIGHT")
	for _, r := range roles {
		t.row(r.Role, r.Hosts, r.Target, r.Told, r.Confirmed, r.Failed, r.InFlight, relative(r.Next, now))
	}
	t.print(a.out)
}

func (a *app) planCommand() *cobra.Command {
	var files []string
	var all bool
	cmd := &cobra.Command{
		Use: "plan (ROLLOUT | -f FILE)", Short: "List which host will be told when",
		Long: `List which host will be told when, if nothing holds the rollout: of one that
has been started, or of a document that hasn't. The order and the times are
those that the rollout will follow.`,
		Example: "  tsunamictl rollout plan -f docker.yaml",
		Args:    arguments("[ROLLOUT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (len(files) > 0) {
				return usagef("wants either the name of a ROLLOUT or -f FILE")
			}
			if len(args) == 1 {
				id, err := rolloutArg(args[0])
				if err != nil {
					return err
				}
				return a.plan(cmd.Context(), control.PlanRequest{ID: id}, all)
			}
			docs, err := a.read(files)
			if err != nil {
				return err
			}
			var found []control.Located
			for _, d := range docs {
				if d.Rollout != nil {
					found = append(found, d)
				}
			}
			if len(found) != 1 {
				return usagef("%s in these files: want exactly one to plan", plural(len(found), "rollout"))
			}
			return locate(found, a.plan(cmd.Context(), control.PlanRequest{Rollout: found[0].Rollout}, all))
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "`FILE` with the rollout's document, or -")
	cmd.Flags().BoolVar(&all, "all", false, "list every host (json and yaml always do)")
	return cmd
}

// The ends of a plan that a table shows.
const planFirst, planLast = 20, 5

func (a *app) plan(ctx context.Context, req control.PlanRequest, all bool) error {
	if table := a.output == "table" || a.output == "wide"; table && !all {
		req.First, req.Last = planFirst, planLast
	}
	var p control.PlanView
	if err := a.call(ctx, control.RolloutPlan, req, &p); err != nil {
		return err
	}
	return a.emit(p, func() { a.planTable(&p, req.First, time.Now()) })
}

func (a *app) planTable(p *control.PlanView, first int, now time.Time) {
	var f fields
	f.add("rollout", p.ID)
	f.add("starts", moment(p.Starts, now))
	f.add("ends", moment(p.Ends, now))
	f.add("target", fmt.Sprintf("%s, %d still to be told", plural(p.Target, "host"), len(p.Hosts)+p.Omitted))
	if p.Refused != "" {
		f.add("but", "it can't be started now: "+printable(p.Refused))
	}
	f.print(a.out)
	a.roleTable(p.Roles, now)
	if len(p.Hosts) == 0 {
		fmt.Fprintln(a.out, "it selects no host now; hosts that join and match will be told")
		return
	}
	fmt.Fprintln(a.out)
	t := newTable("HOST", "ROLE", "POSITION", "DUE", "").numbers("POSITION")
	for i, h := range p.Hosts {
		if p.Omitted > 0 && i == first {
			t.row(fmt.Sprintf("… %d more", p.Omitted))
		}
		t.row(h.Host, h.Role, h.Position, local(h.Due), relative(h.Due, now))
	}
	t.print(a.out)
	switch {
	case p.Omitted > 0 && first > 0:
		fmt.Fprintf(a.out, "%d hosts in between aren't listed: --all lists every host\n", p.Omitted)
	case p.Omitted > 0:
		fmt.Fprintf(a.out, "%d more hosts aren't listed: an answer holds no more\n", p.Omitted)
	}
}
