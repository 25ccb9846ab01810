package hostagent

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// repairing makes a rig whose docker_version is enacted again when it drifts.
func repairing(t *testing.T) *rig {
	r := newRig(t)
	second := rollout.Duration(time.Second)
	e := r.o.Config.Enact["docker_version"]
	e.Drift, e.Retry = DriftEnact, Retry{First: 10 * second, Max: 600 * second, Attempts: 3}
	r.o.Config.Enact["docker_version"] = e
	r.o.Observe, r.o.Heartbeat = time.Minute, 10*time.Second
	return r
}

func (m *machine) drift(value string) {
	m.with(func() { m.values["docker_version"] = value })
}

// statuses are those that the health events told of a variable.
func (r *rig) statuses(name rollout.Name) []string {
	r.t.Helper()
	var all []string
	for _, e := range r.events() {
		if e.Kind == subjects.HealthEnact && e.Variable == name {
			all = append(all, e.Status)
		}
	}
	return all
}

func TestDriftIsEnactedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := repairing(t)
		second := rollout.Duration(time.Second)
		r.o.Config.Checks = map[rollout.ID]Check{"docker": {Exec: []string{"check", "docker"}, Every: 10 * second, For: 30 * second}}
		stop := r.start()
		r.tell(change(1, "a", docker("1"), nil))
		settled(30 * time.Minute)
		r.m.drift("0.5")
		settled(70 * time.Second)
		p := r.report()
		if e := p.Enact["docker_version"]; p.Generation != 1 || e.Status != rollout.Enacted || e.Error != "" || p.Actual["docker_version"] != str("1") {
			t.Errorf("%+v", p)
		}
		r.m.with(func() {
			if len(r.m.sets) != 2 {
				t.Fatalf("ran %+v", r.m.sets)
			}
			want := []string{"TSUNAMI_HOST=h1", "TSUNAMI_VARIABLE=docker_version", "TSUNAMI_VALUE=1", "TSUNAMI_PREVIOUS=0.5", "TSUNAMI_ROLLOUT=a"}
			if got := r.m.sets[1]; !slices.Equal(got.Args, []string{"set", "docker_version", "1"}) || !slices.Equal(got.Env, want) {
				t.Errorf("ran %+v", got)
			}
		})
		if got, want := r.statuses("docker_version"), []string{"enacted", "drifted", "enacted"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		// What passed before the repair says nothing of what came after it.
		var checks []string
		for _, e := range r.events() {
			if e.Kind == subjects.HealthCheck && e.Time.After(time.Date(2000, 1, 1, 0, 30, 0, 0, time.UTC)) {
				checks = append(checks, e.Status)
			}
		}
		if len(checks) == 0 || checks[0] != "pending" {
			t.Errorf("the check's events since the drift: %v", checks)
		}
		// Removed by hand is drift too, also while no agent ran.
		stop()
		r.m.drift("")
		r.start()
		settled(time.Second)
		if p := r.report(); p.Enact["docker_version"].Status != rollout.Enacted || p.Actual["docker_version"] != str("1") || p.Checks["docker"].Generation != 1 {
			t.Errorf("after a restart: %+v", p)
		}
		if sets := r.m.setTo(); len(sets) != 3 {
			t.Errorf("enacted %v", sets)
		}
	})
}

