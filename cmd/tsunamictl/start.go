package main

import (
	"cmp"
	"context"
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
	shape, preset     string
	growth            float64
	waves, points     []string
	over, settle      durationFlag
	percent           percentFlag
	max, perRole      percentFlag
	where, name       string
	start, after      string
	supersede, canary string
	limits, spread    []string
	windows, exclude  []string
	approvals         int
	remove, dryRun    bool
	guard             guardFlags
	plan              planFlags
}

// flagOf names the flag or argument that a field of the document came from.
var flagOf = map[string]string{
	"variable": "VARIABLE", "to": "VALUE", "remove": "--remove", "name": "--name", "where": "--where", "exclude": "--exclude",
	"ramp": "--over", "ramp.over": "--over", "ramp.percent": "--percent", "ramp.shape": "--shape", "ramp.growth": "--growth",
	"ramp.preset": "--preset", "ramp.waves": "--waves", "ramp.points": "--points",
	"canary": "--canary", "canary.where": "--canary: where", "canary.bake": "--canary: bake",
	"inFlight.max": "--in-flight", "inFlight.perRole": "--in-flight-per-role",
	"start": "--start", "after": "--after", "settle": "--settle", "spread": "--spread", "supersedes": "--supersede",
	"approvals": "--approvals", "windows": "--window", "limits": "--limit",
	"guard": "--objective", "guard.objectives": "--objective", "guard.onBreach": "--on-breach",
	"every": "--every", "from": "--from", "until": "--until", "why": "--why",
}

// counted are the flags whose items a fault names by number.
var counted = map[string]string{"limits": "--limit", "windows": "--window", "ramp.waves": "--waves: wave", "ramp.points": "--points: point", "exclude": "--exclude", "every": "--every", "guard.objectives": "--objective"}

const startHelp = `
The ramp. --over alone is a straight line. --shape exponential starts slowly and
ends --growth times as fast. --waves and --points say everything about the ramp
themselves, and --preset names one: rapid, common and risky are straight lines
over 24, 48 and 72 hours.

  --waves '1%:1d, 10%:2d:approval, 100%'   1% at once; a day later, once somebody
                                           approves, 10%; two days later the rest
  --points '1d:5%, 3d:20%, 1w:100%'        straight lines from point to point

Before it. --canary 'perRole=1,bake=24h' (or hosts=3, or where=EXPRESSION) tells a
few hosts first, and the ramp's clock starts when they have stayed confirmed for
bake. --approvals 2 waits for two operators other than you.

Beside it. --window 'mon-thu 09:00-16:00 Europe/Stockholm' is a time in which hosts
may be told: days, months (dec), days of the month (24-26, or -1 for the last) and
hours, in UTC unless a zone is named; several windows add up.

While it moves. --objective docker-healthy has the guard compare changed hosts with
those that aren't changed yet, and with what the objective allows. Where the
evidence suffices the rollout is frozen at once and stays so until somebody
resumes it; with --on-breach rollback its hosts are then taken back. --dry-run says
how soon it would be.`

func (a *app) rolloutStartCommand() *cobra.Command {
	var o startFlags
	cmd := &cobra.Command{
		Use: "start VARIABLE VALUE --over DURATION", Short: "Start a rollout",
		SuggestFor: []string{"create", "new", "run", "begin"},
		Long: `Start a rollout that moves a variable to a value, host by host. With --remove,
and VALUE left out, it takes the variable out of the hosts' documents. With
--dry-run it is only planned: which host, when.
` + startHelp,
		Example: `  tsunamictl rollout start docker_version 1.12.3 --over 2w --where 'role != "database"'
  tsunamictl rollout start docker_version 1.12.3 --over 2w --limit 'role == "accesspoint": 30%, atLeast=1, atMost=50'
  tsunamictl rollout start docker_version 1.12.3 --preset common --canary 'perRole=1,bake=24h' --window 'mon-thu 09:00-16:00 Europe/Stockholm'
  tsunamictl rollout start docker_version 1.12.3 --waves '1%:1d,10%:2d:approval,100%' --dry-run
  tsunamictl rollout start docker_version 1.12.3 --over 2w --objective docker-healthy --on-breach rollback
  tsunamictl rollout start docker_version --remove --over 1d`,
		Args: arguments("VARIABLE [VALUE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := notEmpty(cmd, guardFlagNames...); err != nil {
				return err
			}
			return a.startRollout(cmd.Context(), args[0], args[1:], &o)
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&o.supersede, "supersede", "", "the live `rollout` of the variable that this one replaces")
	return cmd
}

