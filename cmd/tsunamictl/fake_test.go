package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// then is the time of what the canned answers tell.
var then = time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)

func text(s string) rollout.Value {
	v, err := rollout.StringValue(s)
	if err != nil {
		panic(err)
	}
	return v
}

func variables() []control.VariableView {
	return []control.VariableView{{
		Variable: rollout.Variable{Name: "docker_version", Type: rollout.String, Allowed: []rollout.Value{text("1.10"), text("1.12.3")}, Initial: text("1.10"), Value: text("1.10")},
		Hosts:    map[string]int{"1.10": 10, "1.12.3": 30, "": 2}, Actual: map[string]int{"1.10": 12, "1.12.3": 30}, Drifted: 2, Unenacted: 1, Rollout: "docker-1-12-3",
	}, {
		Variable: rollout.Variable{Name: "workers", Type: rollout.Integer, Min: new(1.0), Max: new(64.0)},
	}}
}

func running() control.RolloutView {
	return control.RolloutView{
		ID: "docker-1-12-3", Variable: "docker_version", To: text("1.12.3"), State: rollout.StateRunning,
		Target: 40, Told: 30, Confirmed: 28, Failed: 1, InFlight: 2, Limit: 2, Fraction: 0.75, Planned: 31,
		Reason: "2 hosts are told and not confirmed, the limit is 2", ReasonCode: rollout.InFlightLimit,
		Ends: then.Add(82 * time.Hour), Elapsed: rollout.Duration(252 * time.Hour), Over: rollout.Duration(336 * time.Hour), Next: then.Add(3*time.Hour + 12*time.Minute),
		Author: "alice", By: "alice", Created: then.Add(-252 * time.Hour), Changed: then.Add(-252 * time.Hour), Why: "started",
		Roles: []control.RoleView{
			{Role: "accesspoint", Hosts: 30, Target: 30, Told: 22, Confirmed: 20, Failed: 1, InFlight: 2, Next: then.Add(3*time.Hour + 12*time.Minute)},
			{Role: "db", Hosts: 12, Target: 10, Told: 8, Confirmed: 8},
		},
		Waiting: []control.FlightView{
			{Host: "web1.lon2.example.net", Role: "accesspoint", Since: then.Add(-26 * time.Hour), Status: rollout.EnactFail, Error: "dpkg: out of\x1b[2J space", Online: true},
			{Host: "web17.lon2.example.net", Role: "accesspoint", Since: then.Add(-5 * time.Minute), Status: rollout.Enacting},
		},
		Spec: &rollout.Spec{Name: "docker-1-12-3", Variable: "docker_version", To: text("1.12.3"), Where: `role != "lab"`, Ramp: rollout.Ramp{Over: rollout.Duration(336 * time.Hour)}},
	}
}

func frozen() control.RolloutView {
	v := running()
	v.ID, v.State, v.Reason, v.Ends, v.Next = "agent-2", rollout.StateFrozen, "frozen by abort 4711: users see errors", time.Time{}, time.Time{}
	v.Abort = &control.AbortView{Sequence: 4711, Why: "users see errors", Actor: "bob", Time: then.Add(-time.Hour)}
	v.NotEnacted = 2
	return v
}

func hosts() []control.HostView {
	return []control.HostView{{
		Host: "web1.lon2.example.net", Role: "accesspoint", Labels: map[rollout.Word]rollout.Word{"zone": "lon2-a", "rack": "r12"},
		Desired: rollout.Document{"docker_version": text("1.12.3")}, Actual: rollout.Document{"docker_version": text("1.10"), "kernel": text("6.1")}, Online: true,
		Checks: map[rollout.ID]rollout.Check{"docker": {Status: rollout.Failing, Output: "can't connect"}},
		Enact:  map[rollout.Name]rollout.Enact{"docker_version": {Status: rollout.Retrying, Attempts: 3, Error: "exit status 1"}}, Generation: 7, Applied: 7,
		LastSeen: then.Add(-3 * time.Second), Version: "0.3.0", Problems: []string{"docker_version: enacting fails"},
	}, {
		Host: "a-host-with-a-rather-long-name.in-some.data-centre.example.net", Role: "db", Desired: rollout.Document{}, LastSeen: then.Add(-50 * time.Hour),
	}}
}