// Somebody else sets another value, each time: the agent doesn't fight.
func TestDriftThatComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := repairing(t)
		var at []time.Time // of each run of the enactor
		fought := true
		r.o.Exec = func(ctx context.Context, c Command) Result {
			res := r.m.run(ctx, c)
			r.m.with(func() {
				if c.Args[0] == "set" {
					if at = append(at, time.Now()); fought {
						time.AfterFunc(2*time.Second, func() { r.m.drift("0.5") })
					}
				}
			})
			return res
		}
		runs := func() (all []time.Time) {
			r.m.with(func() { all = slices.Clone(at) })
			return all
		}
		r.start()
		r.tell(change(1, "a", docker("1"), nil))
		const hours = 5
		settled(hours * time.Hour)
		if at, most := runs(), 3+hours*60/9+1; len(at) > most || len(at) < 10 {
			t.Errorf("enacted %d times in %d hours: want at most %d", len(at), hours, most)
		}
		for i, at := 3, runs(); i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < 9*time.Minute {
				t.Errorf("enacted %s after the time before", gap)
			}
		}
		if e := r.report().Enact["docker_version"]; e.Status != rollout.EnactFail || e.Error == "" || e.Attempts < 3 {
			t.Errorf("%+v", e)
		}
		if got, want := r.statuses("docker_version"), []string{"enacted", "drifted", "enacted", "drifted", "enacted", "failed"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		// An observer that fails after a repair doesn't make it well.
		r.m.with(func() { fought = false })
		for n := len(runs()); len(runs()) == n; {
			settled(10 * time.Second)
		}
		r.m.with(func() { r.m.fault = failing("get") })
		settled(5 * time.Minute)
		if e := r.report().Enact["docker_version"]; e.Status != rollout.EnactFail {
			t.Errorf("%+v", e)
		}
		r.m.with(func() { r.m.fault = nil })
		// When it sticks at last it is well, and later drift is repaired soon.
		settled(30 * time.Minute)
		if e := r.report().Enact["docker_version"]; e.Status != rollout.Enacted || e.Error != "" {
			t.Errorf("%+v", e)
		}
		n := len(runs())
		r.m.drift("0.6")
		settled(70 * time.Second)
		if e := r.report().Enact["docker_version"]; len(runs()) != n+1 || e.Status != rollout.Enacted || e.Attempts != 1 {
			t.Errorf("enacted %d times more: %+v", len(runs())-n, e)
		}
	})
}

// A repair that fails is tried again as any enactment is.
func TestRepairFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := repairing(t)
		r.start()
		r.tell(change(1, "a", docker("1"), nil))
		settled(30 * time.Minute)
		r.m.with(func() { r.m.fault = failing("set") })
		r.m.drift("0.5")
		settled(time.Hour)
		if e := r.report().Enact["docker_version"]; e.Status != rollout.EnactFail || e.Error != "exit status 1: it said no" || e.Generation != 1 {
			t.Errorf("%+v", e)
		}
		// A failing observer doesn't make it well.
		r.m.with(func() { r.m.fault = failing("get") })
		settled(5 * time.Minute)
		if e := r.report().Enact["docker_version"]; e.Status != rollout.EnactFail {
			t.Errorf("%+v", e)
		}
		r.m.with(func() { r.m.fault = nil })
		settled(15 * time.Minute)
		if e := r.report().Enact["docker_version"]; e.Status != rollout.Enacted || e.Error != "" {
			t.Errorf("%+v", e)
		}
		if got, want := r.statuses("docker_version"), []string{"enacted", "drifted", "retrying", "retrying", "failed", "enacted"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}

		// It comes right by itself while a repair waits.
		r.m.with(func() { r.m.fault = failing("set") })
		r.m.drift("0.5")
		settled(70 * time.Second)
		sets := len(r.m.setTo())
		r.m.drift("1")
		settled(20 * time.Minute)
		if e := r.report().Enact["docker_version"]; e.Status != rollout.Enacted || len(r.m.setTo()) != sets {
			t.Errorf("%+v", e)
		}
		// A newer order ends a repair, and begins with attempts of its own.
		r.m.drift("0.5")
		settled(time.Hour)
		r.m.with(func() { r.m.fault = nil })
		r.tell(change(2, "b", docker("2"), nil))
		settled(time.Second)
		if p := r.report(); p.Generation != 2 || p.Enact["docker_version"].Status != rollout.Enacted || p.Enact["docker_version"].Attempts != 1 {
			t.Errorf("%+v", p)
		}
	})
}

// A host that is held isn't repaired either.
func TestDriftOfAHeldHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := repairing(t)
		r.start()
		r.tell(change(1, "a", docker("1"), nil))
		settled(30 * time.Minute)
		release := r.hold("wait")
		r.m.drift("0.5")
		settled(time.Hour)
		if p := r.report(); p.Held != "wait" || p.Enact["docker_version"].Status != rollout.DriftedOff || p.Actual["docker_version"] != str("0.5") {
			t.Errorf("%+v", p)
		}
		release()
		settled(5 * time.Second)
		if p := r.report(); p.Held != "" || p.Enact["docker_version"].Status != rollout.Enacted || len(r.m.setTo()) != 2 {
			t.Errorf("%+v", p)
		}
	})
}
