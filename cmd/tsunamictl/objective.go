package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

func (a *app) objectiveCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "objective", Short: "Objectives: what hosts must go on doing while a rollout changes them"})
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List objectives, and which rollouts they judge",
			Example: "  tsunamictl objective list -o wide",
			Args:    arguments(""),
			RunE: func(cmd *cobra.Command, _ []string) error {
				views, err := a.objectives(cmd.Context())
				if err != nil {
					return err
				}
				return a.emit(views, func() { a.objectiveTable(views) })
			},
		},
		&cobra.Command{
			Use: "show NAME", Short: "Show what an objective demands, in words", SuggestFor: []string{"status", "get", "describe"},
			Long: `Show what an objective demands, in words, with what its document leaves to the
defaults, and which live rollouts it judges. 'tsunamictl rollout show' says how each
of those stands with it.`,
			Example:           "  tsunamictl objective show docker-healthy",
			Args:              arguments("NAME"),
			ValidArgsFunction: a.complete(first((*app).completeObjectives)),
			RunE: func(cmd *cobra.Command, args []string) error {
				v, err := a.objective(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.emit(v, func() { a.objectiveFields(v) })
			},
		},
		a.objectiveTestCommand(), a.replayCommand(), a.importCommand(),
	)
	return cmd
}

func (a *app) objectives(ctx context.Context) ([]control.ObjectiveView, error) {
	views := []control.ObjectiveView{}
	err := a.call(ctx, control.ObjectiveList, nil, &views)
	return views, err
}

// objective finds one objective, or says which ones there are.
func (a *app) objective(ctx context.Context, name string) (*control.ObjectiveView, error) {
	if err := checkName(control.KindObjective, name); err != nil {
		return nil, err
	}
	views, err := a.objectives(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(views))
	for i := range views {
		if names[i] = string(views[i].Name); names[i] == name {
			return &views[i], nil
		}
	}
	return nil, control.Errorf(control.NotFound, "there is no objective %s: %s", name, thereAre(names, "apply its document first"))
}

func (a *app) objectiveTable(views []control.ObjectiveView) {
	columns := []string{"NAME", "BY", "AFTER A CHANGE", "STEADY"}
	if a.wide() {
		columns = append(columns, "FOR", "GRACE", "ALPHA", "TOLERATE", "FRESHNESS", "NO DATA")
	}
	t := newTable(append(columns, "JUDGES")...)
	for i := range views {
		v := &views[i]
		row := []any{v.Name, v.Source(), withinText(v.WithinOfChange), steadyText(v.Steady)}
		if a.wide() {
			o := filled(&v.Objective)
			row = append(row, *o.For, *o.Grace, o.Alpha, o.Tolerate, o.Freshness, o.NoData)
		}
		t.row(append(row, joined(v.Rollouts))...)
	}
	t.print(a.out)
}

// withinText and steadyText are the budgets in a table.
func withinText(w *slo.Within) string {
	if w == nil {
		return ""
	}
	return fmt.Sprintf("%s within %s", w.AtMost, w.Window)
}

func steadyText(s *slo.Steady) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("%s per %s", s.AtMost, s.Per)
}

// filled is the objective with what it leaves to the defaults.
func filled(o *slo.Objective) slo.Objective {
	f := *o
	if f.For == nil {
		f.For = new(slo.DefaultFor)
		if f.Alert != nil {
			f.For = new(field.Duration(0))
		}
	}
	if f.Grace == nil {
		f.Grace = new(slo.DefaultGrace)
	}
	f.Alpha = f.Alpha.Or(slo.DefaultAlpha)
	f.Tolerate = cmp.Or(f.Tolerate, 1)
	f.Freshness = cmp.Or(f.Freshness, slo.DefaultFreshness)
	f.Domain = cmp.Or(f.Domain, slo.DefaultDomain)
	f.NoData = cmp.Or(f.NoData, slo.NoDataHold)
	return f
}

func (a *app) objectiveFields(v *control.ObjectiveView) {
	var f fields
	f.add("objective", v.Name)
	rules(&f, &v.Objective)
	judges := "no live rollout names it: tsunamictl rollout start … --objective " + string(v.Name)
	if len(v.Rollouts) > 0 {
		judges = joined(v.Rollouts)
	}
	f.add("judges", judges)
	f.print(a.out)
}

