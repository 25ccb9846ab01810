package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// startFlags are what `rollout start` takes, as a document would say it.
type startFlags struct {
	over, settle     durationFlag
	percent          percentFlag
	max, perRole     percentFlag
	where, name      string
	start, after     string
	supersede        string
	limits, spread   []string
	dryRun, planHost bool
}

// flagOf names the flag or argument that a field of the document came from.
var flagOf = map[string]string{
	"variable": "VARIABLE", "to": "VALUE", "name": "--name", "where": "--where",
	"ramp.over": "--over", "ramp.percent": "--percent", "ramp": "--over",
	"inFlight.max": "--in-flight", "inFlight.perRole": "--in-flight-per-role",
	"start": "--start", "after": "--after", "settle": "--settle", "spread": "--spread", "supersedes": "--supersede",
}

func (a *app) rolloutStartCommand() *cobra.Command {
	var o startFlags
	cmd := &cobra.Command{
		Use: "start VARIABLE VALUE --over DURATION", Short: "Start a rollout",
		Long: `Start a rollout that moves a variable to a value, host by host along a straight
line. With --dry-run it is only planned: which host, when.`,
		Example: `  tsunamictl rollout start docker_version 1.12.3 --over 2w --where 'role != "database"'
  tsunamictl rollout start docker_version 1.12.3 --over 2w --limit 'role == "accesspoint": 30%, atLeast=1, atMost=50'`,
		Args: arguments("VARIABLE VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.startRollout(cmd, args[0], args[1], &o) },
	}
	f := cmd.Flags()
	f.Var(&o.over, "over", "how long the change takes, such as 2w, 36h or 90s")
	f.Var(&o.percent, "percent", "how much of each role in the end (default 100%)")
	f.StringVar(&o.where, "where", "", "which hosts: an `expression` over role, labels and host (default: every host)")
	f.StringArrayVar(&o.limits, "limit", nil, "another `target` for some hosts, 'WHERE: 30%, atLeast=1, atMost=50'; the first that matches a host wins")
	f.Var(&o.max, "in-flight", "how much of all hosts may be told and not yet confirmed (default 5%)")
	f.Var(&o.perRole, "in-flight-per-role", "the same of each role's hosts (default 20%)")
	f.Var(&o.settle, "settle", "the least time between two changes of one host")
	f.StringVar(&o.start, "start", "", "when: a `time` such as 2026-12-01T09:00:00+01:00, or in how long, such as 2h (default: at once)")
	f.StringVar(&o.after, "after", "", "another `rollout` that must have completed")
	f.StringSliceVar(&o.spread, "spread", nil, "`labels` to be even over, such as zone,rack")
	f.StringVar(&o.name, "name", "", "the rollout's `name` (default: made of variable and value)")
	f.StringVar(&o.supersede, "supersede", "", "the live `rollout` of the variable that this one replaces")
	f.BoolVar(&o.dryRun, "dry-run", false, "show the plan, start nothing")
	f.BoolVar(&o.planHost, "all", false, "with --dry-run, list every host")
	return cmd
}

// spec makes the document. Its errors are by flag.
func (o *startFlags) spec(now time.Time) (rollout.Spec, error) {
	s := rollout.Spec{
		Name: rollout.ID(o.name), Where: o.where, After: rollout.ID(o.after), Supersedes: rollout.ID(o.supersede),
		Ramp:     rollout.Ramp{Over: rollout.Duration(o.over), Percent: rollout.Percent(o.percent)},
		InFlight: rollout.InFlight{Max: rollout.Percent(o.max), PerRole: rollout.Percent(o.perRole)},
		Settle:   rollout.Duration(o.settle),
	}
	var errs []error
	add := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", flag, err))
		}
	}
	for _, f := range []struct{ flag, value string }{{"--name", o.name}, {"--after", o.after}, {"--supersede", o.supersede}} {
		if f.value != "" {
			_, err := rollout.ParseID("rollout", f.value)
			add(f.flag, err)
		}
	}
	for _, l := range o.limits {
		limit, err := parseLimit(l)
		add("--limit "+quoted(l), err)
		s.Limits = append(s.Limits, limit)
	}
	for _, l := range o.spread {
		w, err := rollout.ParseWord("label", l)
		add("--spread", err)
		s.Spread = append(s.Spread, w)
	}
	if o.start != "" {
		var err error
		s.Start, err = parseTime(o.start, now, 1)
		add("--start", err)
	}
	return s, errors.Join(errs...)
}

// parseTime reads a time, or a duration from now: forwards with sign 1,
// backwards with -1.
func parseTime(text string, now time.Time, sign int) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation("2006-01-02", text, time.Local); err == nil {
		return t, nil
	}
	d, err := rollout.ParseDuration(strings.TrimPrefix(text, "+"))
	if err != nil {
		return time.Time{}, fmt.Errorf("%q isn't a time or a duration: want one such as 2026-12-01T09:00:00+01:00, 2026-12-01 or 2h", text)
	}
	return now.Add(time.Duration(sign) * time.Duration(d)), nil
}

