package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func (a *app) rolloutCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "rollout", Short: "Rollouts: start, watch, steer and stop them"})
	cmd.AddCommand(
		a.rolloutStartCommand(), a.supersedeCommand(), a.planCommand(), a.watchCommand(),
		a.pauseCommand(), a.resumeCommand(), a.approveCommand(), a.advanceCommand(), a.releaseCommand(),
		a.abortCommand(), a.rollbackCommand(), a.cancelCommand(),
		&cobra.Command{
			Use: "list", Short: "List rollouts, the oldest first",
			Example: "  tsunamictl rollout list -o wide",
			Args:    arguments(""),
			RunE: func(cmd *cobra.Command, _ []string) error {
				views := []control.RolloutView{}
				if err := a.call(cmd.Context(), control.RolloutList, nil, &views); err != nil {
					return err
				}
				return a.emit(views, func() { a.rolloutTable(views, time.Now()) })
			},
		},
		&cobra.Command{
			Use: "show ROLLOUT", Short: "Show how a rollout stands, and why it isn't further", SuggestFor: []string{"status", "get", "describe"},
			Long: `Show how a rollout stands: how many hosts are told, what holds it, when it ends
against when it was planned to end, with the reason for each gap, and the hosts
in flight.

Of one with objectives it shows the evidence of the guard: how many of the hosts
changed and not yet changed have failed, how much that weighs against what freezes
it, and how many more failures would. Of one that the guard froze, which hosts
failed how, and what else it could have been.`,
			Example: "  tsunamictl rollout show docker-1-12-3",
			Args:    arguments("ROLLOUT"),
			RunE: func(cmd *cobra.Command, args []string) error {
				v, err := a.show(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.emit(v, func() { a.rolloutFields(v, time.Now()) })
			},
		},
	)
	return cmd
}

