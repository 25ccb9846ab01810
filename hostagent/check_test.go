package hostagent

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// bubble runs a test in fake time, with the real broker.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	// Two collections empty the client's global pool of timers: one that was
	// made outside must not be used inside, nor the other way round.
	empty := func() {
		runtime.GC()
		runtime.GC()
	}
	empty()
	defer empty()
	ats.Register()
	defer ats.Unregister()
	synctest.Test(t, f)
}

// settled lets everything happen that happens at this instant, and shortly
// after: reports are held back for a tenth of a second.
func settled(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestChecks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		second := rollout.Duration(time.Second)
		r.o.Config.Checks = map[rollout.ID]Check{"docker": {Exec: []string{"check", "docker"}, Every: 10 * second, Timeout: second, For: 25 * second}}
		r.o.Observe = time.Hour
		stop := r.start()
		is := func(status rollout.CheckStatus, generation uint64) {
			t.Helper()
			if c := r.report().Checks["docker"]; c.Status != status || c.Generation != generation {
				t.Fatalf("after %s the check is %+v, want %s with generation %d", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), c, status, generation)
			}
		}
		settled(time.Second) // t = 1s
		is(rollout.Pending, 0)
		settled(23 * time.Second)
		is(rollout.Pending, 0)
		settled(2 * time.Second) // t = 26s
		is(rollout.Passing, 0)

		// A document is taken, its enactor runs for 7 seconds.
		hold := make(chan struct{})
		r.m.with(func() { r.m.hold = hold })
		r.tell(change(1, "a", docker("1"), nil))
		settled(7 * time.Second)
		is(rollout.Passing, 0) // it hasn't been enacted
		if p := r.report(); p.Generation != 1 || p.Enact["docker_version"].Status != rollout.Enacting {
			t.Fatalf("%+v", p)
		}
		close(hold)
		settled(time.Second)
		is(rollout.Pending, 1)
		settled(23 * time.Second)
		is(rollout.Pending, 1)
		settled(2 * time.Second)
		is(rollout.Passing, 1)

		// A break begins the time again.
		r.m.with(func() { r.m.checks["docker"] = errors.New("exit status 1") })
		settled(11 * time.Second)
		is(rollout.Failing, 1)
		if c := r.report().Checks["docker"]; c.Output != "exit status 1: what the check says" {
			t.Errorf("%+v", c)
		}
		r.m.with(func() { delete(r.m.checks, "docker") })
		settled(11 * time.Second)
		is(rollout.Pending, 1)
		settled(26 * time.Second)
		is(rollout.Passing, 1)

		// A document that needs no enactment counts from when it was taken, and
		// a failed enactment doesn't count at all.
		r.tell(change(2, "b", rollout.Document{"docker_version": str("1"), "other": str("x")}, map[rollout.Name]uint64{"docker_version": 1}))
		settled(time.Second)
		is(rollout.Pending, 2)
		settled(26 * time.Second)
		is(rollout.Passing, 2)
		r.m.with(func() { r.m.fault = failing("set") })
		r.tell(change(3, "c", rollout.Document{"docker_version": str("3"), "other": str("x")}, map[rollout.Name]uint64{"other": 2}))
		settled(time.Minute)
		is(rollout.Passing, 2)
		// Another variable's order, later, that is fulfilled.
		r.m.with(func() {
			r.m.fault = func(c Command) error {
				if c.Args[0] == "set" && c.Args[1] == "docker_version" {
					return errors.New("exit status 1")
				}
				return nil
			}
		})
		r.tell(change(4, "d", rollout.Document{"docker_version": str("3"), "other": str("x"), "flag": str("on")}, map[rollout.Name]uint64{"docker_version": 3, "other": 2}))
		settled(27 * time.Second)
		is(rollout.Passing, 4)
		// When the failed one succeeds at last, it has to pass once more.
		r.m.with(func() { r.m.fault = nil })
		r.reported("enacted", func(p *rollout.Report) bool { return p.Enact["docker_version"].Status == rollout.Enacted })
		is(rollout.Pending, 4)
		settled(27 * time.Second)
		is(rollout.Passing, 4)

		// After a restart it has to show itself again, for the same generation.
		stop()
		r.start()
		settled(time.Second)
		is(rollout.Pending, 4)
		settled(27 * time.Second)
		is(rollout.Passing, 4)

		var statuses []string
		for _, e := range r.events() {
			if e.Kind == subjects.HealthCheck && e.Check == "docker" {
				statuses = append(statuses, e.Status)
			}
		}
		want := []string{
			"passing", "pending", "passing", "failing", "pending", "passing", "pending", "passing",
			"pending", "passing", "pending", "passing", "passing",
		}
		if !slices.Equal(statuses, want) {
			t.Errorf("events %v, want %v", statuses, want)
		}
	})
}

// A run that began before the change doesn't speak for what came after it.
func TestCheckThatRanDuringTheChange(t *testing.T) {
	c := &check{id: "c", Check: Check{Exec: []string{"x"}, Every: rollout.Duration(time.Minute)}, status: rollout.Passing}
	a := newAgent(Options{Config: Config{Host: "h1", Role: "web", State: t.TempDir()}}.withDefaults())
	a.state = &state{Format: stateFormat, Host: "h1"}
	a.checks = []*check{c}
	before := checkRun{c: c, anew: c.anew, started: time.Now()}
	c.running = true
	a.startAnew(time.Now())
	if c.status != rollout.Pending {
		t.Fatalf("%s", c.status)
	}
	a.judge(before)
	if c.status != rollout.Pending || !c.since.IsZero() {
		t.Fatalf("an old run made it %s", c.status)
	}
	a.judge(checkRun{c: c, anew: c.anew, started: time.Now()})
	if c.status != rollout.Passing {
		t.Fatalf("a new run left it %s", c.status)
	}
	// Failing counts from whenever.
	a.startAnew(time.Now())
	before.result.Err = errors.New("exit status 1")
	a.judge(before)
	if c.status != rollout.Failing {
		t.Fatalf("%s", c.status)
	}
}

