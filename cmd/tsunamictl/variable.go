package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func (a *app) variableCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "variable", Short: "Variables, and where the fleet stands with them"})
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List variables",
			Example: "  tsunamictl variable list -o wide",
			Args:    arguments(""),
			RunE: func(cmd *cobra.Command, _ []string) error {
				views, err := a.variables(cmd.Context())
				if err != nil {
					return err
				}
				return a.emit(views, func() { a.variableTable(views) })
			},
		},
		&cobra.Command{
			Use: "show VARIABLE", Short: "Show one variable", SuggestFor: []string{"status", "get", "describe"},
			Example: "  tsunamictl variable show docker_version",
			Args:    arguments("VARIABLE"),
			RunE: func(cmd *cobra.Command, args []string) error {
				v, err := a.variable(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.emit(v, func() { a.variableFields(v) })
			},
		},
	)
	return cmd
}

func (a *app) variables(ctx context.Context) ([]control.VariableView, error) {
	views := []control.VariableView{}
	err := a.call(ctx, control.VariableList, nil, &views)
	return views, err
}

// variable finds one variable, or says which ones there are.
func (a *app) variable(ctx context.Context, name string) (*control.VariableView, error) {
	if _, err := rollout.ParseName(name); err != nil {
		return nil, &usageError{err}
	}
	views, err := a.variables(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(views, func(v control.VariableView) bool { return string(v.Name) == name })
	if i >= 0 {
		return &views[i], nil
	}
	names := make([]string, len(views))
	for i, v := range views {
		names[i] = string(v.Name)
	}
	return nil, control.Errorf(control.NotFound, "there is no variable %s: %s", name, thereAre(names, "apply its document first"))
}

// thereAre lists what there is, as far as a line holds it.
func thereAre(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	words := "there are "
	if len(names) == 1 {
		words = "there is "
	}
	for i, n := range names {
		if i == 10 {
			return words + ", …"
		}
		if i > 0 {
			words += ", "
		}
		words += n
	}
	return words
}

func (a *app) variableTable(views []control.VariableView) {
	columns := []string{"NAME", "TYPE", "VALUE", "TOLD", "DRIFTED", "ROLLOUT"}
	if a.wide() {
		columns = append(columns, "ACTUAL", "UNENACTED", "ALLOWS")
	}
	t := newTable(columns...).numbers("DRIFTED", "UNENACTED")
	for _, v := range views {
		t.row(v.Name, v.Type, valueText(v.Value), counts(v.Hosts), v.Drifted, v.Rollout, counts(v.Actual), v.Unenacted, allows(&v.Variable))
	}
	t.print(a.out)
}

func (a *app) variableFields(v *control.VariableView) {
	var f fields
	f.add("name", v.Name)
	f.add("type", v.Type)
	f.add("value", valueText(v.Value))
	f.add("initial", valueText(v.Initial))
	f.add("allows", allows(&v.Variable))
	f.add("enact", v.Enact)
	f.add("told", counts(v.Hosts))
	f.add("actual", counts(v.Actual))
	f.add("drifted", plural(v.Drifted, "host"))
	if v.Unenacted > 0 {
		f.add("unenacted", plural(v.Unenacted, "host")+" told, without an enactor for it")
	}
	f.add("rollout", v.Rollout)
	f.print(a.out)
}