// rules says in words what an objective demands.
func rules(f *fields, objective *slo.Objective) {
	o := filled(objective)
	if q := o.Asked(); q != nil {
		f.add("query", q.Query)
	}
	if o.Ratio != nil {
		f.add("a ratio", fmt.Sprintf("a rollout holds while the error budget of %s in %s burns too fast, and is never frozen by it", o.Ratio.Target, o.Ratio.Over()))
		f.add("freshness", fmt.Sprintf("an answer that is older than %s holds a rollout until a newer one comes", o.Freshness))
		return
	}
	if o.Gate() {
		f.add("a gate", fmt.Sprintf("%s: more than %d failures freeze, once what it is about has been changed; nothing is weighed", o.Source(), o.Limit()))
		f.add("freshness", fmt.Sprintf("an answer that is older than %s holds a rollout until a newer one comes", o.Freshness))
		return
	}
	by := "its " + o.Source()
	fails := "as soon as " + by + " says so"
	if *o.For > 0 {
		fails = fmt.Sprintf("when %s has said so for %s", by, o.For)
	}
	if o.Check != "" {
		fails = strings.NewReplacer(" has said so", " has failed", " says so", " fails").Replace(fails)
	}
	grace := "when three heartbeats of it are missed"
	if *o.Grace > 0 {
		grace = fmt.Sprintf("when it is silent for %s longer than three heartbeats", o.Grace)
	}
	f.add("a host fails", fmt.Sprintf("%s, when it gives up making the new value true, or %s", fails, grace))
	compared := "changed hosts fail no more often than"
	if o.Tolerate != 1 {
		compared = fmt.Sprintf("changed hosts fail at most %v times as often as", o.Tolerate)
	}
	f.add("compared", compared+" hosts of their role that aren't changed yet")
	if w := o.WithinOfChange; w != nil {
		f.add("after a change", fmt.Sprintf("within %s of its change at most %s of the changed hosts fail %s", w.Window, w.AtMost, by))
	}
	if s := o.Steady; s != nil {
		from := "from its change on"
		if w := o.WithinOfChange; w != nil {
			from = "later than " + w.Window.String() + " after its change"
		}
		f.add("steady", fmt.Sprintf("%s at most %s of the changed hosts fail in %s", from, s.AtMost, s.Per))
	}
	if o.WithinOfChange != nil || o.Steady != nil {
		f.add("as one", fmt.Sprintf("of hosts with the same label %s one failure counts against the budgets", o.Domain))
	}
	if o.WithinOfChange == nil && o.Steady == nil {
		f.add("budgets", "none: it only compares; where every host has been changed it sees nothing")
	}
	if o.FailureLimit != nil {
		f.add("limit", fmt.Sprintf("more than %d changed hosts that fail freeze it, whatever they weigh", *o.FailureLimit))
	}
	f.add("false alarms", fmt.Sprintf("of rollouts that do no harm at most %s are frozen, over their whole length", o.Alpha))
	f.add("freshness", fmt.Sprintf("evidence that is older than %s holds a rollout until newer comes", o.Freshness))
	noData := "a rollout waits while none of its hosts has been seen healthy"
	if o.NoData == slo.NoDataPass {
		noData = "a rollout goes on where none of its hosts has been seen healthy"
	}
	f.add("no data", noData)
}

func (a *app) completeObjectives(ctx context.Context, p place) ([]cobra.Completion, error) {
	views, err := a.objectives(ctx)
	// Of a list with commas the last is completed.
	list := p.begun[:strings.LastIndexByte(p.begun, ',')+1]
	given := strings.Split(list, ",")
	var all []cobra.Completion
	for i := range views {
		if name := string(views[i].Name); !slices.Contains(given, name) {
			all = append(all, described(list+name, "%s", demands(&views[i].Objective)))
		}
	}
	return all, err
}

// demands is an objective in a few words.
func demands(o *slo.Objective) string {
	all := []string{o.Source()}
	for _, budget := range []string{withinText(o.WithinOfChange), steadyText(o.Steady)} {
		if budget != "" {
			all = append(all, budget)
		}
	}
	return strings.Join(all, ", ")
}

// guardFlags are the flags that say what is watched while a rollout moves.
type guardFlags struct {
	objectives []string
	onBreach   string
}

// guardFlagNames may not be empty: an empty variable in a script would leave a
// rollout unwatched.
var guardFlagNames = []string{"objective", "on-breach"}

func (g *guardFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&g.objectives, "objective", nil, "the `objectives` that it is judged by while it moves, with commas; a breach freezes it")
	f.StringVar(&g.onBreach, "on-breach", "", "freeze, or rollback: it is frozen, and then its hosts are taken back (default freeze)")
}

// spec is what a document would say; nil where no objective is named. Its errors
// are by flag.
func (g *guardFlags) spec() (*rollout.Guard, []error) {
	var errs []error
	out := &rollout.Guard{OnBreach: rollout.OnBreach(g.onBreach)}
	for _, name := range g.objectives {
		id, err := rollout.ParseID("objective", name)
		if err != nil {
			errs = append(errs, fmt.Errorf("--objective: %w", err))
		}
		out.Objectives = append(out.Objectives, id)
	}
	switch out.OnBreach {
	case "", rollout.BreachFreezes, rollout.BreachRollsBack:
	default:
		errs = append(errs, fmt.Errorf("--on-breach: %q isn't allowed: want %s or %s", g.onBreach, rollout.BreachFreezes, rollout.BreachRollsBack))
	}
	if len(out.Objectives) == 0 {
		if g.onBreach != "" && len(errs) == 0 {
			errs = append(errs, fmt.Errorf("--on-breach: nothing can be breached: name what to watch with --objective NAME"))
		}
		return nil, errs
	}
	return out, errs
}
