package main

import (
	"context"
	"fmt"
	"slices"
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

func plan() control.PlanView {
	p := control.PlanView{ID: "docker-1-12-3", Starts: then, Ends: then.Add(336 * time.Hour), Target: 40, Omitted: 36, Roles: []control.RoleView{{Role: "accesspoint", Hosts: 40, Target: 40}}}
	for i := range 4 {
		p.Hosts = append(p.Hosts, control.PlanHost{Host: rollout.Host(fmt.Sprintf("web%d.example.net", i)), Role: "accesspoint", Position: i + 1 + i/2*36, Due: then.Add(time.Duration(i) * 100 * time.Hour)})
	}
	return p
}

// fake answers as a scheduler might.
type fake struct {
	mu    sync.Mutex
	state map[rollout.ID]rollout.State
	asked []control.Request
}

func newFake() *fake {
	return &fake{state: map[rollout.ID]rollout.State{"docker-1-12-3": rollout.StateRunning, "agent-2": rollout.StateFrozen, "done": rollout.StateCompleted}}
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
	v.ID, v.State = id, s
	if s != rollout.StateRunning && s != rollout.StateFrozen {
		v.Reason = ""
	}
	return &v, nil
}

func (f *fake) handle(_ context.Context, r control.Request) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r)
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
		if q.Kind == control.KindRollout {
			out.Documents = append(out.Documents, control.Document{Rollout: running().Spec})
			return out, nil
		}
		for _, v := range variables() {
			if q.Name == "" || q.Name == string(v.Name) {
				w := v.Variable
				w.Value = rollout.Value{}
				out.Documents = append(out.Documents, control.Document{Variable: &w})
			}
		}
		return out, nil
	case control.Delete:
		return nil, control.Errorf(control.Refused, "40 hosts carry docker_version")
	case control.VariableList:
		return variables(), nil
	case control.RolloutStart:
		var q control.StartRequest
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		if q.Rollout.Supersedes == "" && q.Rollout.Variable == "docker_version" {
			return nil, fmt.Errorf("%w: docker-1-12-3 of docker_version is running", rollout.ErrRefused)
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
		return become(rollout.StateRunning)
	case control.RolloutCancel:
		return become(rollout.StateCancelled)
	case control.HostList:
		return f.hostPage(r)
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

// apply refuses a rollout to 9.9.9 as the scheduler would.
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
		out.Results = append(out.Results, control.ApplyResult{Kind: d.Kind(), Name: d.Name(), Action: "created", Note: "as it says"})
	}
	return out, nil
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