// plan is of a canary of a day, a window of seven hours a day, and a week.
func plan() control.PlanView {
	day := 24 * time.Hour
	p := control.PlanView{
		ID: "docker-1-12-3", Starts: then, Clock: then.Add(day), Length: rollout.Duration(49 * time.Hour), Ends: then.Add(8 * day), Target: 40, Told: 2, Omitted: 34,
		Roles: []control.RoleView{{Role: "accesspoint", Hosts: 30, Target: 28, Next: then}, {Role: "db", Hosts: 12, Target: 12, Told: 2, Next: then.Add(day)}},
		Zones: []control.PlanZone{{Zone: "lon2-a", Hosts: 20, First: then, Last: then.Add(7 * day)}, {Hosts: 18, First: then.Add(time.Hour), Last: then.Add(8 * day)}},
		Costs: []control.HeldView{{Reason: rollout.InFlightLimit, For: rollout.Duration(3 * time.Hour)}, {Reason: rollout.RoleInFlightLimit, For: rollout.Duration(90 * time.Second)}},
		Conflicts: []string{
			"blackout christmas begins before it ends",
			"3 hosts are offline\x1b[2J; they are told when they are back",
		},
	}
	for i := range 4 {
		p.Hosts = append(p.Hosts, control.PlanHost{Host: rollout.Host(fmt.Sprintf("web%d.example.net", i)), Role: "accesspoint", Position: i + 1 + i/2*36, Due: then.Add(time.Duration(i) * 50 * time.Hour), Canary: i == 0})
	}
	p.Curve = append(p.Curve, control.PlanPoint{Time: then, Hosts: 2})
	for i := range 7 {
		opens := then.Add(time.Duration(i+1) * day)
		told := 2 + 5*i
		for n := range 6 {
			p.Curve = append(p.Curve, control.PlanPoint{Time: opens.Add(time.Duration(n) * 84 * time.Minute), Hosts: min(40, told+n)})
		}
		p.Days = append(p.Days, control.PlanDay{Day: opens.Format(time.DateOnly), Hosts: 5, Total: told + 5})
		p.Closed = append(p.Closed, control.PlanClosure{From: opens.Add(7 * time.Hour), Until: opens.Add(day), Reason: "outside its windows"})
	}
	p.Curve = append(p.Curve, control.PlanPoint{Time: p.Ends, Hosts: 40})
	return p
}

func blackouts() []control.BlackoutView {
	zone := rollout.Zone("Europe/Stockholm")
	return []control.BlackoutView{{
		Blackout: rollout.Blackout{Name: "christmas", From: then.Add(-time.Hour), Until: then.Add(336 * time.Hour), Why: "change \x1b[2Jfreeze"},
		InForce:  true, Next: then.Add(336 * time.Hour), Holds: []rollout.ID{"docker-1-12-3", "agent-2"},
	}, {
		Blackout: rollout.Blackout{Name: "weekends", Every: []rollout.Rule{{Days: []rollout.Weekday{"sat", "sun"}, Zone: zone}, {Months: []rollout.Month{"dec"}, MonthDays: []rollout.MonthDays{{First: 24, Last: 26}}}}, Where: `role != "lab"`},
		Next:     then.Add(4 * 24 * time.Hour),
	}}
}

