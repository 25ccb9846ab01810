package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func (a *app) whyCommand() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use: "why HOST VARIABLE", Short: "Why a host has a value, and why not yet another",
		Long: `Say what a host was told of a variable, when, by whom and why; and, where a
rollout has yet to reach it, when that is due and what stands in the way.

With --at it says the same of a past moment, and what came next. That is
answered from the audit log, so it stays true when the rollout's record is gone
and when no scheduler runs. Without a scheduler, the present is too.`,
		Example: `  tsunamictl why web1.lon2.example.net docker_version
  tsunamictl why web1.lon2.example.net docker_version --at "2026-11-20 14:00"`,
		Args: arguments("HOST VARIABLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := hostArg(args[0])
			if err != nil {
				return err
			}
			variable, err := rollout.ParseName(args[1])
			if err != nil {
				return &usageError{err}
			}
			now := time.Now()
			if !cmd.Flags().Changed("at") {
				return a.why(cmd.Context(), host, variable, now)
			}
			moment, err := parsePast(at, now)
			if err == nil && moment.After(now) {
				err = fmt.Errorf("%s is to come: without --at, 'tsunamictl why' says what is due", local(moment))
			}
			if err != nil {
				return usagef("--at: %v", err)
			}
			p, err := a.past(cmd.Context(), host, variable, moment)
			if err != nil {
				return err
			}
			return a.emitPast(p, now)
		},
	}
	cmd.Flags().StringVar(&at, "at", "", "a past `time`: 2h, 3d, 2026-11-20, \"2026-11-20 14:00\" (local) or 2026-11-20T14:00:00+01:00")
	return cmd
}

// parsePast reads a moment: a time as people write it, or how long ago it was.
func parsePast(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t, nil
		}
	}
	d, err := rollout.ParseDuration(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q isn't a time or a duration: want one such as 2026-12-01T09:00:00+01:00, \"2026-12-01 09:00\", 2026-12-01 or 2h", text)
	}
	return now.Add(-time.Duration(d)), nil
}

// whyView is the scheduler's answer, with what only the audit log and the
// evidence know.
type whyView struct {
	control.WhyView
	Previous    rollout.Value `json:"previous,omitzero"`
	ConfirmedAt time.Time     `json:"confirmedAt,omitzero"`
	// Past is, of a host without a value, what the log knows of that, and Before
	// of the value that was taken out.
	Past   *control.Past `json:"past,omitempty"`
	Before *control.Past `json:"before,omitempty"`
}

// why asks the scheduler, and the audit log what it knows beside that. Where
// there is no scheduler, or none that knows of the host or the variable, the
// log answers alone.
func (a *app) why(ctx context.Context, host rollout.Host, variable rollout.Name, now time.Time) error {
	var v whyView
	no := a.call(ctx, control.Why, control.WhyRequest{Host: host, Variable: variable}, &v.WhyView)
	if no != nil && (a.client == nil || !passing(no) && !errors.Is(no, rollout.ErrNotFound)) {
		return no
	}
	p, err := a.past(ctx, host, variable, time.Time{})
	switch {
	case no != nil && err != nil,
		errors.Is(no, rollout.ErrNotFound) && p.Value.IsZero() && p.Told.IsZero(): // a typing error, as far as both know
		return no
	case no != nil:
		for line := range strings.Lines(plain(no)) {
			fmt.Fprintln(a.errs, "tsunamictl: "+strings.TrimRight(line, "\n"))
		}
		fmt.Fprintln(a.errs, "tsunamictl: so this is what the audit log knows; what comes next, it doesn't")
		p.At = now
		return a.emitPast(p, now)
	case err != nil && !errors.Is(err, rollout.ErrNotFound):
		return err
	case err == nil:
		if v.add(p); v.Value.IsZero() && p.Missing == control.Removed {
			if v.Before, err = a.past(ctx, host, variable, p.Told.Add(-1)); err != nil {
				return err
			}
		}
	}
	return a.emit(v, func() { a.sayAll(explain(&v, now)) })
}

