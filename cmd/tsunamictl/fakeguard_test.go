package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
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

// inventory is of hosts of two roles with a check, in all the states that it can
// be in.
func inventory(check string) (all []control.HostView) {
	for i, s := range []rollout.CheckStatus{rollout.Passing, rollout.Passing, rollout.Pending, rollout.Failing, ""} {
		h := control.HostView{Host: rollout.Host(fmt.Sprintf("web%d.example.net", i)), Role: "web", Online: true}
		if s != "" {
			h.Checks = map[rollout.ID]rollout.Check{rollout.ID(check): {Status: s}}
		}
		all = append(all, h)
	}
	all[1].Online = false
	return append(all, control.HostView{Host: "db1.example.net", Role: "db", Online: true})
}

// replayed is a replay with all that can be said of one.
func replayed() *control.Replay {
	v := harmful().Abort.Evidence
	w := *v
	w.Kind, w.Failed = slo.Breach, nil
	w.Standings = append(w.Standings, slo.Standing{Objective: "api", E: 1, Bar: 100})
	r := &control.Replay{
		Rollout: "docker-1-12-3", Created: then.Add(-48 * time.Hour), From: then.Add(-48 * time.Hour), Until: then, Begins: then.Add(-50 * time.Hour),
		Messages: 48200, Unread: 3, Verdicts: []slo.Verdict{*v, w}, Told: 10000, ToldAfter: 9963,
		Peaks: []slo.Standing{{Objective: "docker-healthy", E: 4.12, Bar: 100, Treated: 37, TreatedFailed: 1, Control: 9963, ControlFailed: 2}},
	}
	for i := range 45 {
		s := v.Standings[0]
		s.Treated, s.TreatedFailed, s.E = 100+i, i+1, float64(i)
		e := control.ReplayEvent{Counted: then.Add(time.Duration(i-50) * time.Minute), Sequence: uint64(100 * (i + 1)), Failure: v.Failed[i%3], Standing: s}
		e.Treated = i != 7
		r.Events = append(r.Events, e)
	}
	return r
}

// recordEvidence writes a rollout, judged by an objective, that breaks each of
// its first ten hosts of thirty, and another that names no objective. What it
// sources the stream has before anything that follows.
func recordEvidence(js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	put := func(m bus.Message, err error) error {
		if err == nil {
			_, err = bus.Put(ctx, js, m)
		}
		at := m.Subject
		if kind, name, foreign := subjects.ParseKey(m.Subject); foreign == nil {
			at = subjects.EvidenceOf(kind, name)
		} else if host, foreign := subjects.HostOf(m.Subject); foreign == nil && m.Subject == subjects.HostSubject(host) {
			at = subjects.EvidenceOf(subjects.KindHost, string(host))
		}
		for ; err == nil; time.Sleep(time.Millisecond) {
			last, reading := bus.Last(ctx, js, subjects.EvidenceStream, at)
			if reading == nil && bytes.Equal(last.Data, m.Data) {
				break
			}
			if reading != nil && !errors.Is(reading, bus.ErrNotFound) {
				err = reading
			}
		}
		return err
	}
	encoded := func(subject string, v any) (bus.Message, error) {
		body, err := subjects.Encode(v)
		return bus.Message{Subject: subject, Header: subjects.Header{subjects.HeaderTime: {time.Now().UTC().Format(time.RFC3339Nano)}}, Data: body}, err
	}
	objective := slo.Objective{Name: "docker-healthy", Check: "docker", For: new(rollout.Duration(0)), WithinOfChange: &slo.Within{AtMost: 1, Window: rollout.Duration(24 * time.Hour)}}
	if err := put(encoded(subjects.KindObjective.Subject("docker-healthy"), objective)); err != nil {
		return err
	}
	host := func(i int) rollout.Host { return rollout.Host(fmt.Sprintf("web%d.example.net", i)) }
	for i := range 30 {
		r := rollout.Report{Role: "web", Boot: "b1", Checks: map[rollout.ID]rollout.Check{"docker": {Status: rollout.Passing}}}
		if err := put(encoded(subjects.HostSubject(host(i)), r)); err != nil {
			return err
		}
	}
	for _, id := range []rollout.ID{"guarded", "unguarded"} {
		spec := rollout.Spec{Name: id, Variable: "docker_version", To: text("1.12.3"), Ramp: rollout.Ramp{Over: rollout.Duration(time.Hour)}}
		if id == "guarded" {
			spec.Guard = &rollout.Guard{Objectives: []rollout.ID{"docker-healthy"}}
		}
		r := rollout.Record{Spec: spec, State: rollout.StateRunning, By: "alice", Author: "alice", Created: time.Now().UTC(), Salt: "s"}
		if err := put(encoded(subjects.KindRollout.Subject(string(id)), r)); err != nil {
			return err
		}
	}
	for i := range 10 {
		told := rollout.Told{Rollout: "guarded", Generation: 2, Time: time.Now()}
		c := subjects.Change{
			Host: host(i), Variable: "docker_version", Rollout: "guarded", Actor: "alice", Time: time.Now(), Reason: rollout.Reason{Code: rollout.ByRamp},
			Desired: rollout.Desired{Generation: 2, Values: rollout.Document{"docker_version": text("1.12.3")}, Told: map[rollout.Name]rollout.Told{"docker_version": told}},
		}
		h, body, err := c.Encode()
		if err := put(bus.Message{Subject: subjects.KindDesired.Subject(string(c.Host)), Header: h, Data: body}, err); err != nil {
			return err
		}
		e := subjects.HealthEvent{Kind: subjects.HealthCheck, Boot: "b1", Sequence: 1, Time: time.Now(), Check: "docker", Status: string(rollout.Failing), Output: "can't connect\x1b[2J"}
		if err := put(encoded(subjects.Health(c.Host), e)); err != nil {
			return err
		}
	}
	return nil
}