// parseLimit reads WHERE: 30%, atLeast=1, atMost=50. Without WHERE and its
// colon it is for every host.
func parseLimit(text string) (rollout.Limit, error) {
	var l rollout.Limit
	items := text
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		l.Where, items = strings.TrimSpace(text[:i]), text[i+1:]
	}
	given := false
	for item := range strings.SplitSeq(items, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		given = true
		key, value, ok := strings.Cut(item, "=")
		if !ok {
			key, value = "percent", item
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "percent":
			var p percentFlag
			if err := p.Set(value); err != nil {
				return l, err
			}
			l.Percent = rollout.Percent(p)
		case "atLeast", "atMost":
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return l, fmt.Errorf("%s: %q isn't a number of hosts", key, value)
			}
			if key == "atLeast" {
				l.AtLeast = int(n)
			} else {
				l.AtMost = new(int(n))
			}
		default:
			return l, fmt.Errorf("%q isn't known: want 'WHERE: 30%%, atLeast=1, atMost=50', any of the three", key)
		}
	}
	if !given {
		return l, errors.New("it limits nothing: want 'WHERE: 30%, atLeast=1, atMost=50', any of the three")
	}
	return l, nil
}

func (a *app) startRollout(cmd *cobra.Command, variable, value string, o *startFlags) error {
	spec, err := o.spec(time.Now())
	if err != nil {
		return &usageError{err}
	}
	if spec.Variable, err = rollout.ParseName(variable); err != nil {
		return &usageError{err}
	}
	if err := early(spec); err != nil {
		return err
	}
	v, err := a.variable(cmd.Context(), variable)
	if err != nil {
		return err
	}
	if spec.To, err = rollout.ParseValue(v.Type, value); err != nil {
		return usagef("VALUE: %v: %s is %s", err, v.Name, article(v.Type))
	}
	if err := v.Accept(spec.To); err != nil {
		return usagef("VALUE: %v", err)
	}
	if o.dryRun {
		if err := a.plan(cmd.Context(), control.PlanRequest{Rollout: &spec}, o.planHost); err != nil {
			return byFlag(err)
		}
		a.say("nothing was started (--dry-run)")
		return nil
	}
	view := new(control.RolloutView)
	if err := a.call(cmd.Context(), control.RolloutStart, control.StartRequest{Rollout: spec}, view); err != nil {
		return byFlag(err)
	}
	return a.emit(view, func() {
		now := time.Now()
		a.say("%s is %s: %s → %s on %s over %s", view.ID, view.State, view.Variable, printable(view.To.Text()), plural(view.Target, "host"), spec.Ramp.Over)
		if view.Target == 0 {
			a.say("  it selects no host now; hosts that join and match will be told")
		}
		if !view.Ends.IsZero() {
			a.say("  it ends %s if nothing holds it", moment(view.Ends, now))
		}
		if view.Reason != "" {
			a.say("  it isn't moving yet: %s", printable(view.Reason))
		}
		a.say("  watch it: tsunamictl rollout watch %s", view.ID)
		a.say("  stop it at once: tsunamictl rollout abort %s --why …", view.ID)
	})
}

func article(t rollout.Type) string {
	if t == rollout.Integer {
		return "an integer"
	}
	return "a " + string(t)
}

// early finds what is wrong with the flags before anybody is asked. The name
// and the value are not known yet.
func early(spec rollout.Spec) error {
	if spec.Name == "" {
		spec.Name = "unnamed"
	}
	err := spec.Validate()
	if err == nil {
		return nil
	}
	e := control.AsError(err)
	kept := e.Faults[:0]
	for _, f := range e.Faults {
		if f.Field != "to" {
			kept = append(kept, f)
		}
	}
	if e.Faults = kept; len(kept) == 0 {
		return nil
	}
	return byFlag(e)
}

// byFlag names the flags that a document's faults came from.
func byFlag(err error) error {
	e, ok := errors.AsType[*control.Error](err)
	if !ok || len(e.Faults) == 0 {
		return err
	}
	var errs []error
	for _, f := range e.Faults {
		errs = append(errs, errors.New(flagName(f.Field)+f.Problem))
	}
	if e.Message != "" {
		errs = append(errs, errors.New(e.Message))
	}
	joined := errors.Join(errs...)
	if e.Code == control.Usage {
		return &usageError{joined}
	}
	return &exitError{exitCode(&control.Error{Code: e.Code}), joined}
}

func flagName(field string) string {
	if field == "" {
		return ""
	}
	if rest, ok := strings.CutPrefix(field, "limits"); ok {
		if number, key, ok := strings.Cut(strings.TrimPrefix(rest, "["), "]"); ok {
			if n, err := strconv.Atoi(number); err == nil {
				return fmt.Sprintf("--limit %d: %s: ", n+1, strings.TrimPrefix(key, "."))
			}
		}
		return "--limit: "
	}
	if flag, ok := flagOf[field]; ok {
		return flag + ": "
	}
	return field + ": "
}
