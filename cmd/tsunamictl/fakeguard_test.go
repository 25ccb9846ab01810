package main

import (
	"strings"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// What a service with a guard may answer.

func objectives() []control.ObjectiveView {
	return []control.ObjectiveView{{
		Objective: slo.Objective{
			Name: "api", Check: "api", Steady: &slo.Steady{AtMost: 0.5, Per: rollout.Duration(24 * time.Hour)},
			For: new(rollout.Duration(0)), Grace: new(rollout.Duration(0)), Alpha: 5, Tolerate: 3, Freshness: rollout.Duration(time.Minute), NoData: slo.NoDataPass,
		},
	}, {
		Objective: slo.Objective{
			Name: "docker-healthy", Check: "docker", WithinOfChange: &slo.Within{AtMost: 1, Window: rollout.Duration(24 * time.Hour)},
			Steady: &slo.Steady{AtMost: 0.5, Per: rollout.Duration(24 * time.Hour)},
		},
		Rollouts: []rollout.ID{"docker-1-12-3", "agent-2"},
	}}
}

// guarded is a rollout whose evidence begins to speak against it.
func guarded() control.RolloutView {
	v := running()
	v.Spec.Guard = &rollout.Guard{Objectives: []rollout.ID{"docker-healthy", "api", "late"}, OnBreach: rollout.BreachRollsBack}
	v.Guard = &control.GuardView{Clear: true, Until: then.Add(2 * time.Minute), OnBreach: rollout.BreachRollsBack, Standings: []slo.Standing{
		{Objective: "docker-healthy", E: 3.24, Harm: 6, Breach: 0.48, Bar: 300, Treated: 30, TreatedFailed: 1, Control: 10, Needs: 2},
		{Objective: "api", E: 0.01, Harm: 0.01, Bar: 300, Treated: 30, Control: 8, ControlFailed: 1, Needs: 1, Unwatched: 2},
		{Objective: "late", E: 1, Harm: 1, Bar: 300, Treated: 3, Unwatched: 37},
	}}
	return v
}

// harmful is a rollout that the guard froze.
func harmful() control.RolloutView {
	v := frozen()
	v.Abort.Actor, v.Abort.Why = "sloguard", "docker-healthy: the change does harm"
	v.Reason = "frozen by abort 4711: docker-healthy: the change does harm"
	v.Spec.Guard = &rollout.Guard{Objectives: []rollout.ID{"docker-healthy"}}
	standing := slo.Standing{Objective: "docker-healthy", E: 412.3, Harm: 800, Breach: 24.6, Bar: 100, Treated: 37, TreatedFailed: 3, Control: 9963, ControlFailed: 1}
	told := then.Add(-3 * time.Hour)
	v.Abort.Evidence = &slo.Verdict{
		Rollout: v.ID, Kind: slo.Harm, Objective: "docker-healthy", Sequence: 48123, Time: then.Add(-time.Hour), Standings: []slo.Standing{standing},
		Failed: []slo.Failure{
			{Host: "web1.lon2.example.net", Role: "accesspoint", How: slo.FailedCheck, Treated: true, Told: told, Time: told.Add(90 * time.Second), Output: "can't connect\x1b[2J\nto the socket"},
			{Host: "web2.lon2.example.net", Role: "accesspoint", How: slo.FailedSilence, Treated: true, Told: told, Time: told.Add(26 * time.Hour)},
			{Host: "db1.example.net", Role: "db", How: slo.FailedEnact, Treated: true, Told: told, Time: told.Add(-time.Second), Output: strings.Repeat("long ", 20)},
		},
		Of: 5, RuledOut: []string{"not chance: of rollouts that do no harm at most 1% are ever frozen", "another change isn't ruled out: 1 of them were told something else since, by \x1b[2Jpins"},
	}
	v.Guard = &control.GuardView{Why: "the evidence against it suffices (harm of docker-healthy, at sequence 48123)", OnBreach: rollout.BreachFreezes, Standings: []slo.Standing{standing}}
	return v
}

func power() []slo.Power {
	return []slo.Power{
		{Breaks: 0.1},
		{Breaks: 1, Stopped: 0.69, Hosts: 264, Failed: 3, After: rollout.Duration(9*time.Hour + 3*time.Minute)},
		{Breaks: 5, Stopped: 1, Hosts: 37, Failed: 2, After: rollout.Duration(80 * time.Minute)},
		{Breaks: 100, Stopped: 0.97, Hosts: 1, Failed: 1, After: rollout.Duration(time.Minute)},
	}
}
