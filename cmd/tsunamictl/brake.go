package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// brakeView is what abort and stop answer in json.
type brakeView struct {
	Rollout  rollout.ID `json:"rollout,omitempty"`
	Sequence uint64     `json:"sequence"`
	Why      string     `json:"why"`
	Actor    string     `json:"actor"`
}

// brake writes an abort or a stop, trying for as long as --timeout says.
func (a *app) brake(ctx context.Context, press func(context.Context, *control.Client) (uint64, error)) (uint64, error) {
	c, err := a.connect()
	if err != nil {
		return 0, err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	return press(ctx, c)
}

func (a *app) abortCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "abort ROLLOUT --why WHY", Short: "Freeze a rollout at once", SuggestFor: []string{"freeze", "kill", "halt"},
		Long: `Freeze a rollout at once, with or without a scheduler: from the moment that
this command is done, no host is told the rollout's value. What hosts were told
before stays.`,
		Example: `  tsunamictl rollout abort docker-1-12-3 --why "users see errors"`,
		Args:    arguments("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := rolloutArg(args[0])
			if err != nil {
				return err
			}
			if why == "" {
				return usagef("--why is missing: whoever resumes the rollout has to know it")
			}
			seq, err := a.brake(cmd.Context(), func(ctx context.Context, c *control.Client) (uint64, error) { return c.Abort(ctx, id, why) })
			if err != nil {
				return err
			}
			return a.emit(brakeView{id, seq, why, a.actor}, func() {
				a.say("abort %d is written: no host is told anything more by %s", seq, id)
				switch s := a.state(cmd.Context(), id); {
				case s == rollout.StateCompleted:
					a.say("it has completed: as its layer, no host is told any more until: tsunamictl rollout resume %s --acknowledge %d --why …", id, seq)
				case s != "" && !s.Live():
					a.say("it has ended before (%s), so there is nothing to freeze", s)
				default:
					a.say("hosts that were told before may still enact; 'tsunamictl rollout show %s' lists them", id)
					a.say("it stays frozen until: tsunamictl rollout resume %s --acknowledge %d --why …", id, seq)
				}
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "what the audit log shall say")
	return cmd
}

func (a *app) stopCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use: "stop --why WHY", Short: "The red button: stop everything that tells hosts",
		Long: `The red button. It stops everything that tells hosts, all rollouts, layers and
first documents, at once, with or without a scheduler. Clocks stop, nothing is
made up for in a burst later. 'tsunamictl start' releases it.`,
		Example: `  tsunamictl stop --why "incident 4711"`,
		Args:    arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if why == "" {
				return usagef("--why is missing: whoever releases the stop has to know it")
			}
			seq, err := a.brake(cmd.Context(), func(ctx context.Context, c *control.Client) (uint64, error) { return c.Stop(ctx, why) })
			if err != nil {
				return err
			}
			return a.emit(brakeView{"", seq, why, a.actor}, func() {
				a.say("stop %d is written: no host is told anything more, by any rollout", seq)
				a.say("hosts that were told before may still enact")
				a.say("it stays so until: tsunamictl start --acknowledge %d --why …; rollouts that are frozen stay frozen then", seq)
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "what the audit log shall say")
	return cmd
}

func (a *app) startCommand() *cobra.Command {
	var why string
	var acknowledge uint64
	cmd := &cobra.Command{
		Use: "start --acknowledge SEQUENCE --why WHY", Short: "Release the red button",
		Long: `Release the red button. Whoever does acknowledges the stop by its sequence,
which 'start' without --acknowledge shows. To start a rollout, see
'tsunamictl rollout start'.`,
		Example: `  tsunamictl start --acknowledge 4711 --why "incident is over"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("takes no arguments; to start a rollout: tsunamictl rollout start VARIABLE VALUE --over …")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if acknowledge == 0 {
				return a.showStop(cmd.Context(), why)
			}
			if why == "" {
				return usagef("--why is missing: what the audit log shall say")
			}
			var v control.StopView
			if err := a.call(cmd.Context(), control.Start, control.ReleaseRequest{Why: why, Acknowledge: acknowledge}, &v); err != nil {
				return err
			}
			return a.emit(v, func() {
				a.say("stop %d is released: rollouts go on from where they stood, nothing is made up for at once", acknowledge)
				a.say("frozen rollouts stay frozen until 'tsunamictl rollout resume ROLLOUT --acknowledge SEQUENCE --why …'")
			})
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "what the audit log shall say")
	cmd.Flags().Uint64Var(&acknowledge, "acknowledge", 0, "the `sequence` of the stop that you have read")
	return cmd
}

// showStop shows what a start has to acknowledge.
func (a *app) showStop(ctx context.Context, why string) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	stop, err := c.LastStop(ctx)
	if err != nil {
		return err
	}
	if stop == nil || stop.Released {
		return &exitError{exitRefused, fmt.Errorf("refused: nothing is stopped; to start a rollout: tsunamictl rollout start VARIABLE VALUE --over …")}
	}
	return &exitError{exitRefused, fmt.Errorf("refused: everything is stopped by stop %d%s: %s\n  release it with: tsunamictl start --acknowledge %d --why %s",
		stop.Sequence, byAt(&stop.AbortView, time.Now()), stop.Why, stop.Sequence, orDots(why))}
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "The scheduler at a glance, and what a person has to see to",
		Example: "  tsunamictl status -o json",
		Args:    arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var v statusView
			if err := a.call(cmd.Context(), control.Status, nil, &v.StatusView); err != nil {
				return err
			}
			if name, role := a.client.Identity(); name != "" {
				v.You = &you{name, role}
			}
			return a.emit(v, func() { a.statusFields(&v, time.Now()) })
		},
	}
}

// statusView is what status answers in json.
type statusView struct {
	control.StatusView
	You *you `json:"you,omitempty"` // with credentials
}

// you is who one is, and, where the scheduler has proof of it, as what.
type you struct {
	Name rollout.ID    `json:"name"`
	Role subjects.Role `json:"role,omitempty"`
}

func (a *app) statusFields(v *statusView, now time.Time) {
	var f fields
	if v.You != nil {
		f.add("you", strings.TrimSuffix(fmt.Sprintf("%s, %s", v.You.Name, v.You.Role), ", "))
	}
	if v.Stopped && v.Stop != nil {
		f.add("stopped", a.stopLine(v.Stop, now))
	} else {
		f.add("stopped", "no")
	}
	f.add("leader", fmt.Sprintf("%s, since %s", v.Leader, moment(v.Since, now)))
	f.add("version", v.Version)
	hosts := fmt.Sprintf("%d, %d online", v.Hosts, v.Online)
	if v.Unheard > 0 {
		hosts += fmt.Sprintf(", %d not heard yet by a scheduler that has just begun to listen", v.Unheard)
	}
	f.add("hosts", hosts)
	for _, w := range v.Warnings {
		f.add("warning", w)
	}
	f.print(a.out)
	if v.Stopped && v.Stop != nil {
		fmt.Fprintf(a.out, "\nnobody is told anything until: tsunamictl start --acknowledge %d --why …\n", v.Stop.Sequence)
	}
}

func (a *app) stopLine(s *control.AbortView, now time.Time) string {
	return fmt.Sprintf("by stop %d%s: %s", s.Sequence, byAt(s, now), s.Why)
}