// late is a rollout with all that can be said of one.
func late() control.RolloutView {
	v := running()
	v.Started, v.PlannedEnd, v.Late = then.Add(-252*time.Hour), then.Add(15*time.Hour), rollout.Duration(67*time.Hour)
	v.Held = []control.HeldView{{Reason: rollout.OutsideWindow, For: rollout.Duration(64 * time.Hour)}, {Reason: rollout.InFlightLimit, For: rollout.Duration(3 * time.Hour)}}
	v.Approvals = []rollout.Approval{{By: "bob", Time: then.Add(-260 * time.Hour), Why: "read it"}, {By: "carol", Time: then.Add(-time.Hour), Wave: 2}}
	v.ApprovalsNeeded, v.Pinned = 1, 3
	v.ReasonCode, v.Reason = rollout.AwaitingApproval, "waits for an approval of wave 3"
	v.Spec.Ramp = rollout.Ramp{Shape: rollout.Waves, Waves: []rollout.Wave{
		{Percent: 1, Hold: rollout.Duration(24 * time.Hour)}, {Percent: 10, Hold: rollout.Duration(48 * time.Hour), Approval: true}, {Percent: 100},
	}}
	v.Spec.Canary = &rollout.Canary{PerRole: 1, Where: `labels.zone == "lon2-a"`, Bake: rollout.Duration(24 * time.Hour)}
	v.Spec.Exclude = []rollout.Host{"db1.example.net"}
	v.Spec.Windows = []rollout.Rule{{Days: []rollout.Weekday{"mon", "tue", "wed", "thu"}, From: rollout.TimeOfDay(9 * time.Hour), To: rollout.TimeOfDay(16 * time.Hour), Zone: "Europe/Stockholm"}}
	v.Spec.Supersedes = "docker-1-12-2"
	return v
}

// applying is what a service says of documents that exist already.
func applying() *control.ApplyResponse {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	return &control.ApplyResponse{DryRun: true, Results: []control.ApplyResult{
		{Kind: control.KindVariable, Name: "same", Action: "unchanged"},
		{Kind: control.KindRollout, Name: "docker-1-12-3", Action: "changed", Changes: []control.FieldChange{
			{Field: "ramp.over", From: raw(`"2w"`), To: raw(`"3w"`)}, {Field: "settle", To: raw(`"1h"`)}, {Field: "limits", From: raw("[ {\"atMost\": 5} ]")},
		}, Plan: &control.PlanChange{EndsBefore: then.Add(48 * time.Hour), Ends: then.Add(96 * time.Hour), TargetBefore: 40, Target: 50, Told: 30}},
		{Kind: control.KindRollout, Name: "new", Action: "created", Note: "it waits for docker-1-12-3", Changes: []control.FieldChange{{Field: "to", To: raw(`"a\u001b[2Jb"`)}},
			Plan: &control.PlanChange{Ends: then.Add(time.Hour), Target: 1}},
		{Kind: control.KindPin, Name: "web1.example.net", Action: "changed", Changes: []control.FieldChange{{Field: "values.docker_version", From: raw(`"1.10"`), To: raw(`"1.12.3"`)}}},
	}}
}

// fake answers as a scheduler might.
type fake struct {
	mu        sync.Mutex
	state     map[rollout.ID]rollout.State
	blackouts []control.BlackoutView
}

func newFake() *fake {
	return &fake{
		state: map[rollout.ID]rollout.State{"docker-1-12-3": rollout.StateRunning, "agent-2": rollout.StateFrozen, "done": rollout.StateCompleted, "waits": rollout.StatePending, "untold": rollout.StateRunning, "waiting": rollout.StateRunning, "canaried": rollout.StateRunning, "layer": rollout.StateCompleted, "over": rollout.StateCancelled,
			"harmful": rollout.StateFrozen, "undone": rollout.StatePaused, "undone-rollback": rollout.StateCompleted, "other": rollout.StatePaused, "other-rollback": rollout.StateRunning},
		blackouts: blackouts(),
	}
}

func (f *fake) view(id rollout.ID) (*control.RolloutView, error) {
	s, ok := f.state[id]
	if !ok {
		return nil, fmt.Errorf("rollout %s: %w", id, rollout.ErrNotFound)
	}
	v := running()
	if s == rollout.StateFrozen {
		v = frozen()
	}
	if id == "harmful" {
		v = harmful()
	}
	v.ID, v.State = id, s
	if s != rollout.StateRunning && s != rollout.StateFrozen {
		v.Reason, v.ReasonCode = "", ""
	}
	switch id {
	case "undone":
		v.Rollback = "undone-rollback"
	case "undone-rollback", "other-rollback":
		v.RollbackOf, v.To = rollout.ID(strings.TrimSuffix(string(id), "-rollback")), rollout.Value{}
	case "layer":
		v.Reason, v.ReasonCode, v.Abort = "aborted (abort 4712): they break", rollout.Aborted, &control.AbortView{Sequence: 4712, Why: "they break", Actor: "bob"}
	case "canaried":
		v.Reason, v.ReasonCode = "the canary bakes: 2 of 3 canaries have yet to confirm", rollout.CanaryBake
	case "untold":
		v.Told = 0
	}
	if s == rollout.StatePending {
		v.Reason, v.ReasonCode, v.ApprovalsNeeded = "waits for an approval", rollout.AwaitingApproval, 2
	}
	return &v, nil
}