func (a *app) past(ctx context.Context, host rollout.Host, variable rollout.Name, at time.Time) (*control.Past, error) {
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	return c.Past(ctx, host, variable, at)
}

// add takes over what is about the same change.
func (v *whyView) add(p *control.Past) {
	if v.Value.IsZero() {
		v.Past = p
		return
	}
	if p.Value != v.Value || v.Rollout != "" && p.Rollout != v.Rollout {
		return
	}
	v.Reason, v.Actor, v.Previous, v.ConfirmedAt = p.Reason, p.Actor, p.Previous, p.ConfirmedAt
	if v.Told.IsZero() {
		v.Told = p.Told
	}
}

func (a *app) sayAll(lines []string) {
	for _, s := range lines {
		a.say("%s", printable(s))
	}
}

func (a *app) emitPast(p *control.Past, now time.Time) error {
	return a.emit(p, func() { a.sayAll(explainPast(p, now)) })
}

// by says who was behind a change.
func by(id rollout.ID, actor string) (s string) {
	if id != "" {
		s = " by rollout " + string(id)
	}
	if actor != "" && actor != string(rollout.Scheduler) {
		s += ", which " + actor + " asked for"
	}
	return s
}

// explain says it in sentences that can be read aloud.
func explain(v *whyView, now time.Time) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch {
	case v.Value.IsZero():
		out = append(out, untold(v, now)...)
		if v.Actual.IsZero() {
			say("It reports none.")
		} else {
			say("It runs %s.", v.Actual)
		}
	default:
		s := fmt.Sprintf("%s was told %s %s", v.Host, v.Variable, v.Value)
		if !v.Previous.IsZero() && v.Previous != v.Value {
			s += " (before: " + v.Previous.String() + ")"
		}
		if !v.Told.IsZero() {
			s += " on " + moment(v.Told, now)
		}
		say("%s%s.", s, by(v.Rollout, string(v.Actor)))
		if v.Reason != "" {
			say("The reason: %s.", v.Reason)
		}
		switch {
		case v.Confirmed && !v.ConfirmedAt.IsZero():
			say("It is confirmed, first on %s: the host runs it, and its checks pass.", moment(v.ConfirmedAt, now))
		case v.Confirmed:
			say("It is confirmed: the host runs it, and its checks pass.")
		case !v.ConfirmedAt.IsZero() && v.Value.Matches(v.Actual):
			say("It was confirmed on %s, and isn't any more: the host runs it, but its checks don't pass.", moment(v.ConfirmedAt, now))
		case !v.ConfirmedAt.IsZero():
			say("It was confirmed on %s, and isn't any more: the host runs %s.", moment(v.ConfirmedAt, now), cmp.Or(v.Actual.String(), "none"))
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
		if v.To.IsZero() {
			s = fmt.Sprintf("Rollout %s is to take %s out", v.Next, v.Variable)
		}
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

// untold says why a host has no value: it was never told one, or has none any
// more.
func untold(v *whyView, now time.Time) []string {
	never := fmt.Sprintf("%s was never told a value of %s.", v.Host, v.Variable)
	p := v.Past
	if p == nil {
		return []string{never}
	}
	told := func(value rollout.Value, p *control.Past) string {
		s := fmt.Sprintf("%s was told %s %s", v.Host, v.Variable, value)
		if p != nil && !p.Told.IsZero() {
			s += " on " + moment(p.Told, now) + by(p.Rollout, string(p.Actor))
		}
		return s
	}
	switch {
	case p.Missing == control.Removed:
		out := []string{fmt.Sprintf("%s; it was taken out on %s%s.", told(p.Previous, v.Before), moment(p.Told, now), by(p.Rollout, string(p.Actor)))}
		if p.Reason != "" {
			out = append(out, fmt.Sprintf("The reason: %s.", p.Reason))
		}
		return out
	case p.Missing == control.BeforeLog:
		return []string{fmt.Sprintf("%s has no value of %s; whether it was told one isn't known: the audit log begins on %s.", v.Host, v.Variable, local(p.LogBegins))}
	case p.Decommissioned != nil && !p.Value.IsZero():
		r := p.Decommissioned
		return []string{fmt.Sprintf("%s, and decommissioned on %s%s: %s.", told(p.Value, p), moment(r.Time, now), byWhom(r.Actor), strings.TrimPrefix(r.Reason, "decommissioned: "))}
	case !p.Previous.IsZero():
		return []string{told(p.Previous, nil) + " before it was decommissioned, and none since."}
	}
	return []string{never}
}

// explainPast says what the audit log knows of a moment.
func explainPast(p *control.Past, now time.Time) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	at := local(p.At)
	switch p.Missing {
	case control.NoDocument:
		say("On %s %s had not been told anything yet: it had no document.", at, p.Host)
	case control.NotTold:
		say("On %s %s had not been told a value of %s.", at, p.Host, p.Variable)
		if !p.Previous.IsZero() {
			say("Before it was decommissioned, it had been told %s.", p.Previous)
		}
	case control.BeforeLog:
		say("What %s had been told of %s on %s isn't known: the audit log begins on %s.", p.Host, p.Variable, at, local(p.LogBegins))
		if p.Later != nil && !p.Later.Previous.IsZero() {
			say("Before the first change that the log has, it had been told %s.", p.Later.Previous)
		}
	case control.Removed:
		say("On %s %s had no value of %s any more: that was removed on %s (before: %s)%s.", at, p.Host, p.Variable, moment(p.Told, now), p.Previous, by(p.Rollout, string(p.Actor)))
		say("The reason: %s.", p.Reason)
	default:
		s := fmt.Sprintf("On %s %s had been told %s %s", at, p.Host, p.Variable, p.Value)
		if !p.Previous.IsZero() && p.Previous != p.Value {
			s += " (before: " + p.Previous.String() + ")"
		}
		say("%s, on %s%s.", s, moment(p.Told, now), by(p.Rollout, string(p.Actor)))
		if p.Reason != "" {
			say("The reason: %s.", p.Reason)
		} else {
			say("The reason isn't known: the audit log begins on %s, after that.", local(p.LogBegins))
		}
		say("%s", pastConfirmation(p, now))
	}
	if r := p.Decommissioned; r != nil {
		say("It was decommissioned on %s%s: %s.", moment(r.Time, now), byWhom(r.Actor), strings.TrimPrefix(r.Reason, "decommissioned: "))
	}
	if r := p.ByHand; r != nil {
		say("Its document had been overwritten or deleted by hand on %s, which no host takes: %s.", moment(r.Time, now), r.Reason)
	}
	switch r := p.Later; {
	case r == nil && p.Missing == control.BeforeLog:
	case r == nil:
		say("Nothing has changed that since.")
	case r.Variable == "":
		say("Next, it was decommissioned on %s%s: %s.", moment(r.Time, now), byWhom(r.Actor), strings.TrimPrefix(r.Reason, "decommissioned: "))
	case r.Value.IsZero():
		say("Next, it was told on %s to do without %s%s: %s.", moment(r.Time, now), r.Variable, by(r.Rollout, r.Actor), r.Reason)
	default:
		say("Next, it was told %s on %s%s: %s.", r.Value, moment(r.Time, now), by(r.Rollout, r.Actor), r.Reason)
	}
	return out
}

func byWhom(actor string) string {
	if actor == "" {
		return ""
	}
	return " by " + actor
}

func pastConfirmation(p *control.Past, now time.Time) string {
	switch {
	case p.Confirmed && p.ConfirmedUnknown:
		return "The host had confirmed it by then; when, isn't known any more."
	case p.ConfirmedUnknown:
		return "When the host confirmed it, isn't known any more."
	case p.Confirmed:
		return "The host confirmed it on " + moment(p.ConfirmedAt, now) + "."
	case !p.ConfirmedAt.IsZero():
		return "The host had not confirmed it yet; it did on " + moment(p.ConfirmedAt, now) + "."
	case p.Later != nil:
		return "The host never confirmed it."
	}
	return "The host has not confirmed it."
}
