package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

var update = flag.Bool("update", false, "write the golden files anew")

// pasts are what the audit log may know of a moment.
func pasts() []control.Past {
	hour := func(h int) time.Time { return then.Add(time.Duration(h) * time.Hour) }
	told := control.Past{Host: "h1", Variable: "v", At: hour(-4), Value: text("2"), Previous: text("1"), Told: hour(-6), Rollout: "r", Reason: "the ramp is at 3.00%", Actor: "alice"}
	next := control.AuditRecord{Time: hour(-2), Variable: "v", Value: text("3"), Previous: text("2"), Rollout: "s", Reason: "the ramp is at 9.00%", Actor: "scheduler"}
	end := control.AuditRecord{Time: hour(-3), Reason: "decommissioned: sold\x1b[2J", Actor: "bob"}
	vary := func(change func(p *control.Past)) control.Past {
		p := told
		change(&p)
		return p
	}
	none := func(m control.Missing) control.Past {
		return control.Past{Host: "h1", Variable: "v", At: hour(-4), Missing: m, LogBegins: hour(-3)}
	}
	removed, before := none(control.Removed), none(control.BeforeLog)
	removed.Previous, removed.Told, removed.Rollout, removed.Actor, removed.Reason = text("1"), hour(-6), "r", "alice", "the ramp is at 3.00%"
	before.Later = &next
	afresh := none(control.NotTold)
	afresh.Previous = text("1")
	return []control.Past{
		vary(func(p *control.Past) { p.Confirmed, p.ConfirmedAt, p.Later = true, hour(-5), &next }),
		vary(func(p *control.Past) { p.ConfirmedAt, p.Later = hour(-3), &end }),
		vary(func(p *control.Past) { p.Later = &next }),
		vary(func(p *control.Past) {
			p.ByHand = &control.AuditRecord{Time: hour(-5), Reason: "written by hand: {}"}
		}),
		vary(func(p *control.Past) {
			p.ConfirmedUnknown, p.Decommissioned = true, &end
			p.Later = &control.AuditRecord{Time: hour(-1), Variable: "v", Reason: "the ramp is at 9.00%", Rollout: "s", Actor: "bob"}
		}),
		vary(func(p *control.Past) {
			p.Confirmed, p.ConfirmedUnknown = true, true
			p.Reason, p.Actor, p.Previous, p.LogBegins = "", "", rollout.Value{}, hour(-3)
		}),
		none(control.NoDocument), none(control.NotTold), afresh, none(control.BeforeLog), before, removed,
	}
}

// gone is what is known of a host without a value.
func gone(p control.Past, before *control.Past) whyView {
	v := whyView{WhyView: control.WhyView{Host: "h1", Variable: "v", Actual: text("1")}, Before: before}
	v.add(&p)
	return v
}