// What an agent that has nothing to do sends over four hours.
func TestIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.o.Observe, r.o.Republish = 0, time.Hour
		r.o.Config.Checks = map[rollout.ID]Check{"docker": {Exec: []string{"check", "docker"}, Every: rollout.Duration(time.Minute)}}
		start := time.Now()
		r.start()
		settled(time.Second)
		r.tell(change(1, "a", docker("1"), nil))
		settled(time.Minute)
		m, err := r.js.Stream(t.Context(), subjects.HostsStream)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// Two reports: one before it was told, one after; perhaps a third for
		// what the check says of the change.
		before := info.State.LastSeq
		if before > 4 {
			t.Errorf("%d reports for one change", before)
		}
		settled(4*time.Hour + 10*time.Minute - time.Since(start))
		if info, err = m.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := info.State.LastSeq - before; n < 3 || n > 5 {
			t.Errorf("%d reports in four hours of nothing", n)
		}
		if n, _, err := r.beats.Pending(); err != nil || n < 1400 || n > 1600 {
			t.Errorf("%d heartbeats in four hours, %v", n, err)
		}
		if all := r.events(); len(all) > 5 {
			t.Errorf("%d health events", len(all))
		}
	})
}

// The waits between attempts: doubling from first to max.
func TestWait(t *testing.T) {
	for _, random := range []float64{0, 0.999999} {
		for failures, full := range map[int]time.Duration{0: 10, 1: 20, 2: 40, 5: 320, 6: 600, 31: 600, 60: 600, 1000: 600} {
			full *= time.Second
			got := wait(failures, 10*time.Second, 10*time.Minute, func() float64 { return random })
			if got < full/2 || got > full {
				t.Errorf("after %d failures: %s, want %s to %s", failures, got, full/2, full)
			}
		}
	}
}

// Events are kept in order while the broker is away, up to a bound.
func TestEventQueue(t *testing.T) {
	a := newAgent(Options{Config: Config{Host: "h1", Role: "web", State: t.TempDir()}}.withDefaults())
	for range maxEvents {
		a.event(subjects.HealthEvent{Kind: subjects.HealthCheck})
	}
	a.eventSent = true
	for range 10 {
		a.event(subjects.HealthEvent{Kind: subjects.HealthCheck})
	}
	if len(a.events) != maxEvents || a.events[0].Sequence != 1 || a.events[1].Sequence != 12 || a.events[maxEvents-1].Sequence != maxEvents+10 {
		t.Errorf("%d events, %d, %d … %d", len(a.events), a.events[0].Sequence, a.events[1].Sequence, a.events[len(a.events)-1].Sequence)
	}
	a.delivery(sending{event: true})
	a.delivery(sending{event: true, err: errors.New("no")})
	if len(a.events) != maxEvents-1 || a.eventSent || a.eventRetry.failures != 1 {
		t.Errorf("%d events, retry %+v", len(a.events), a.eventRetry)
	}
}

// Reports that can't be stored are made anew, so what arrives is the truth of
// then.
func TestReportAfterAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		gate := &gatedProvider{inner: r.broker.InProcess()}
		r.o.Connect.InProcess = gate
		r.o.Observe = time.Minute
		r.start()
		settled(time.Second)
		r.tell(change(1, "a", docker("1"), nil))
		settled(time.Second)
		if p := r.report(); p.Enact["docker_version"].Status != rollout.Enacted {
			t.Fatalf("%+v", p)
		}
		gate.shut(true)
		gate.cut()
		for _, v := range []string{"x", "y", "z"} {
			r.m.with(func() { r.m.values["docker_version"] = v })
			settled(10 * time.Minute)
		}
		gate.shut(false)
		settled(time.Minute)
		p := r.report()
		if p.Actual["docker_version"] != str("z") || p.Enact["docker_version"].Status != rollout.DriftedOff {
			t.Errorf("%+v", p)
		}
		m, err := r.js.Stream(t.Context(), subjects.HostsStream)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.LastSeq > 4 {
			t.Errorf("%d reports", info.State.LastSeq)
		}
	})
}

// Thousands of agents share a process, so one must be small.
func TestGoroutinesOfAnIdleAgent(t *testing.T) {
	r := newRig(t)
	settle := func() int {
		n := 0
		await(t, "goroutines to come to rest", func() bool {
			before := runtime.NumGoroutine()
			time.Sleep(50 * time.Millisecond)
			n = runtime.NumGoroutine()
			return n == before
		})
		return n
	}
	r.o.Observe = time.Hour
	before := settle()
	const agents = 50
	o := r.o
	enact := maps.Clone(o.Config.Enact)
	for i := range agents {
		r.o = o
		r.o.Config.Enact = enact
		r.o.Config.Host = rollout.Host("h" + string(rune('a'+i/26)) + string(rune('a'+i%26)))
		r.o.Config.State = t.TempDir()
		r.start()
	}
	hosts, err := r.js.Stream(t.Context(), subjects.HostsStream)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "all reports", func() bool {
		info, err := hosts.Info(t.Context())
		return err == nil && info.State.LastSeq >= agents
	})
	// One of its own, the test's, the client's, and the broker's for the client.
	if per := float64(settle()-before) / agents; per > 12 {
		t.Errorf("%.1f goroutines an agent", per)
	} else {
		t.Logf("%.1f goroutines an agent, the broker's side included", per)
	}
}