func (a *app) show(ctx context.Context, name string) (*control.RolloutView, error) {
	id, err := rolloutArg(name)
	if err != nil {
		return nil, err
	}
	v := new(control.RolloutView)
	return v, a.call(ctx, control.RolloutShow, control.RolloutRequest{ID: id}, v)
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
		row := []any{v.ID, v.Variable, destination(v), v.State, v.Told, v.Target, percent(v.Fraction), v.Confirmed, v.Failed, ends}
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
	f.add("variable", moves(v))
	f.add("state", v.State)
	f.add("reason", v.Reason)
	f.add("told", fmt.Sprintf("%d of %d (%s); its ramp is at %d", v.Told, v.Target, percent(v.Fraction), v.Planned))
	f.add("confirmed", v.Confirmed)
	if v.Failed > 0 {
		f.add("failed", v.Failed)
	}
	f.add("in flight", fmt.Sprintf("%d, at most %d", v.InFlight, v.Limit))
	f.add("clock", clockText(v))
	f.add("next host", moment(v.Next, now))
	f.add("ends", moment(v.Ends, now))
	f.add("planned", plannedText(v))
	if v.Late > 0 {
		f.add("late", lateText(v))
	} else {
		f.add("stood still", heldText(v.Held))
	}
	f.add("approvals", approvalText(v, now))
	f.add("rollback of", v.RollbackOf)
	f.add("rolled back by", v.Rollback)
	if v.Pinned > 0 {
		f.add("pinned", plural(v.Pinned, "host")+" that it selects held at another value by a pin")
	}
	f.add("started by", fmt.Sprintf("%s, %s", v.Author, moment(v.Created, now)))
	changed := "changed by"
	if v.State == rollout.StateRunning && v.Why == "" {
		changed = "resumed by" // whatever else makes it run has a reason
	}
	f.add(changed, fmt.Sprintf("%s, %s%s", v.By, moment(v.Changed, now), because(v.Why)))
	if v.Abort != nil {
		f.add("abort", fmt.Sprintf("%d%s: %s", v.Abort.Sequence, byAt(v.Abort, now), v.Abort.Why))
	}
	if v.Layer {
		layer := "it has completed, and still covers hosts that join"
		if v.ReasonCode == rollout.Aborted {
			layer = "it has completed, and doesn't cover hosts that join: it is aborted"
		}
		f.add("layer", layer)
	}
	if v.NotEnacted > 0 {
		f.add("told, not enacted", plural(v.NotEnacted, "host")+" may yet enact what they were told")
	}
	if s := v.Spec; s != nil {
		specFields(&f, s)
	}
	if v.Guard != nil {
		f.add("evidence", clearText(v.Guard, now))
	}
	f.print(a.out)
	a.guardTables(v, now)
	if v.State == rollout.StateFrozen && v.Abort != nil {
		fmt.Fprintf(a.out, "\nit stays frozen until: tsunamictl rollout resume %s --acknowledge %d --why …\n", v.ID, v.Abort.Sequence)
		if v.Told > 0 && v.Rollback == "" && v.RollbackOf == "" {
			fmt.Fprintf(a.out, "take its hosts back: tsunamictl rollout rollback %s --why …\n", v.ID)
		}
	}
	if v.ReasonCode == rollout.Aborted && v.Abort != nil {
		fmt.Fprintf(a.out, "\nno host is told any more as its layer until: tsunamictl rollout resume %s --acknowledge %d --why …\n", v.ID, v.Abort.Sequence)
	}
	if v.ReasonCode == rollout.AwaitingApproval {
		fmt.Fprintf(a.out, "\nit waits until: tsunamictl rollout approve %s\n", v.ID)
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

// specFields shows what a rollout was asked to do, as far as it isn't shown
// already.
func specFields(f *fields, s *rollout.Spec) {
	f.add("ramp", rampText(s.Ramp))
	f.add("where", s.Where)
	f.add("exclude", joined(s.Exclude))
	if c := s.Canary; c != nil {
		f.add("canary", canaryText(c))
	}
	f.add("windows", rulesText(s.Windows))
	f.add("guard", guardText(s.Guard))
	f.add("after", s.After)
	f.add("supersedes", s.Supersedes)
}

func canaryText(c *rollout.Canary) string {
	s := "all hosts"
	switch {
	case c.Hosts > 0:
		s = plural(c.Hosts, "host")
	case c.PerRole > 0:
		s = fmt.Sprintf("%s of each role", plural(c.PerRole, "host"))
	}
	if c.Where != "" {
		s += " where " + c.Where
	}
	if c.Bake > 0 {
		s += ", bakes for " + c.Bake.String()
	}
	return s
}

// clockText says how far the ramp's clock is. It begins after the canary.
func clockText(v *control.RolloutView) string {
	s := fmt.Sprintf("%s of %s", short(time.Duration(v.Elapsed)), v.Over)
	if v.Spec != nil && v.Spec.Canary != nil && v.Started.IsZero() {
		s += ", begins after its canary"
	}
	return s
}

// plannedText says what was foreseen when the ramp's clock started.
func plannedText(v *control.RolloutView) string {
	if v.PlannedEnd.IsZero() {
		return ""
	}
	return fmt.Sprintf("from %s to %s", local(v.Started), local(v.PlannedEnd))
}

// heldText says for how long a rollout stood still for which reason.
func heldText(held []control.HeldView) string {
	all := make([]string, len(held))
	for i, h := range held {
		all[i] = fmt.Sprintf("%s %s", h.Reason, spaced(time.Duration(h.For)))
	}
	return strings.Join(all, ", ")
}

// lateText says by how much a rollout ends later than planned, and why.
func lateText(v *control.RolloutView) string {
	word := "ends"
	switch v.State {
	case rollout.StateCompleted, rollout.StateCancelled, rollout.StateSuperseded:
		word = "ended"
	}
	s := fmt.Sprintf("%s %s later than planned", word, spaced(time.Duration(v.Late)))
	return s + because(heldText(v.Held))
}

// approvalText says who has approved what, and how many more are needed.
func approvalText(v *control.RolloutView, now time.Time) string {
	var all []string
	for _, p := range v.Approvals {
		s := string(p.By)
		if p.Wave > 0 {
			s += fmt.Sprintf(" for wave %d", p.Wave)
		}
		all = append(all, fmt.Sprintf("%s, %s%s", s, relative(p.Time, now), because(p.Why)))
	}
	s := strings.Join(all, "; ")
	if v.ApprovalsNeeded > 0 {
		if s != "" {
			s += "; "
		}
		s += areMore(v.ApprovalsNeeded) + " needed"
	}
	return s
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