func (a *app) supersedeCommand() *cobra.Command {
	var o startFlags
	cmd := &cobra.Command{
		Use: "supersede ROLLOUT VALUE --over DURATION", Short: "Replace a live rollout by a new one of its variable",
		SuggestFor: []string{"replace"},
		Long: `Replace a live rollout by a new one of its variable. The new one starts from the
mixed state that the old one leaves: hosts keep what they were told until their
turn comes again. Only the variable is taken over from the old one; everything
else is said anew, as in 'rollout start'.
` + startHelp,
		Example: `  tsunamictl rollout supersede docker-1-12-3 1.12.4 --over 1w --dry-run
  tsunamictl rollout supersede docker-1-12-3 1.12.4 --over 1w`,
		Args: arguments("ROLLOUT [VALUE]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := notEmpty(cmd, guardFlagNames...); err != nil {
				return err
			}
			old, err := a.show(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			o.supersede = string(old.ID)
			return a.startRollout(cmd.Context(), string(old.Variable), args[1:], &o)
		},
	}
	o.add(cmd)
	return cmd
}

func (o *startFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&o.over, "over", "how long the change takes, such as 2w, 36h or 90s")
	f.StringVar(&o.shape, "shape", "", "linear, exponential, waves or points (default linear, or what --growth, --waves or --points mean)")
	f.Float64Var(&o.growth, "growth", 0, "how many `times` as fast an exponential ramp ends as it starts (default 10)")
	f.StringArrayVar(&o.waves, "waves", nil, "the ramp's `waves`, 'PERCENT:HOLD[:approval], …, 100%'")
	f.StringArrayVar(&o.points, "points", nil, "the ramp's `points`, 'TIME:PERCENT, …, TIME:100%'")
	f.StringVar(&o.preset, "preset", "", "a ramp by `name`: rapid (24h), common (48h) or risky (72h)")
	f.Var(&o.percent, "percent", "how much of each role in the end (default 100%)")
	f.StringVar(&o.where, "where", "", "which hosts: an `expression` over role, labels and host (default: every host)")
	f.StringSliceVar(&o.exclude, "exclude", nil, "`hosts` that it leaves alone, with commas")
	f.StringArrayVar(&o.limits, "limit", nil, "another `target` for some hosts, 'WHERE: 30%, atLeast=1, atMost=50'; the first that matches a host wins")
	f.StringVar(&o.canary, "canary", "", "`who` goes first, 'perRole=1,bake=24h', 'hosts=3,bake=1d' or 'where=EXPRESSION,bake=1d'")
	f.StringArrayVar(&o.windows, "window", nil, "a `time` in which hosts may be told, 'mon-thu 09:00-16:00 Europe/Stockholm'; may be given several times")
	f.IntVar(&o.approvals, "approvals", 0, "how many other operators must approve before it starts")
	f.Var(&o.max, "in-flight", "how much of all hosts may be told and not yet confirmed (default 5%)")
	f.Var(&o.perRole, "in-flight-per-role", "the same of each role's hosts (default 20%)")
	f.Var(&o.settle, "settle", "the least time between two changes of one host")
	f.StringVar(&o.start, "start", "", "when: a `time` such as 2026-12-01T09:00:00+01:00, or in how long, such as 2h (default: at once)")
	f.StringVar(&o.after, "after", "", "another `rollout` that must have completed")
	f.StringSliceVar(&o.spread, "spread", nil, "`labels` to be even over, such as zone,rack")
	f.StringVar(&o.name, "name", "", "the rollout's `name` (default: made of variable and value)")
	f.BoolVar(&o.remove, "remove", false, "take the variable out of the hosts' documents; VALUE is left out")
	f.BoolVar(&o.dryRun, "dry-run", false, "show the plan, start nothing")
	o.guard.add(cmd)
	o.plan.add(cmd, "with --dry-run, ")
}

