package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// planFlags are the flags of whatever shows a plan.
type planFlags struct {
	hosts   bool
	confirm durationFlag
}

func (o *planFlags) add(cmd *cobra.Command, when string) {
	cmd.Flags().BoolVar(&o.hosts, "hosts", false, when+"list every host with its time, and every day (json and yaml always do)")
	cmd.Flags().Var(&o.confirm, "confirm", when+"how long a host is assumed to take until it confirms, such as 5m: what the in-flight limits cost then (default: no time)")
}

func (a *app) planCommand() *cobra.Command {
	var files []string
	var o planFlags
	cmd := &cobra.Command{
		Use: "plan (ROLLOUT | -f FILE)", Short: "Show which host will be told when", SuggestFor: []string{"preview", "schedule"},
		Long: `Show what will happen to which host when, if nothing holds the rollout: of one
that has been started, or of a document that hasn't. The order and the times are
those that the rollout will follow.

It shows the end, the hosts a day, by role and by zone, the times in which nobody
is told, what the in-flight limits cost if hosts take --confirm to confirm, and
conflicts with blackouts, pins and other rollouts. Where the rollout names
objectives it says how soon the guard would stop a change that breaks hosts, as
simulated on this plan. 'rollout start … --dry-run' shows the same.`,
		Example: `  tsunamictl rollout plan docker-1-12-3
  tsunamictl rollout plan -f docker.yaml --confirm 5m
  tsunamictl rollout plan -f docker.yaml --hosts`,
		Args: arguments("[ROLLOUT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 1) == (len(files) > 0) {
				return usagef("wants either the name of a ROLLOUT or -f FILE")
			}
			if len(args) == 1 {
				id, err := rolloutArg(args[0])
				if err != nil {
					return err
				}
				return a.plan(cmd.Context(), control.PlanRequest{ID: id}, &o)
			}
			docs, err := a.read(files)
			if err != nil {
				return err
			}
			var found []control.Located
			for _, d := range docs {
				if d.Rollout != nil {
					found = append(found, d)
				}
			}
			if len(found) != 1 {
				return usagef("%s in these files: want exactly one to plan", plural(len(found), "rollout"))
			}
			return locate(found, a.plan(cmd.Context(), control.PlanRequest{Rollout: found[0].Rollout}, &o))
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "`FILE` with the rollout's document, a directory, or - for the standard input")
	o.add(cmd, "")
	return cmd
}

// What a table shows of a plan unless all is asked for.
const (
	planEnds     = 10 // hosts from either end
	planDays     = 31
	planClosures = 10
)

func (a *app) plan(ctx context.Context, req control.PlanRequest, o *planFlags) error {
	if table := a.output == "table" || a.output == "wide"; table && !o.hosts {
		req.First, req.Last = planEnds, planEnds
	}
	req.Confirm = rollout.Duration(o.confirm)
	p := control.PlanView{Hosts: []control.PlanHost{}}
	if err := a.call(ctx, control.RolloutPlan, req, &p); err != nil {
		return err
	}
	return a.emit(p, func() { a.planTable(&p, o, time.Now()) })
}

func (a *app) planTable(p *control.PlanView, o *planFlags, now time.Time) {
	a.planFields(p, o, now)
	if len(p.Hosts)+p.Omitted == 0 {
		if p.Target == 0 {
			fmt.Fprintln(a.out, "\nit selects no host now; hosts that join and match will be told")
		} else {
			fmt.Fprintln(a.out, "\nnobody is left to be told")
		}
		return
	}
	columns := 80
	if a.isTerminal {
		if n, _, err := term.GetSize(a.terminal); err == nil {
			columns = n
		}
	}
	if lines := a.chart(p, columns); len(lines) > 0 {
		fmt.Fprintf(a.out, "\n%s\n", strings.Join(lines, "\n"))
	}
	a.planDays(p, o)
	a.planRoles(p, now)
	if len(p.Zones) > 0 {
		fmt.Fprintln(a.out)
		t := newTable("ZONE", "HOSTS", "FIRST", "LAST").numbers("HOSTS")
		for _, z := range p.Zones {
			t.row(z.Zone, z.Hosts, local(z.First), local(z.Last))
		}
		t.print(a.out)
	}
	a.planClosures(p, o)
	a.planHosts(p, o, now)
}

