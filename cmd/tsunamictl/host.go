package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

func (a *app) hostCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "host", Short: "Hosts: what they are, were told and run; pins"})
	var where, role string
	list := &cobra.Command{
		Use: "list", Short: "List hosts",
		Example: `  tsunamictl host list --role accesspoint
  tsunamictl host list --where 'labels.zone == "lon2-a" && role != "database"'`,
		Args: arguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := selection(where, role)
			if err != nil {
				return err
			}
			hosts, err := a.hosts(cmd.Context(), w)
			if err != nil {
				return err
			}
			return a.emit(hosts, func() { a.hostTable(hosts, time.Now()) })
		},
	}
	list.Flags().StringVar(&where, "where", "", "an `expression` over role, labels and host")
	list.Flags().StringVar(&role, "role", "", "hosts of this `role` only")
	var why string
	decommission := &cobra.Command{
		Use: "decommission HOST --why WHY", Short: "Take a host that is gone out of the fleet",
		Long: `Take a host that is gone out of the fleet: it no longer counts, and frees its
place in flight. Its history stays in the audit log. Stop its agent first.`,
		Example: `  tsunamictl host decommission web1.lon2.example.net --why "scrapped, ticket 812"`,
		Args:    arguments("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := hostArg(args[0])
			if err != nil {
				return err
			}
			if why == "" {
				return usagef("--why is missing: what the audit log shall say")
			}
			var v control.HostView
			if err := a.call(cmd.Context(), control.HostDecommission, control.HostRequest{Host: host, Why: why}, &v); err != nil {
				return err
			}
			return a.emit(v, func() {
				a.say("%s is decommissioned: it no longer counts in any role or rollout; its audit stays", host)
			})
		},
	}
	decommission.Flags().StringVar(&why, "why", "", "what the audit log shall say")
	cmd.AddCommand(list, decommission, a.pinCommand(), a.unpinCommand(),
		&cobra.Command{
			Use: "show HOST", Short: "Show one host", SuggestFor: []string{"status", "get", "describe"},
			Example: "  tsunamictl host show web1.lon2.example.net",
			Args:    arguments("HOST"),
			RunE: func(cmd *cobra.Command, args []string) error {
				v, err := a.host(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.emit(v, func() { a.hostFields(v, time.Now()) })
			},
		},
		&cobra.Command{
			Use: "desired HOST", Short: "Show what a host was last told",
			Example: "  tsunamictl host desired web1.lon2.example.net -o json",
			Args:    arguments("HOST"),
			RunE: func(cmd *cobra.Command, args []string) error {
				v, err := a.host(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if v.Desired == nil {
					v.Desired = rollout.Document{}
				}
				return a.emit(v.Desired, func() {
					t := newTable("VARIABLE", "DESIRED", "ACTUAL")
					for _, name := range slices.Sorted(maps.Keys(v.Desired)) {
						t.row(name, valueText(v.Desired[name]), valueText(v.Actual[name]))
					}
					t.print(a.out)
				})
			},
		},
	)
	return cmd
}

func hostArg(s string) (rollout.Host, error) {
	h, err := rollout.ParseHost(s)
	if err != nil {
		return "", &usageError{err}
	}
	return h, nil
}

// selection joins --where and --role to one expression.
func selection(where, role string) (string, error) {
	if _, err := rollout.ParseWhere(where); err != nil {
		return "", usagef("--where: %v", err)
	}
	if role == "" {
		return where, nil
	}
	if _, err := rollout.ParseWord("role", role); err != nil {
		return "", usagef("--role: %v", err)
	}
	if where == "" {
		return fmt.Sprintf("role == %q", role), nil
	}
	return fmt.Sprintf("role == %q && (%s)", role, where), nil
}

// hosts reads all pages.
func (a *app) hosts(ctx context.Context, where string) ([]control.HostView, error) {
	hosts := []control.HostView{}
	req := control.HostListRequest{Where: where}
	for {
		var page control.HostListResponse
		if err := a.call(ctx, control.HostList, req, &page); err != nil {
			return nil, err
		}
		hosts = append(hosts, page.Hosts...)
		if !page.More || len(page.Hosts) == 0 {
			return hosts, nil
		}
		req.After = page.Hosts[len(page.Hosts)-1].Host
	}
}

func (a *app) host(ctx context.Context, name string) (*control.HostView, error) {
	host, err := hostArg(name)
	if err != nil {
		return nil, err
	}
	v := new(control.HostView)
	return v, a.call(ctx, control.HostShow, control.HostRequest{Host: host}, v)
}

func online(v *control.HostView, now time.Time) string {
	switch {
	case v.Online:
		return "online"
	case v.LastSeen.IsZero():
		return "offline"
	}
	return "offline, seen " + relative(v.LastSeen, now)
}

func (a *app) hostTable(hosts []control.HostView, now time.Time) {
	columns := []string{"HOST", "ROLE", "ONLINE", "DESIRED", "ACTUAL"}
	if a.wide() {
		columns = append(columns, "LABELS", "CHECKS", "GENERATION", "APPLIED", "AGENT")
	}
	t := newTable(append(columns, "PROBLEMS")...).numbers("GENERATION", "APPLIED")
	for i := range hosts {
		v := &hosts[i]
		row := []any{v.Host, v.Role, online(v, now), pairs(v.Desired), pairs(v.Actual)}
		if a.wide() {
			row = append(row, pairs(v.Labels), checks(v.Checks), v.Generation, v.Applied, v.Version)
		}
		t.row(append(row, strings.Join(v.Problems, "; "))...)
	}
	t.print(a.out)
}

func checks(m map[rollout.ID]rollout.Check) string {
	status := make(map[rollout.ID]rollout.CheckStatus, len(m))
	for id, c := range m {
		status[id] = c.Status
	}
	return pairs(status)
}

func (a *app) hostFields(v *control.HostView, now time.Time) {
	var f fields
	f.add("host", v.Host)
	f.add("role", v.Role)
	f.add("labels", pairs(v.Labels))
	f.add("online", online(v, now))
	f.add("last seen", moment(v.LastSeen, now))
	f.add("generation", fmt.Sprintf("told %d, applied %d", v.Generation, v.Applied))
	f.add("agent", v.Version)
	if v.Pin != nil {
		f.add("pinned", pinText(v.Pin, now))
	}
	for _, p := range v.Problems {
		f.add("problem", p)
	}
	f.print(a.out)
	names := make(map[rollout.Name]bool)
	for n := range v.Desired {
		names[n] = true
	}
	for n := range v.Actual {
		names[n] = true
	}
	if len(names) > 0 {
		fmt.Fprintln(a.out)
		t := newTable("VARIABLE", "DESIRED", "ACTUAL", "STATUS", "ERROR")
		for _, n := range slices.Sorted(maps.Keys(names)) {
			e := v.Enact[n]
			status := string(e.Status)
			if e.Attempts > 1 {
				status += fmt.Sprintf(" (attempt %d)", e.Attempts)
			}
			t.row(n, valueText(v.Desired[n]), valueText(v.Actual[n]), status, e.Error)
		}
		t.print(a.out)
	}
	if len(v.Checks) > 0 {
		fmt.Fprintln(a.out)
		t := newTable("CHECK", "STATUS", "OUTPUT")
		for _, id := range slices.Sorted(maps.Keys(v.Checks)) {
			t.row(id, v.Checks[id].Status, v.Checks[id].Output)
		}
		t.print(a.out)
	}
}
