package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// The commands that steer a rollout which has been started. Each says what
// follows from it, and what to type next.

const whyHelp = "what the audit log shall say"

func rolloutArg(s string) (rollout.ID, error) {
	id, err := rollout.ParseID("rollout", s)
	if err != nil {
		return "", &usageError{err}
	}
	return id, nil
}

// transition asks for one change of a rollout, and tells its consequence.
func (a *app) transition(ctx context.Context, verb control.Verb, req any, consequence func(*control.RolloutView)) error {
	v := new(control.RolloutView)
	if err := a.call(ctx, verb, req, v); err != nil {
		return byFlag(err)
	}
	return a.emit(v, func() { consequence(v) })
}

func (a *app) pauseCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "pause ROLLOUT", Short: "Hold a running rollout", SuggestFor: []string{"hold", "stop"},
		Long: `Hold a running rollout. Its clock stops; when it is resumed it goes on from
where it was, without a burst.`,
		Example: `  tsunamictl rollout pause docker-1-12-3 --why "the big sale"`,
		Args:    arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			return a.transition(cmd.Context(), control.RolloutPause, control.RolloutRequest{ID: id, Why: why}, func(v *control.RolloutView) {
				a.say("%s is paused at %s: nobody more is told until 'tsunamictl rollout resume %s'", v.ID, toldOf(v), v.ID)
				if v.InFlight > 0 {
					a.say("%s told before may still enact", plural(v.InFlight, "host"))
				}
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
	return cmd
}

func (a *app) cancelCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "cancel ROLLOUT", Short: "End a rollout for good", SuggestFor: []string{"delete", "end"},
		Long: `End a rollout for good. Hosts keep what they were told; nobody more is told.
A cancelled rollout can't be resumed: start a new one. To take its hosts back,
see 'tsunamictl rollout rollback'.`,
		Example: `  tsunamictl rollout cancel docker-1-12-3 --why "1.12.4 is out"`,
		Args:    arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			return a.transition(cmd.Context(), control.RolloutCancel, control.RolloutRequest{ID: id, Why: why}, func(v *control.RolloutView) {
				a.cancelled(cmd.Context(), v)
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
	return cmd
}

// cancelled says what a cancelled rollout leaves behind.
func (a *app) cancelled(ctx context.Context, v *control.RolloutView) {
	left := "those keep what they were told (" + moves(v) + "), nobody more is told"
	next := fmt.Sprintf("a new rollout of %s can be started now", v.Variable)
	switch {
	case v.Rollback != "" && a.state(ctx, v.Rollback).Live():
		left, next = string(v.Rollback)+" goes on taking its hosts back", "no other can be started until that has ended"
	case v.Rollback != "":
		left = string(v.Rollback) + " has taken its hosts back"
	case v.Told == 0:
		left = "nobody was told"
	}
	if v.RollbackOf != "" && a.state(ctx, v.RollbackOf).Live() {
		next = fmt.Sprintf("%s can be resumed now: tsunamictl rollout resume %s", v.RollbackOf, v.RollbackOf)
	}
	a.say("%s is cancelled at %s: %s", v.ID, toldOf(v), left)
	a.say("it can't be resumed; %s", next)
}

// state is that of a rollout beside the one in hand; "" where it can't be had at
// once, which is no reason to fail.
func (a *app) state(ctx context.Context, id rollout.ID) rollout.State {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var v control.RolloutView
	if err := a.client.Call(ctx, control.RolloutShow, control.RolloutRequest{ID: id}, &v); err != nil {
		return ""
	}
	return v.State
}

func (a *app) resumeCommand() *cobra.Command {
	var why string
	var acknowledge uint64
	cmd := &cobra.Command{
		Use: "resume ROLLOUT", Short: "Go on with a paused or frozen rollout", SuggestFor: []string{"continue", "unfreeze", "unpause"},
		Long: `Go on with a paused or frozen rollout. A frozen one was aborted: whoever
resumes it acknowledges that abort by its sequence, which 'rollout resume'
without --acknowledge shows, and says --why it may go on. So it is with a
completed one that was aborted and no longer covers hosts that join.`,
		Example: `  tsunamictl rollout resume docker-1-12-3
  tsunamictl rollout resume docker-1-12-3 --acknowledge 4711 --why "ticket 812 is fixed"`,
		Args: arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if acknowledge != 0 && why == "" {
				return usagef("--why is missing: whoever acknowledges an abort says why the rollout may go on")
			}
			before, err := a.show(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if (before.State == rollout.StateFrozen || before.ReasonCode == rollout.Aborted) && acknowledge == 0 && before.Abort != nil {
				b := before.Abort
				a.dateAbort(cmd.Context(), before.ID, b)
				what := "is frozen"
				if before.State == rollout.StateCompleted {
					what = "has completed, and its layer is stopped"
				}
				return &exitError{exitRefused, fmt.Errorf("refused: %s %s by abort %d%s: %s\n  resume it with: tsunamictl rollout resume %s --acknowledge %d --why %s",
					before.ID, what, b.Sequence, byAt(b, time.Now()), b.Why, before.ID, b.Sequence, orDots(why))}
			}
			return a.transition(cmd.Context(), control.RolloutResume, control.RolloutRequest{ID: before.ID, Why: why, Acknowledge: acknowledge}, func(v *control.RolloutView) {
				if v.State == rollout.StateCompleted {
					a.say("abort %d is acknowledged by %s: %s covers hosts that join again; a newer abort ends that", acknowledge, a.actor, v.ID)
					return
				}
				a.say("%s is %s again, from %s: its clock goes on from where it stood, nothing is made up for at once", v.ID, v.State, toldOf(v))
				if acknowledge != 0 {
					a.say("abort %d is acknowledged by %s; a newer one freezes it again", acknowledge, a.actor)
					if before.Guard != nil {
						a.say("its evidence begins anew: hosts that have failed so far speak against it no more")
					}
				}
				a.still(v)
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
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

func (a *app) approveCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "approve ROLLOUT", Short: "Let a rollout, or its next wave, start", SuggestFor: []string{"allow", "accept"},
		Long: `Let a rollout start that needs approvals, or its next wave that does. One
approval is one operator's word; where a rollout asks for a number of them,
these are of different operators, none of them its author.`,
		Example: `  tsunamictl rollout approve docker-1-12-3 --why "the canaries look good"`,
		Args:    arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			return a.transition(cmd.Context(), control.RolloutApprove, control.RolloutRequest{ID: id, Why: why}, func(v *control.RolloutView) {
				what := "the start"
				if n := len(v.Approvals); n > 0 && v.Approvals[n-1].Wave > 0 {
					what = fmt.Sprintf("wave %d", v.Approvals[n-1].Wave)
				}
				a.say("%s approves %s of %s", a.actor, what, v.ID)
				switch {
				case v.ReasonCode == rollout.AwaitingApproval || v.Reason != "":
					a.still(v)
				case v.ApprovalsNeeded > 0:
					a.say("  it goes on; %s needed later on", areMore(v.ApprovalsNeeded))
				default:
					a.say("  nothing more is needed: %s is %s at %s", v.ID, v.State, toldOf(v))
				}
				a.say("  watch it: tsunamictl rollout watch %s", v.ID)
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
	return cmd
}

func areMore(n int) string {
	if n == 1 {
		return "1 more approval is"
	}
	return fmt.Sprintf("%d more approvals are", n)
}

func haveYet(canaries int) string {
	if canaries == 1 {
		return "1 canary has"
	}
	return fmt.Sprintf("%d canaries have", canaries)
}

func (a *app) advanceCommand() *cobra.Command {
	var why string
	var to percentFlag
	cmd := &cobra.Command{
		Use: "advance ROLLOUT", Short: "Let a rollout go on faster than its ramp", SuggestFor: []string{"next", "skip", "promote"},
		Long: `Let a rollout go on faster than its ramp: past the rest of its canary's bake, or
on to its next wave. With --to its clock jumps to where the ramp is at that
share of the target; never backwards. In-flight limits, windows, blackouts and
approvals hold as before.`,
		Example: `  tsunamictl rollout advance docker-1-12-3 --why "the canaries have seen a whole day"
  tsunamictl rollout advance docker-1-12-3 --to 40%`,
		Args: arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			req := control.AdvanceRequest{ID: id, To: rollout.Percent(to), Why: why}
			return a.transition(cmd.Context(), control.RolloutAdvance, req, func(v *control.RolloutView) {
				if v.ReasonCode == rollout.CanaryBake && v.InFlight > 0 {
					a.say("%s is advanced: its bake is dropped; %s yet to confirm", v.ID, haveYet(v.InFlight))
					a.say("  watch it: tsunamictl rollout watch %s", v.ID)
					return
				}
				where := "past what it waited for"
				if to != 0 {
					where = fmt.Sprintf("to %s of its ramp, %s", to.String(), plural(int(float64(to)*float64(v.Target)/100+0.5), "host"))
				}
				a.say("%s is advanced %s: %d of %d are told now, the others as fast as its in-flight limit (%d) and its calendar allow", v.ID, where, v.Told, v.Target, v.Limit)
				if !v.Ends.IsZero() {
					a.say("  it ends %s if nothing holds it", moment(v.Ends, time.Now()))
				}
				if v.ReasonCode != rollout.CanaryBake { // which has just been ended
					a.still(v)
				}
				a.say("  watch it: tsunamictl rollout watch %s", v.ID)
				a.say("  stop it at once: tsunamictl rollout abort %s --why …", v.ID)
			})
		},
	}
	cmd.Flags().Var(&to, "to", "go on to where the ramp is at this share of the target, such as 40%")
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
	return cmd
}

func (a *app) releaseCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "release ROLLOUT HOST --why WHY", Short: "Stop waiting for a host that doesn't confirm", SuggestFor: []string{"free", "forget"},
		Long: `Stop waiting for a host that doesn't confirm: it counts as settled, frees its
place in flight, and doesn't keep the rollout from completing. The host keeps
what it was told, and may still enact it.`,
		Example: `  tsunamictl rollout release docker-1-12-3 web1.lon2.example.net --why "its disk is dead, ticket 812"`,
		Args:    arguments("ROLLOUT HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			host, err := hostArg(args[1])
			if err != nil {
				return err
			}
			if why == "" {
				return usagef("--why is missing: why the rollout needn't wait for this host")
			}
			return a.transition(cmd.Context(), control.RolloutRelease, control.HostReleaseRequest{ID: id, Host: host, Why: why}, func(v *control.RolloutView) {
				a.say("%s doesn't wait for %s any more: %d in flight now, at most %d", v.ID, host, v.InFlight, v.Limit)
				a.say("  the host keeps what it was told; how it stands: tsunamictl host show %s", host)
				if v.InFlight > 0 || !waits(v) { // else the reason is of before this
					a.still(v)
				}
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
	return cmd
}

// waits says that a rollout waits for hosts in flight.
func waits(v *control.RolloutView) bool {
	return v.ReasonCode == rollout.InFlightLimit || v.ReasonCode == rollout.RoleInFlightLimit || v.ReasonCode == rollout.Unconfirmed
}

func (a *app) rollbackCommand() *cobra.Command {
	var why, to string
	var over durationFlag
	cmd := &cobra.Command{
		Use: "rollback ROLLOUT --why WHY", Short: "Take a rollout's hosts back", SuggestFor: []string{"undo", "revert"},
		Long: `Take a rollout's hosts back, the last told first: each to what it had before, or
to --to. This is a rollout of its own, ROLLOUT-rollback, with its own in-flight
limit and its own abort; windows, blackouts and missing evidence don't hold it,
and offline hosts are told at once. A rollout that is under way is paused by it
and can't be resumed while its rollback exists.`,
		Example: `  tsunamictl rollout rollback docker-1-12-3 --why "users see errors"
  tsunamictl rollout rollback docker-1-12-3 --to 1.10.3 --over 10m --why "users see errors"`,
		Args: arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			if why == "" {
				return usagef("--why is missing: why its hosts are taken back")
			}
			req := control.RollbackRequest{ID: id, ToText: to, Over: rollout.Duration(over), Why: why}
			return a.transition(cmd.Context(), control.RolloutRollback, req, func(v *control.RolloutView) {
				before := "to what each had before"
				if !v.To.IsZero() {
					before = fmt.Sprintf("to %s %s", v.Variable, printable(v.To.Text()))
				}
				a.say("%s is %s: it takes %s of %s back %s, the last told first, over %s",
					v.ID, v.State, plural(v.Target, "host"), id, before, short(time.Duration(v.Over)))
				a.say("  %s tells nobody any more, unless %s is cancelled", id, v.ID)
				a.still(v)
				a.say("  watch it: tsunamictl rollout watch %s", v.ID)
				a.say("  stop it at once: tsunamictl rollout abort %s --why …", v.ID)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "take them to this `value` instead of what each had before")
	cmd.Flags().Var(&over, "over", "how long it takes (default: a tenth of the time that the ramp has run)")
	cmd.Flags().StringVar(&why, "why", "", whyHelp)
	return cmd
}