func (a *app) planFields(p *control.PlanView, o *planFlags, now time.Time) {
	var f fields
	f.add("rollout", p.ID)
	f.add("starts", moment(p.Starts, now))
	if p.Clock.After(p.Starts) {
		f.add("clock starts", moment(p.Clock, now)+", after the canary")
	}
	if p.Length > 0 {
		f.add("clock runs", spaced(time.Duration(p.Length)))
	}
	f.add("ends", cmp.Or(moment(p.Ends, now), "never, as far as its calendar is known"))
	f.add("target", fmt.Sprintf("%s: %d told, %d still to be told", plural(p.Target, "host"), p.Told, len(p.Hosts)+p.Omitted))
	f.add("ends later for", heldText(p.Costs))
	if o.confirm > 0 {
		f.add("assuming", fmt.Sprintf("that a host confirms %s after it is told", o.confirm.String()))
	}
	for i := range p.Power {
		f.add("guard", powerText(&p.Power[i]))
	}
	for _, c := range p.Conflicts {
		f.add("conflict", c)
	}
	if p.Refused != "" {
		f.add("but", "it can't be started now: "+p.Refused)
	}
	f.print(a.out)
}

// planDays prints the hosts a day. Those in the middle of a long plan are left
// out unless all is asked for.
func (a *app) planDays(p *control.PlanView, o *planFlags) {
	if len(p.Days) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	t := newTable("DAY (UTC)", "HOSTS", "TOTAL", "").numbers("HOSTS", "TOTAL")
	for i, d := range p.Days {
		if hidden := len(p.Days) - planDays; hidden > 0 && !o.hosts && i >= planDays/2+1 && i < planDays/2+1+hidden {
			if i == planDays/2+1 {
				t.row(fmt.Sprintf("… %d more", hidden))
			}
			continue
		}
		share := ""
		if p.Target > 0 {
			share = percent(float64(d.Total) / float64(p.Target))
		}
		t.row(d.Day, d.Hosts, d.Total, share)
	}
	t.print(a.out)
}

func (a *app) planRoles(p *control.PlanView, now time.Time) {
	if len(p.Roles) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	t := newTable("ROLE", "HOSTS", "TARGET", "TOLD", "NEXT").numbers("HOSTS", "TARGET", "TOLD")
	for _, r := range p.Roles {
		t.row(r.Role, r.Hosts, r.Target, r.Told, relative(r.Next, now))
	}
	t.print(a.out)
}

func (a *app) planClosures(p *control.PlanView, o *planFlags) {
	if len(p.Closed) == 0 {
		return
	}
	fmt.Fprintln(a.out)
	t := newTable("NOBODY IS TOLD FROM", "UNTIL", "REASON")
	for i, c := range p.Closed {
		if i == planClosures && !o.hosts {
			t.row(fmt.Sprintf("… %d more", len(p.Closed)-i))
			break
		}
		t.row(local(c.From), local(c.Until), c.Reason)
	}
	t.print(a.out)
}

func (a *app) planHosts(p *control.PlanView, o *planFlags, now time.Time) {
	fmt.Fprintln(a.out)
	t := newTable("HOST", "ROLE", "POSITION", "DUE", "").numbers("POSITION")
	for i, h := range p.Hosts {
		if p.Omitted > 0 && !o.hosts && i == len(p.Hosts)/2 {
			t.row(fmt.Sprintf("… %d more", p.Omitted))
		}
		when := relative(h.Due, now)
		if h.Canary {
			when += ", canary"
		}
		t.row(h.Host, h.Role, h.Position, local(h.Due), when)
	}
	t.print(a.out)
	switch {
	case p.Omitted > 0 && !o.hosts:
		fmt.Fprintf(a.out, "not listed: %s in between; --hosts lists every host\n", plural(p.Omitted, "host"))
	case p.Omitted > 0:
		fmt.Fprintf(a.out, "not listed: %s; an answer holds no more\n", plural(p.Omitted, "more host"))
	}
}