// What people see, to the letter.
func TestGolden(t *testing.T) {
	docker := text("1.12.3")
	audit := []control.AuditRecord{
		{Sequence: 1, Time: then, Kind: "desired", Host: "web1.lon2.example.net", Variable: "docker_version", Previous: text("1.10"), Value: docker, Rollout: "docker-1-12-3", Reason: "the ramp is at 25.00%", Actor: "alice", Origin: 17, Generation: 3},
		{Sequence: 2, Time: then.Add(time.Minute), Kind: "abort", Name: "docker-1-12-3", Rollout: "docker-1-12-3", Reason: "users see errors", Origin: 19},
		{Sequence: 120, Time: then.Add(time.Hour), Kind: "desired", Host: "db1.example.net", Reason: "written by hand: 自由\x1b[2J", Origin: 2100},
	}
	views := []control.RolloutView{running(), frozen()}
	for name, print := range map[string]func(a *app){
		"rollout-list":       func(a *app) { a.rolloutTable(views, then) },
		"rollout-list-wide":  func(a *app) { a.output = "wide"; a.rolloutTable(views, then) },
		"rollout-list-color": func(a *app) { a.isTerminal = true; a.rolloutTable(views, then) },
		"rollout-show":       func(a *app) { a.rolloutFields(&views[0], then) },
		"rollout-show-frozen": func(a *app) {
			v := frozen()
			a.rolloutFields(&v, then)
		},
		"rollout-show-late": func(a *app) {
			v := late()
			v.Why = ""
			a.rolloutFields(&v, then)
		},
		"rollout-show-rollback": func(a *app) {
			v := frozen()
			v.ID, v.RollbackOf, v.To, v.Spec = "agent-2-rollback", "agent-2", rollout.Value{}, nil
			a.rolloutFields(&v, then)
		},
		"plan": func(a *app) { p := plan(); a.planTable(&p, &planFlags{confirm: durationFlag(5 * time.Minute)}, then) },
		"plan-long": func(a *app) {
			p := plan()
			for i := range 40 {
				p.Days = append(p.Days, control.PlanDay{Day: then.AddDate(0, 1, i).Format(time.DateOnly), Total: 37})
				p.Closed = append(p.Closed, control.PlanClosure{From: then.AddDate(0, 1, i), Until: then.AddDate(0, 1, i).Add(time.Hour), Reason: "in the blackout lunch"})
			}
			p.Refused = "docker-1-12-3 of docker_version is running"
			a.planTable(&p, &planFlags{}, then)
		},
		"plan-never": func(a *app) {
			p := plan()
			p.Ends, p.Curve, p.Days, p.Closed, p.Zones, p.Hosts, p.Target, p.Omitted = time.Time{}, nil, nil, nil, nil, p.Hosts[:2], 4, 1
			a.planTable(&p, &planFlags{}, then)
		},
		"plan-nobody": func(a *app) { a.planTable(&control.PlanView{ID: "r", Starts: then, Ends: then}, &planFlags{}, then) },
		"chart": func(a *app) {
			p := plan()
			a.isTerminal, a.noColor = true, true
			fmt.Fprintln(a.out, strings.Join(a.chart(&p, 60), "\n"))
		},
		"chart-color": func(a *app) {
			p := plan()
			a.isTerminal = true
			fmt.Fprintln(a.out, strings.Join(a.chart(&p, 200), "\n"))
		},
		"chart-seconds": func(a *app) {
			p := control.PlanView{Starts: then, Ends: then.Add(40 * time.Second), Target: 3, Curve: []control.PlanPoint{{Time: then.Add(5 * time.Second), Hosts: 1}, {Time: then.Add(20 * time.Second), Hosts: 2}, {Time: then.Add(40 * time.Second), Hosts: 3}}}
			fmt.Fprintln(a.out, strings.Join(a.chart(&p, 50), "\n"))
		},
		"objectives":      func(a *app) { a.objectiveTable(objectives()) },
		"objectives-wide": func(a *app) { a.output = "wide"; a.objectiveTable(objectives()) },
		"objective-show": func(a *app) {
			all := append(objectives(), control.ObjectiveView{Objective: slo.Objective{Name: "compares", Check: "port"}})
			for i := range all {
				a.objectiveFields(&all[i])
				fmt.Fprintln(a.out)
			}
		},
		"rollout-show-guarded": func(a *app) {
			v := guarded()
			a.rolloutFields(&v, then)
		},
		"rollout-show-guarded-wide": func(a *app) {
			a.output = "wide"
			v := guarded()
			v.Guard.Clear, v.Guard.Why = false, "the guard\x1b[2J has only just begun to listen to hosts"
			v.Guard.Standings = v.Guard.Standings[:1]
			a.rolloutFields(&v, then)
		},
		"rollout-show-harmful": func(a *app) {
			v := harmful()
			a.rolloutFields(&v, then)
		},
		"rollout-show-breached": func(a *app) {
			v := harmful()
			e := v.Abort.Evidence
			e.Kind, e.Of, v.Guard = slo.Breach, len(e.Failed), nil
			e.Standings = append(e.Standings, slo.Standing{Objective: "api", E: 1e300, Bar: 100})
			a.rolloutFields(&v, then)
		},
		"plan-power": func(a *app) {
			p := plan()
			p.Power = power()
			a.planFields(&p, &planFlags{}, then)
		},
		"objective-test": func(a *app) {
			for _, o := range append(objectives(), control.ObjectiveView{Objective: slo.Objective{Name: "compares", Check: "port"}}) {
				all := inventory(string(o.Check))
				t := testOf(&o.Objective, all, &control.Failures{
					From: then.Add(-24 * time.Hour), Until: then,
					Hosts: map[rollout.Host]slo.How{"web1.example.net": slo.FailedCheck, "gone.example.net": slo.FailedSilence},
				})
				a.tested(&t)
				fmt.Fprintln(a.out)
			}
			o := objectives()[0].Objective
			none := testOf(&o, nil, &control.Failures{})
			a.tested(&none)
			none = testOf(&o, inventory("other"), &control.Failures{})
			a.tested(&none)
		},
		"replay": func(a *app) { a.replayed(replayed()) },
		"replay-nothing": func(a *app) {
			r := replayed()
			r.Verdicts, r.Events, r.Unclear, r.Unread, r.Begins = nil, r.Events[:2], "nobody\x1b[2J is heard", 0, time.Time{}
			a.replayed(r)
		},
		"diff":      func(a *app) { a.differences(applying(), then) },
		"dry-run":   func(a *app) { a.applied(applying(), then) },
		"blackouts": func(a *app) { a.blackoutTable(blackouts(), then) },
		"host-pinned": func(a *app) {
			h := hosts()[0]
			h.Pin = &rollout.Pin{Host: h.Host, Values: rollout.Document{"docker_version": text("1.10")}, Until: then.Add(time.Hour), Why: "ticket 812", By: "bob"}
			a.hostFields(&h, then)
		},
		"host-list":     func(a *app) { a.hostTable(hosts(), then) },
		"host-wide":     func(a *app) { a.output = "wide"; a.hostTable(hosts(), then) },
		"host-show":     func(a *app) { h := hosts(); a.hostFields(&h[0], then) },
		"variable-wide": func(a *app) { a.output = "wide"; a.variableTable(variables()) },
		"variable-show": func(a *app) { v := variables(); a.variableFields(&v[0]) },
		"audit":         func(a *app) { a.auditTable(audit) },
		"audit-wide":    func(a *app) { a.output = "wide"; a.auditTable(audit) },
		"status": func(a *app) {
			a.statusFields(&statusView{StatusView: control.StatusView{
				StopView: control.StopView{Stopped: true, Stop: &control.AbortView{Sequence: 9, Why: "incident 4711"}},
				Leader:   "ctl1", Since: then.Add(-100 * time.Hour), Version: "0.3.0", Hosts: 42, Online: 40, Warnings: []string{"h1: overwritten by hand"},
			}}, then)
		},
		"watch": func(a *app) {
			v := running()
			fmt.Fprintln(a.out, strings.Join(a.picture(&v, then, 80, 24), "\n"))
		},
		"watch-small": func(a *app) {
			v := frozen()
			v.Roles = append(v.Roles, v.Roles...)
			fmt.Fprintln(a.out, strings.Join(a.picture(&v, then, 40, 9), "\n"))
		},
		"why": func(a *app) {
			for _, v := range []whyView{
				{WhyView: control.WhyView{Host: "h1", Variable: "v"}},
				gone(pasts()[11], &pasts()[0]),
				gone(pasts()[11], nil),
				gone(pasts()[9], nil),
				gone(pasts()[4], nil),
				gone(pasts()[8], nil),
				gone(pasts()[7], nil),
				{WhyView: control.WhyView{Host: "h1", Variable: "v", Actual: text("1"), Blocked: []string{"no rollout of this variable is under way"}}},
				{WhyView: control.WhyView{Host: "h1", Variable: "v", Value: text("2"), Actual: text("2"), Told: then, Rollout: "r", Reason: "the ramp is at 3.00%", Actor: "alice"}, Previous: text("1")},
				{WhyView: control.WhyView{Host: "h1", Variable: "v", Value: text("2"), Actual: text("1"), Told: then, Reason: "the host's first document", Actor: "scheduler", Next: "r", To: text("3"), Due: then.Add(26 * time.Hour), Blocked: []string{"paused: lunch", "the host is offline"}}},
				{WhyView: control.WhyView{Host: "h1", Variable: "v", Value: text("2"), Actual: text("2"), Told: then, Confirmed: true}, ConfirmedAt: then.Add(time.Minute)},
				{WhyView: control.WhyView{Host: "h1", Variable: "v", Value: text("2"), Actual: text("1"), Told: then}, ConfirmedAt: then.Add(time.Minute)},
				{WhyView: control.WhyView{Host: "h1", Variable: "v", Value: text("2"), Actual: text("2"), Told: then}, ConfirmedAt: then.Add(time.Minute)},
			} {
				a.sayAll(explain(&v, then))
				fmt.Fprintln(a.out)
			}
		},
		"why-past": func(a *app) {
			for _, p := range pasts() {
				a.sayAll(explainPast(&p, then))
				fmt.Fprintln(a.out)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			print(&app{out: &b, output: "table"})
			file := filepath.Join("testdata", "golden", name+".txt")
			if *update {
				if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, b.Bytes()) {
				t.Errorf("got:\n%s\nwant:\n%s", b.Bytes(), want)
			}
			if strings.Contains(b.String(), "\x1b[2J") {
				t.Error("an escape sequence from elsewhere reached the terminal")
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	located := &control.LocatedError{File: "f", Line: 1, Column: 1}
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("disk"), exitFailed},
		{usagef("what?"), exitUsage},
		{errors.Join(errors.New("x"), located), exitUsage},
		{control.Errorf(control.Usage, "x"), exitUsage},
		{control.Errorf(control.Refused, "x"), exitRefused},
		{control.Errorf(control.NotFound, "x"), exitFailed},
		{control.Errorf(control.Unavailable, "x"), exitFailed},
		{fmt.Errorf("watch: %w", context.DeadlineExceeded), exitTimedOut},
		{locate([]control.Located{{File: "f"}}, &control.Error{Code: control.Refused, Faults: []control.Fault{{Problem: "x"}}}), exitRefused},
		{locate([]control.Located{{File: "f"}}, &control.Error{Code: control.Usage, Faults: []control.Fault{{Document: 7, Problem: "x"}, {Problem: "y"}}}), exitUsage},
		{byFlag(&control.Error{Code: control.Refused, Faults: []control.Fault{{Problem: "x"}}}), exitRefused},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	for _, c := range []struct {
		args string
		want int
	}{
		{"version", exitDone}, {"--help", exitDone}, {"nope", exitUsage}, {"stop", exitUsage}, {"status --server nats://127.0.0.1:1", exitFailed},
	} {
		var out, errs bytes.Buffer
		if got := run(t.Context(), strings.Fields(c.args), strings.NewReader(""), &out, &errs); got != c.want {
			t.Errorf("%s: %d, want %d: %s", c.args, got, c.want, &errs)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Microsecond: "0ms", 250 * time.Millisecond: "250ms", 1499 * time.Millisecond: "1s", 59 * time.Second: "59s", 125 * time.Second: "2m5s", 3*time.Hour + 12*time.Minute + 29*time.Second: "3h12m",
		time.Hour: "1h", 26*time.Hour + 31*time.Minute: "1d3h", 336 * time.Hour: "14d", 23*time.Hour + 59*time.Minute + 59*time.Second: "24h",
	} {
		want = strings.Replace(want, "24h", "1d", 1)
		if got := short(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
	if got := relative(then.Add(-time.Minute), then) + relative(then, then) + relative(then.Add(time.Hour), then) + relative(time.Time{}, then); got != "1m agonowin 1h" {
		t.Errorf("relative: %s", got)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{"alice": "alice", `CORP\Alice.B`: "alice-b", "_svc_": "svc", "": "operator", "é": "operator", strings.Repeat("a", 99): strings.Repeat("a", 63)} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		if _, err := rollout.ParseID("operator", clean(in)); err != nil {
			t.Error(err)
		}
	}
}

func TestBarsStayInTheirBounds(t *testing.T) {
	for _, c := range [][5]int{{0, 0, 0, 0, 20}, {5, 3, 9, 4, 20}, {-1, -1, -1, 10, 20}, {1 << 40, 1 << 40, 1 << 40, 1 << 40, 100}, {1, 2, 3, 4, -5}} {
		if got, want := width(bar(c[0], c[1], c[2], c[3], c[4])), max(c[4], 10)+2; got != want {
			t.Errorf("%v: %d wide, want %d", c, got, want)
		}
	}
	if got := bar(10, 20, 30, 40, 20); got != "[#####=====.....|....]" {
		t.Errorf("got %s", got)
	}
	if got := fit("自由自由", 5); width(got) > 5 || got != "自由…" {
		t.Errorf("got %q", got)
	}
}

func TestEndedAndPassing(t *testing.T) {
	view := func(s rollout.State) *control.RolloutView {
		return &control.RolloutView{ID: "r", State: s, Fraction: 0.4, Rollback: "r-rollback"}
	}
	for _, c := range []struct {
		state       rollout.State
		until       string
		done, fails bool
	}{
		{rollout.StateRunning, "completed", false, false},
		{rollout.StateCompleted, "completed", true, false},
		{rollout.StateFrozen, "completed", true, true},
		{rollout.StateFrozen, "running", false, false},
		{rollout.StateFrozen, "frozen", true, false},
		{rollout.StateCancelled, "running", true, true},
		{rollout.StateSuperseded, "completed", true, true},
		{rollout.StateCompleted, "paused", true, true},
		{rollout.StatePaused, "completed", true, true}, // its hosts are taken back
		{rollout.StatePaused, "running", false, false},
		{rollout.StateRunning, "50%", false, false},
		{rollout.StateRunning, "40%", true, false},
		{rollout.StateFrozen, "40%", true, false},
		{rollout.StateFrozen, "50%", true, true},
		{rollout.StateCompleted, "50%", true, true},
	} {
		g, err := parseGoal(c.until)
		if err != nil {
			t.Fatal(err)
		}
		done, err := ended(view(c.state), g)
		if done != c.done || (err != nil) != c.fails {
			t.Errorf("%s until %s: %t, %v", c.state, c.until, done, err)
		}
	}
	for _, s := range []string{"done", "50", "0%", "130%", "%"} {
		if g, err := parseGoal(s); err == nil {
			t.Errorf("%q is a goal: %v", s, g)
		}
	}
	if !passing(control.Errorf(control.Unavailable, "x")) || !passing(fmt.Errorf("x: %w", context.DeadlineExceeded)) || passing(control.Errorf(control.NotFound, "x")) || passing(errors.New("x")) {
		t.Error("a watch outlasts the wrong errors")
	}
}