func (f *fake) handle(_ context.Context, r control.Request) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	become := func(s rollout.State) (any, error) {
		var q control.RolloutRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		v, err := f.view(q.ID)
		if err != nil {
			return nil, err
		}
		if v.State == s {
			return nil, fmt.Errorf("%w: %s is %s", rollout.ErrRefused, q.ID, s)
		}
		f.state[q.ID] = s
		return f.view(q.ID)
	}
	switch r.Verb {
	case control.Apply:
		return f.apply(r)
	case control.Get:
		var q control.GetRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		out := control.GetResponse{Documents: []control.Document{}}
		switch q.Kind {
		case control.KindRollout:
			out.Documents = append(out.Documents, control.Document{Rollout: running().Spec})
		case control.KindPin:
			out.Documents = append(out.Documents, control.Document{Pin: &rollout.Pin{Host: "web1.lon2.example.net", Values: rollout.Document{"docker_version": text("1.10")}, Until: then, Why: "ticket 812"}})
		case control.KindObjective, "objective":
			for _, o := range objectives() {
				if q.Name == "" || q.Name == string(o.Name) {
					out.Documents = append(out.Documents, control.Document{Objective: &o.Objective})
				}
			}
			if len(out.Documents) == 0 {
				return nil, fmt.Errorf("objective %s: %w", q.Name, rollout.ErrNotFound)
			}
		case control.KindBlackout:
			for _, b := range f.blackouts {
				out.Documents = append(out.Documents, control.Document{Blackout: &b.Blackout})
			}
		default:
			for _, v := range variables() {
				if q.Name == "" || q.Name == string(v.Name) {
					w := v.Variable
					w.Value = rollout.Value{}
					out.Documents = append(out.Documents, control.Document{Variable: &w})
				}
			}
		}
		return out, nil
	case control.ObjectiveList:
		return objectives(), nil
	case control.Delete:
		return f.delete(r)
	case control.VariableList:
		return variables(), nil
	case control.RolloutStart:
		var q control.StartRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		if g := q.Rollout.Guard; g != nil {
			for i, name := range g.Objectives {
				if !slices.ContainsFunc(objectives(), func(o control.ObjectiveView) bool { return o.Name == name }) {
					return nil, &rollout.FieldError{Field: fmt.Sprintf("guard.objectives[%d]", i), Problem: fmt.Sprintf("there is no objective %s: there are api, docker-healthy", name)}
				}
			}
		}
		if q.Rollout.Supersedes == "" && q.Rollout.Variable == "docker_version" {
			return nil, fmt.Errorf("%w: docker-1-12-3 of docker_version is running: cancel it, or start this one with supersedes: docker-1-12-3", rollout.ErrRefused)
		}
		v := running()
		v.ID, v.Variable, v.To, v.State = "started", q.Rollout.Variable, q.Rollout.To, rollout.StatePending
		return v, nil
	case control.RolloutList:
		return []control.RolloutView{running(), frozen()}, nil
	case control.RolloutShow:
		var q control.RolloutRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		return f.view(q.ID)
	case control.RolloutPlan:
		var q control.PlanRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		if s := q.Rollout; s != nil && s.Variable == "nobody" {
			return nil, &rollout.FieldError{Field: "variable", Problem: "there is no variable nobody: apply its document first"}
		}
		return plan(), nil
	case control.RolloutPause:
		return become(rollout.StatePaused)
	case control.RolloutResume:
		var q control.RolloutRequest
		if err := r.Decode(&q); err == nil && q.ID == "layer" {
			return f.view(q.ID)
		}
		return become(rollout.StateRunning)
	case control.RolloutCancel:
		return become(rollout.StateCancelled)
	case control.HostList:
		return f.hostPage(r)
	case control.RolloutApprove:
		return f.approve(r)
	case control.RolloutAdvance, control.RolloutRelease, control.RolloutRollback:
		return f.steer(r)
	case control.HostPin, control.HostUnpin:
		return f.pin(r)
	case control.BlackoutList:
		return f.blackouts, nil
	case control.HostShow, control.HostDecommission:
		var q control.HostRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		all := hosts()
		if i := slices.IndexFunc(all, func(h control.HostView) bool { return h.Host == q.Host }); i >= 0 {
			return all[i], nil
		}
		return nil, fmt.Errorf("host %s: %w", q.Host, rollout.ErrNotFound)
	case control.Start:
		return control.StopView{}, nil
	case control.Status:
		return control.StatusView{Leader: "ctl1", Since: then, Version: "0.3.0", Hosts: 42, Online: 40, Warnings: []string{"abort.old is of no rollout"}}, nil
	case control.Why:
		var q control.WhyRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		if q.Host == "old.example.net" {
			return nil, fmt.Errorf("host %s: %w", q.Host, rollout.ErrNotFound)
		}
		if q.Host == "bare.example.net" {
			return control.WhyView{Host: q.Host, Variable: q.Variable}, nil
		}
		if q.Variable != "docker_version" {
			return nil, fmt.Errorf("variable %s: %w", q.Variable, rollout.ErrNotFound)
		}
		return control.WhyView{
			Host: "web1.lon2.example.net", Variable: "docker_version", Value: text("1.10"), Actual: text("1.10"), Told: then, Reason: "the host's first document", Actor: rollout.Scheduler, Confirmed: true,
			Next: "docker-1-12-3", To: text("1.12.3"), Due: then.Add(time.Hour), Blocked: []string{"paused: lunch"},
		}, nil
	}
	return nil, control.Errorf(control.Failed, "%s isn't answered", r.Verb)
}

