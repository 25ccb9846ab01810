package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func (a *app) blackoutCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "blackout", Short: "Blackouts: times in which nobody is told anything"})
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List blackouts, and what they hold now",
			Example: "  tsunamictl blackout list",
			Args:    arguments(""),
			RunE: func(cmd *cobra.Command, _ []string) error {
				views, err := a.blackouts(cmd.Context())
				if err != nil {
					return err
				}
				return a.emit(views, func() { a.blackoutTable(views, time.Now()) })
			},
		},
		a.blackoutAddCommand(),
		&cobra.Command{
			Use: "remove NAME", Short: "Remove a blackout", SuggestFor: []string{"delete", "end"},
			Long:    `Remove a blackout. What it holds goes on from where it stood, without a burst.`,
			Example: "  tsunamictl blackout remove christmas",
			Args:    arguments("NAME"),
			ValidArgsFunction: a.complete(func(a *app, ctx context.Context, p place) ([]cobra.Completion, error) {
				if len(p.words) > 0 {
					return nil, nil
				}
				views, err := a.blackouts(ctx)
				all := make([]cobra.Completion, len(views))
				for i, v := range views {
					all[i] = described(string(v.Name), "%s", cmp.Or(v.Why, blackoutTimes(&v.Blackout)))
				}
				return all, err
			}),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.delete(cmd.Context(), control.KindBlackout, args[0])
			},
		},
	)
	return cmd
}

func (a *app) blackouts(ctx context.Context) ([]control.BlackoutView, error) {
	views := []control.BlackoutView{}
	err := a.call(ctx, control.BlackoutList, nil, &views)
	return views, err
}

func (a *app) blackoutAddCommand() *cobra.Command {
	var from, until, where, why string
	var every []string
	cmd := &cobra.Command{
		Use: "add NAME (--from TIME --until TIME | --every TIMES)", Short: "Add a blackout", SuggestFor: []string{"create", "new"},
		Long: `Add a blackout: while it is in force no rollout and no layer tells anybody, or,
with --where, none of the hosts that match. Their clocks stop, and go on later
without a burst. Rollbacks, pins and first documents aren't held.

It is in force once, from --from until --until, or again and again, --every so
often. TIMES are words in any order: days (sat,sun or mon-thu), months (dec), days
of the month (24-26, or -1 for the last), hours (22:00-06:00) and a time zone
(Europe/Stockholm; UTC if there is none). Several --every add up, and --from and
--until bound them. To change a blackout, or to say more, apply a document.`,
		Example: `  tsunamictl blackout add christmas --from 2026-12-20T00:00:00+01:00 --until 2027-01-04T00:00:00+01:00 --why "change freeze"
  tsunamictl blackout add weekends --every 'sat,sun Europe/Stockholm'
  tsunamictl blackout add holidays --every 'dec 24-26' --every 'jan 1' --where 'role != "lab"'
  tsunamictl blackout add quarter-end --every 'mar,jun,sep,dec -5:-1' --why "the books are closed"`,
		Args:              arguments("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions, // it is a new one
		RunE: func(cmd *cobra.Command, args []string) error {
			b := rollout.Blackout{Name: rollout.ID(args[0]), Where: where, Why: why}
			var err error
			for _, f := range []struct {
				flag, text string
				at         *time.Time
			}{{"--from", from, &b.From}, {"--until", until, &b.Until}} {
				if f.text == "" {
					continue
				}
				if *f.at, err = parseTime(f.text, time.Now(), 1); err != nil {
					return usagef("%s: %v", f.flag, err)
				}
			}
			for _, e := range every {
				rule, err := parseRule(e)
				if err != nil {
					return usagef("--every %s: %v", quoted(e), err)
				}
				b.Every = append(b.Every, rule)
			}
			return a.addBlackout(cmd.Context(), &b)
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "when it begins: a `time` such as 2026-12-20T00:00:00+01:00, 2026-12-20, or in how long, such as 2h")
	f.StringVar(&until, "until", "", "when it ends: a `time` in the same forms")
	f.StringArrayVar(&every, "every", nil, "`times` at which it recurs, 'dec 24-26' or 'sat,sun'; may be given several times")
	f.StringVar(&where, "where", "", "which hosts: an `expression` over role, labels and host (default: every host)")
	f.StringVar(&why, "why", "", "shown with all that waits for it")
	return cmd
}

func (a *app) addBlackout(ctx context.Context, b *rollout.Blackout) error {
	if _, err := rollout.ParseID("blackout", string(b.Name)); err != nil {
		return &usageError{err}
	}
	if err := b.Validate(); err != nil {
		return byFlag(control.AsError(err))
	}
	before, err := a.blackouts(ctx)
	if err != nil {
		return err
	}
	named := func(v control.BlackoutView) bool { return v.Name == b.Name }
	if slices.ContainsFunc(before, named) {
		return &exitError{exitRefused, fmt.Errorf("refused: there is a blackout %s already: change it with 'tsunamictl apply', or remove it first", b.Name)}
	}
	req := control.ApplyRequest{Documents: []control.Document{{Blackout: b}}}
	if err := a.call(ctx, control.Apply, req, nil); err != nil {
		return byFlag(err)
	}
	after, err := a.blackouts(ctx)
	if err != nil {
		return err
	}
	view := control.BlackoutView{Blackout: *b}
	if i := slices.IndexFunc(after, named); i >= 0 {
		view = after[i]
	}
	return a.emit(view, func() {
		whom := "nobody is told anything"
		if view.Where != "" {
			whom = "no host that matches is told anything"
		}
		switch {
		case view.InForce && view.Next.IsZero():
			a.say("%s is in force: %s until it is removed", view.Name, whom)
		case view.InForce:
			a.say("%s is in force: %s until %s", view.Name, whom, moment(view.Next, time.Now()))
		case view.Next.IsZero():
			a.say("%s is added, and will never be in force: it has passed", view.Name)
		default:
			a.say("%s begins %s; while it is in force %s", view.Name, moment(view.Next, time.Now()), whom)
		}
		if len(view.Holds) > 0 {
			a.say("  it holds %s", joined(view.Holds))
		}
		a.say("  rollbacks, pins and first documents aren't held; end it: tsunamictl blackout remove %s", view.Name)
	})
}

func (a *app) blackoutTable(views []control.BlackoutView, now time.Time) {
	columns := []string{"NAME", "IN FORCE", "CHANGES", "TIMES", "WHERE", "HOLDS", "WHY"}
	t := newTable(columns...)
	for i := range views {
		v := &views[i]
		inForce := "no"
		if v.InForce {
			inForce = "yes"
		}
		next := relative(v.Next, now)
		if a.wide() {
			next = local(v.Next)
		}
		t.row(v.Name, inForce, next, blackoutTimes(&v.Blackout), v.Where, joined(v.Holds), v.Why)
	}
	t.paint = func(column int, text string) string {
		if column == 1 && text == "yes" {
			return a.color(yellow, text)
		}
		return text
	}
	t.print(a.out)
}

// blackoutTimes says when a blackout is in force.
func blackoutTimes(b *rollout.Blackout) string {
	s := rulesText(b.Every)
	if !b.From.IsZero() {
		s += " from " + local(b.From)
	}
	if !b.Until.IsZero() {
		s += " until " + local(b.Until)
	}
	return strings.TrimSpace(s)
}

func joined[T ~string](list []T) string {
	all := make([]string, len(list))
	for i, s := range list {
		all[i] = string(s)
	}
	return strings.Join(all, ", ")
}
