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

func (a *app) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "why HOST VARIABLE", Short: "Why a host has a value, and why not yet another",
		Long: `Say what a host was told of a variable, when, by whom and why; and, where a
rollout has yet to reach it, when that is due and what stands in the way.`,
		Example: "  tsunamictl why web1.lon2.example.net docker_version",
		Args:    arguments("HOST VARIABLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := hostArg(args[0])
			if err != nil {
				return err
			}
			variable, err := rollout.ParseName(args[1])
			if err != nil {
				return &usageError{err}
			}
			v, last, err := a.why(cmd.Context(), host, variable)
			if err != nil {
				return err
			}
			return a.emit(v, func() {
				for _, s := range explain(v, last, time.Now()) {
					a.say("%s", printable(s))
				}
			})
		},
	}
}

// why asks the scheduler, and takes from the audit log what it says about the
// last change.
func (a *app) why(ctx context.Context, host rollout.Host, variable rollout.Name) (*control.WhyView, *control.AuditRecord, error) {
	v := new(control.WhyView)
	if err := a.call(ctx, control.Why, control.WhyRequest{Host: host, Variable: variable}, v); err != nil {
		return nil, nil, err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	last, err := a.client.LastChange(ctx, host, variable)
	if err != nil {
		return nil, nil, err
	}
	if last != nil && last.Value == v.Value && (v.Rollout == "" || last.Rollout == v.Rollout) {
		v.Reason, v.Actor = last.Reason, rollout.ID(last.Actor)
		if v.Told.IsZero() {
			v.Told = last.Time
		}
	}
	return v, last, nil
}

// explain says it in sentences that can be read aloud.
func explain(v *control.WhyView, last *control.AuditRecord, now time.Time) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch {
	case v.Value.IsZero() && v.Actual.IsZero():
		say("%s was never told a value of %s, and reports none.", v.Host, v.Variable)
	case v.Value.IsZero():
		say("%s was never told a value of %s. It runs %s.", v.Host, v.Variable, v.Actual)
	default:
		s := fmt.Sprintf("%s was told %s %s", v.Host, v.Variable, v.Value)
		if last != nil && last.Value == v.Value && !last.Previous.IsZero() && last.Previous != v.Value {
			s += " (before: " + last.Previous.String() + ")"
		}
		if !v.Told.IsZero() {
			s += " on " + moment(v.Told, now)
		}
		if v.Rollout != "" {
			s += " by rollout " + string(v.Rollout)
		}
		if v.Actor != "" && v.Actor != rollout.Scheduler {
			s += ", which " + string(v.Actor) + " asked for"
		}
		say("%s.", s)
		if v.Reason != "" {
			say("The reason: %s.", v.Reason)
		}
		switch {
		case v.Confirmed:
			say("It is confirmed: the host runs it, and its checks pass.")
		case v.Actual.IsZero():
			say("It isn't confirmed yet: the host doesn't say what it runs.")
		case v.Value.Matches(v.Actual):
			say("The host runs it, but it isn't confirmed yet: its checks have not passed since, or not for long enough.")
		default:
			say("It isn't confirmed yet: the host runs %s.", v.Actual)
		}
	}
	if v.Next != "" {
		s := fmt.Sprintf("Rollout %s is to move it to %s", v.Next, v.To)
		if v.Due.IsZero() {
			s += "; when, can't be said yet"
		} else {
			s += ", due " + moment(v.Due, now)
		}
		say("%s.", s)
	}
	switch len(v.Blocked) {
	case 0:
	case 1:
		say("What stands in the way: %s.", strings.TrimSuffix(v.Blocked[0], "."))
	default:
		say("What stands in the way:")
		for _, b := range v.Blocked {
			say("  - %s", b)
		}
	}
	return out
}