// apply refuses a rollout to 9.9.9 as the scheduler would, and knows what
// applying says.
func (f *fake) apply(r control.Request) (any, error) {
	var q control.ApplyRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	out := control.ApplyResponse{DryRun: q.DryRun}
	v := variables()[0].Variable
	for i, d := range q.Documents {
		if d.Rollout != nil {
			if err := d.Rollout.Fits(&v); err != nil {
				return nil, control.DocumentError(i, err)
			}
		}
		if d.Blackout != nil && !q.DryRun {
			f.blackouts = append(f.blackouts, control.BlackoutView{Blackout: *d.Blackout, Next: then, Holds: []rollout.ID{"docker-1-12-3"}})
		}
		result := control.ApplyResult{Kind: d.Kind(), Name: d.Name(), Action: "created", Note: "as it says"}
		for _, known := range applying().Results {
			if known.Kind == d.Kind() && known.Name == d.Name() && known.Name != "new" {
				result = known
			}
		}
		out.Results = append(out.Results, result)
	}
	return out, nil
}

func (f *fake) delete(r control.Request) (any, error) {
	var q control.DeleteRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Kind == control.KindVariable {
		return nil, control.Errorf(control.Refused, "40 hosts carry %s", q.Name)
	}
	if q.Kind == control.KindObjective && q.Name != "api" {
		return nil, fmt.Errorf("objective %s: %w", q.Name, rollout.ErrNotFound)
	}
	if q.Kind == control.KindBlackout {
		i := slices.IndexFunc(f.blackouts, func(b control.BlackoutView) bool { return string(b.Name) == q.Name })
		if i < 0 {
			return nil, fmt.Errorf("blackout %s: %w", q.Name, rollout.ErrNotFound)
		}
		f.blackouts = slices.Delete(f.blackouts, i, i+1)
	}
	return control.DeleteResponse(q), nil
}