// spec makes the document. Its errors are by flag.
func (o *startFlags) spec(now time.Time) (rollout.Spec, error) {
	s := rollout.Spec{
		Name: rollout.ID(o.name), Where: o.where, After: rollout.ID(o.after), Supersedes: rollout.ID(o.supersede), Remove: o.remove,
		Ramp: rollout.Ramp{
			Shape: rollout.Shape(o.shape), Preset: o.preset, Over: rollout.Duration(o.over),
			Percent: rollout.Percent(o.percent), Growth: o.growth,
		},
		InFlight: rollout.InFlight{Max: rollout.Percent(o.max), PerRole: rollout.Percent(o.perRole)},
		Settle:   rollout.Duration(o.settle), Approvals: o.approvals,
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
	var implied rollout.Shape
	if len(o.waves) > 0 {
		var err error
		s.Ramp.Waves, err = parseWaves(strings.Join(o.waves, ","))
		add("--waves", err)
		implied = rollout.Waves
	}
	if len(o.points) > 0 {
		var err error
		s.Ramp.Points, err = parsePoints(strings.Join(o.points, ","))
		add("--points", err)
		implied = cmp.Or(implied, rollout.Points)
	}
	if o.growth != 0 {
		implied = cmp.Or(implied, rollout.Exponential)
	}
	s.Ramp.Shape = cmp.Or(s.Ramp.Shape, implied)
	for _, h := range o.exclude {
		host, err := rollout.ParseHost(h)
		add("--exclude", err)
		s.Exclude = append(s.Exclude, host)
	}
	for _, l := range o.limits {
		limit, err := parseLimit(l)
		add("--limit "+quoted(l), err)
		s.Limits = append(s.Limits, limit)
	}
	if o.canary != "" {
		var err error
		s.Canary, err = parseCanary(o.canary)
		add("--canary", err)
	}
	for _, w := range o.windows {
		rule, err := parseRule(w)
		add("--window "+quoted(w), err)
		s.Windows = append(s.Windows, rule)
	}
	for _, l := range o.spread {
		w, err := rollout.ParseWord("label", l)
		add("--spread", err)
		s.Spread = append(s.Spread, w)
	}
	var wrong []error
	s.Guard, wrong = o.guard.spec()
	errs = append(errs, wrong...)
	if o.start != "" {
		var err error
		s.Start, err = parseTime(o.start, now, 1)
		add("--start", err)
	}
	return s, errors.Join(errs...)
}

// startRollout starts a rollout, or with --dry-run plans it. The value is the
// one argument left, or none with --remove.
func (a *app) startRollout(ctx context.Context, variable string, value []string, o *startFlags) error {
	switch {
	case o.remove && len(value) > 0:
		return usagef("--remove: takes the variable out of the documents: leave VALUE (%s) out", value[0])
	case !o.remove && len(value) == 0:
		return usagef("VALUE is missing: the value to move to, or --remove to take the variable out of the documents")
	}
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
	v, err := a.variable(ctx, variable)
	if err != nil {
		return err
	}
	if !o.remove {
		if spec.To, err = rollout.ParseValue(v.Type, value[0]); err != nil {
			return usagef("VALUE: %v: %s is %s", err, v.Name, article(v.Type))
		}
		if err := v.Accept(spec.To); err != nil {
			return usagef("VALUE: %v", err)
		}
	}
	if o.dryRun {
		if err := a.plan(ctx, control.PlanRequest{Rollout: &spec}, &o.plan); err != nil {
			return byFlag(err)
		}
		a.say("nothing was started (--dry-run)")
		return nil
	}
	view := new(control.RolloutView)
	if err := a.call(ctx, control.RolloutStart, control.StartRequest{Rollout: spec}, view); err != nil {
		return byFlag(withCommand(err, value))
	}
	return a.emit(view, func() {
		a.say("%s is %s: %s on %s; %s", view.ID, view.State, moves(view), plural(view.Target, "host"), rampText(spec.Ramp))
		if spec.Supersedes != "" {
			a.say("  %s is superseded: hosts keep what it told them until their turn comes", spec.Supersedes)
		}
		if view.Target == 0 {
			a.say("  it selects no host now; hosts that join and match will be told")
		}
		if !view.Ends.IsZero() {
			a.say("  it ends %s if nothing holds it", moment(view.Ends, time.Now()))
		}
		if spec.Guard != nil {
			a.say("  it is judged by %s", guardText(spec.Guard))
		}
		a.still(view)
		a.say("  watch it: tsunamictl rollout watch %s", view.ID)
		a.say("  stop it at once: tsunamictl rollout abort %s --why …", view.ID)
	})
}

// withCommand adds to a refusal that names what a document would say, what to
// type instead.
func withCommand(err error, value []string) error {
	e, ok := errors.AsType[*control.Error](err)
	if !ok || e.Code != control.Refused {
		return err
	}
	_, old, ok := strings.Cut(e.Message, "supersedes: ")
	if _, wrong := rollout.ParseID("rollout", old); !ok || wrong != nil {
		return err
	}
	what := "--remove"
	if len(value) > 0 {
		what = quoted(value[0])
	}
	with := *e
	with.Message += fmt.Sprintf("\n  that is: tsunamictl rollout supersede %s %s …", old, what)
	return &with
}

// moves says what a rollout does to its variable.
func moves(v *control.RolloutView) string {
	return printable(fmt.Sprintf("%s → %s", v.Variable, destination(v)))
}

// destination is the value that a rollout moves hosts to, or what there is
// instead of one.
func destination(v *control.RolloutView) string {
	switch {
	case !v.To.IsZero():
		return v.To.Text()
	case v.RollbackOf != "":
		return "(as before)"
	}
	return "(removed)"
}

// still says why a rollout isn't moving, and what an operator can do about it.
func (a *app) still(v *control.RolloutView) {
	switch {
	case v.State == rollout.StateFrozen && v.Abort != nil:
		a.say("  nothing moves until: tsunamictl rollout resume %s --acknowledge %d --why …", v.ID, v.Abort.Sequence)
	case v.State == rollout.StatePaused:
		a.say("  nothing moves until: tsunamictl rollout resume %s", v.ID)
	case v.ReasonCode == rollout.AwaitingApproval:
		who := "somebody approves"
		if v.ApprovalsNeeded > 1 {
			who = fmt.Sprintf("%d operators approve", v.ApprovalsNeeded)
		}
		a.say("  nothing moves until %s: tsunamictl rollout approve %s", who, v.ID)
	case v.Reason != "":
		a.say("  it isn't moving yet: %s", printable(v.Reason))
	}
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

// flagName gives the flag that a field came from, with a colon: --limit 2:
// atLeast.
func flagName(field string) string {
	if field == "" {
		return ""
	}
	if flag, ok := flagOf[field]; ok {
		return flag + ": "
	}
	list, rest, ok := strings.Cut(field, "[")
	number, key, closed := strings.Cut(rest, "]")
	if n, err := strconv.Atoi(number); ok && closed && err == nil && counted[list] != "" {
		name := fmt.Sprintf("%s %d: ", counted[list], n+1)
		if key = strings.TrimPrefix(key, "."); key != "" {
			name += key + ": "
		}
		return name
	}
	return field + ": "
}