// approve starts what waits at its second approval.
func (f *fake) approve(r control.Request) (any, error) {
	var q control.RolloutRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	v, err := f.view(q.ID)
	if err != nil {
		return nil, err
	}
	if v.State != rollout.StatePending {
		return nil, fmt.Errorf("%w: %s needs no approval", rollout.ErrRefused, q.ID)
	}
	if r.Actor == "dave" {
		f.state[q.ID] = rollout.StateRunning
		v, _ = f.view(q.ID)
		v.Reason, v.ReasonCode = "", ""
	} else {
		v.ApprovalsNeeded = 1
	}
	v.Approvals = []rollout.Approval{{By: r.Actor, Time: then, Why: q.Why}}
	return v, nil
}

// steer repeats what it was asked in what it answers.
func (f *fake) steer(r control.Request) (any, error) {
	switch r.Verb {
	case control.RolloutAdvance:
		var q control.AdvanceRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		v, err := f.view(q.ID)
		if err == nil && q.To != 0 {
			v.Planned = int(q.To) * v.Target / 100
		}
		return v, err
	case control.RolloutRelease:
		var q control.HostReleaseRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		if q.Host != "web1.lon2.example.net" {
			return nil, fmt.Errorf("%w: %s is not in flight by %s", rollout.ErrRefused, q.Host, q.ID)
		}
		v, err := f.view(q.ID)
		if err == nil {
			v.InFlight, v.Reason, v.ReasonCode = 1, "", ""
			if q.ID == "waiting" { // its status is of before
				v.InFlight, v.Reason, v.ReasonCode = 0, "2 hosts are told and not confirmed, the limit is 2", rollout.InFlightLimit
			}
		}
		return v, err
	}
	var q control.RollbackRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	v, err := f.view(q.ID)
	if err != nil {
		return nil, err
	}
	v.RollbackOf, v.ID, v.Target, v.Told, v.Over, v.Reason, v.ReasonCode = q.ID, q.ID+"-rollback", v.Told, 0, q.Over, "", ""
	if v.Over == 0 {
		v.Over = v.Elapsed / 10
	}
	if q.ToText != "" {
		v.To = text(q.ToText)
	} else {
		v.To = rollout.Value{}
	}
	return v, nil
}

func (f *fake) pin(r control.Request) (any, error) {
	var q control.PinRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	h := hosts()[0]
	if q.Host != h.Host {
		return nil, fmt.Errorf("host %s: %w", q.Host, rollout.ErrNotFound)
	}
	if r.Verb == control.HostPin {
		if q.ValueText == "9.9.9" {
			return nil, &rollout.FieldError{Field: "values.docker_version", Problem: `docker_version doesn't allow "9.9.9": allowed are 1.10, 1.12.3`}
		}
		value := h.Desired[q.Variable]
		if q.ValueText != "" {
			value = text(q.ValueText)
		}
		h.Pin = &rollout.Pin{Host: q.Host, Values: rollout.Document{q.Variable: value}, Until: q.Until, Why: q.Why, By: r.Actor}
		if q.Why == "during a stop" {
			h.Problems = append(h.Problems, "everything is stopped: it is told when the stop is released")
		}
	} else if q.Variable == "kernel" {
		return nil, control.Errorf(control.Refused, "kernel isn't pinned on %s: pinned there is workers", q.Host)
	} else if q.Variable != "" {
		h.Pin = &rollout.Pin{Host: q.Host, Values: rollout.Document{"workers": text("8")}, Why: "load", By: "bob"}
	} else {
		h.Problems = append(h.Problems, "no longer pinned: it keeps 1.12.3 of docker_version until a rollout moves it")
	}
	return h, nil
}

// hostPage gives one host a page.
func (f *fake) hostPage(r control.Request) (any, error) {
	var q control.HostListRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	where, err := rollout.ParseWhere(q.Where)
	if err != nil {
		return nil, &rollout.FieldError{Field: "where", Problem: err.Error()}
	}
	all := slices.DeleteFunc(hosts(), func(h control.HostView) bool {
		ok, err := where.Selects(h.Host, h.Role, h.Labels)
		return err != nil || !ok
	})
	slices.SortFunc(all, func(a, b control.HostView) int { return slices.Compare([]byte(a.Host), []byte(b.Host)) })
	all = slices.DeleteFunc(all, func(h control.HostView) bool { return h.Host <= q.After })
	return control.HostListResponse{Hosts: all[:min(1, len(all))], More: len(all) > 1}, nil
}
