package evidence

import (
	"fmt"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// TestWhereChangedBeforeStart: a rollout is judged by the hosts that it will select.
func TestWhereChangedBeforeStart(t *testing.T) {
	p := newTape(t)
	p.objective(docker())
	p.hosts(0, 20, "lab")
	p.hosts(100, 200, "web")
	p.records["r1"] = &rollout.Record{
		Spec:  rollout.Spec{Name: "r1", Variable: "docker_version", To: value("2"), Where: `role == "lab"`, Ramp: rollout.Ramp{Over: field.Duration(14 * 24 * time.Hour)}, Guard: &rollout.Guard{Objectives: []rollout.ID{"docker-healthy"}}},
		State: rollout.StatePending,
	}
	p.record("r1")
	r := p.records["r1"]
	r.Spec.Where = `role == "web"`
	p.record("r1")
	r.State, r.Clock, r.Length = rollout.StateRunning, p.now, 14*24*time.Hour
	p.record("r1")
	for i := 100; i < 160; i++ { // each host breaks
		p.pass(time.Minute)
		p.tell(name(i), "r1")
		p.pass(time.Second)
		p.breaks(name(i))
	}
	why, _ := p.f.Clear("r1")
	if len(p.verdicts) == 0 {
		t.Errorf("60 of 60 changed hosts failed: no verdict; standing %s; unclear %q", p.standing("r1"), why)
	}
}

// TestObjectivesChangedBeforeStart: and by the objectives that it will name.
func TestObjectivesChangedBeforeStart(t *testing.T) {
	p := newTape(t)
	p.objective(docker())
	o := docker()
	o.Name, o.Check = "other", "other"
	p.objective(o)
	p.hosts(0, 100, "web")
	p.start("r1", "other")
	p.records["r1"].State, p.records["r1"].Clock = rollout.StatePending, time.Time{}
	p.record("r1")
	p.records["r1"].Spec.Guard = &rollout.Guard{Objectives: []rollout.ID{"docker-healthy"}}
	p.records["r1"].State = rollout.StateRunning
	p.record("r1")
	v, _ := p.f.View("r1")
	if v.Standings[0].Objective != "docker-healthy" {
		t.Errorf("judged by %s", v.Standings[0].Objective)
	}
}

// TestLookedAt: of several objectives all are brought up to date when it is decided,
// so that the verdict doesn't depend on whether somebody has looked.
func TestLookedAt(t *testing.T) {
	run := func(atMost float64, look bool) string {
		p := newTape(t)
		a, b := docker(), docker()
		a.Name, b.Name, b.Check = "a", "b", "other"
		b.Steady = &slo.Steady{AtMost: field.Percent(atMost), Per: field.Duration(24 * time.Hour)}
		p.objective(a)
		p.objective(b)
		for i := range 40 {
			p.host(name(i), "web")
			p.reports[name(i)].Checks["other"] = rollout.Check{Status: rollout.Passing}
			p.report(name(i))
		}
		p.start("r1", "a", "b")
		for i := range 20 {
			p.tell(name(i), "r1")
		}
		p.pass(24 * time.Hour)
		fail := func(i int, check rollout.ID) {
			e := p.event(name(i), rollout.Failing)
			e.Check = check
			p.send(name(i), e)
			p.pass(time.Minute)
			p.listens("s1")
		}
		for i := range 3 {
			fail(i, "other")
		}
		if len(p.verdicts) > 0 {
			return ""
		}
		// Ten days pass, in which b is kept: paused, say. The guard renews its lease, and looks; a replay doesn't.
		for range 240 {
			p.pass(time.Hour)
			p.listens("s1")
			if look {
				p.f.View("r1")
			}
		}
		for i := 10; i < 18 && len(p.verdicts) == 0; i++ {
			fail(i, "docker")
		}
		if len(p.verdicts) == 0 {
			return "no verdict"
		}
		v := p.verdicts[0]
		return fmt.Sprintf("verdict at %d, of %s, E %.4g and %.4g", v.Sequence, v.Objective, v.Standings[0].E, v.Standings[1].E)
	}
	for atMost := 2.5; atMost < 6; atMost *= 1.02 {
		live, replayed := run(atMost, true), run(atMost, false)
		if live != replayed {
			t.Errorf("steady %.3g%%: looked at (live): %s; not looked at (restarted, replay): %s", atMost, live, replayed)
		}
	}
}

// TestLayerForgotten: a layer is watched although a rollout of other hosts has run.
func TestLayerForgotten(t *testing.T) {
	p := newTape(t)
	p.objective(docker())
	p.hosts(0, 10, "db")
	p.hosts(10, 20, "web")
	a := p.start("a", "docker-healthy")
	a.Spec.Where = `role == "db"`
	p.record("a")
	a.State = rollout.StateCompleted
	p.record("a")
	if why, _ := p.f.Clear("a"); why != "" {
		t.Fatal(why)
	}
	b := p.start("b", "docker-healthy")
	b.Spec.Where = `role == "web"`
	p.record("b")
	b.State = rollout.StateCancelled
	p.record("b")
	if why, _ := p.f.Clear("a"); why != "" {
		t.Errorf("the layer of db hosts, after another rollout of web hosts ran and was cancelled: %s", why)
	}
}

// TestEnactAfterResume: hosts that gave up before a resume aren't counted again.
func TestEnactAfterResume(t *testing.T) {
	p := guarded(t)
	for i := range 6 {
		p.tell(name(i), "r1")
		d := p.desired[name(i)]
		r := p.reports[name(i)]
		r.Enact = map[rollout.Name]rollout.Enact{"docker_version": {Status: rollout.EnactFail, Generation: d.Generation}}
		p.report(name(i))
		p.pass(time.Minute)
		if len(p.verdicts) > 0 {
			break
		}
	}
	if len(p.verdicts) != 1 {
		t.Fatal("no verdict at first")
	}
	p.abort(p.verdicts[0])
	r := p.records["r1"]
	r.Acknowledged, r.State = r.Abort, rollout.StateRunning
	p.record("r1")
	p.pass(12 * time.Hour)
	for i := range 6 { // nothing new: the agents report themselves every 12 hours, or another try has failed
		if p.desired[name(i)] != nil {
			p.report(name(i))
		}
	}
	if len(p.verdicts) != 1 {
		t.Errorf("resumed, nothing new happened: frozen again: %d verdicts, standing %s", len(p.verdicts), p.standing("r1"))
	}
}

// TestLateReportOfAnEarlierBoot: a report that is sourced late doesn't make the host
// deaf for the start of its agent that has sent events since.
func TestLateReportOfAnEarlierBoot(t *testing.T) {
	p := guarded(t)
	h := name(0)
	p.tell(h, "r1")
	r := p.reports[h]
	// boot-2 reports itself and dies at once; boot-3 starts and its check fails.
	late := *r
	late.Boot = "boot-2"
	late.Checks = map[rollout.ID]rollout.Check{"docker": {Status: rollout.Pending}}
	e := p.event(h, rollout.Failing)
	e.Boot, e.Sequence = "boot-3", 1
	p.send(h, e) // direct
	p.reports[h] = &late
	p.report(h) // sourced, a moment later
	third := late
	third.Boot, third.Event = "boot-3", 1
	third.Checks = map[rollout.ID]rollout.Check{"docker": {Status: rollout.Failing}}
	p.reports[h] = &third
	p.report(h)
	p.pass(5 * time.Minute)
	p.listens("s1")
	// and again
	e = p.event(h, rollout.Failing)
	e.Boot, e.Sequence = "boot-3", 3
	p.send(h, e)
	p.report(h)
	p.pass(24 * time.Hour)
	p.listens("s1")
	p.want("r1", "1/1 0/99")
}

// TestNobodyKnown: nothing is clear before the inventory is there.
func TestNobodyKnown(t *testing.T) {
	p := newTape(t)
	p.objective(docker())
	p.start("r1", "docker-healthy")
	if why, _ := p.f.Clear("r1"); why == "" {
		t.Errorf("no host has been heard of, and the rollout is clear")
	}
}

// TestClockStep: while the broker's clock is behind nothing can come to count, and
// nothing is clear.
func TestClockStep(t *testing.T) {
	p := guarded(t)
	p.now = p.now.Add(30 * 24 * time.Hour)
	p.listens("s1")
	p.now = p.now.Add(-30 * 24 * time.Hour)
	for i := range 60 {
		p.pass(time.Minute)
		p.tell(name(i), "r1")
		p.pass(time.Minute)
		p.breaks(name(i))
	}
	if why, _ := p.f.Clear("r1"); len(p.verdicts) == 0 && why == "" {
		t.Errorf("60 of 60 failed for a minute and more, no verdict, and clear: %s", p.standing("r1"))
	}
}

// TestToldWhileFlapping: a check that is red for a moment while its host is told is no
// failure.
func TestToldWhileFlapping(t *testing.T) {
	p := guarded(t)
	h := name(0)
	p.fails(h)
	p.pass(time.Second)
	p.tell(h, "r1")
	p.pass(time.Second)
	p.send(h, p.event(h, rollout.Passing))
	p.pass(time.Hour)
	p.listens("s1")
	p.want("r1", "0/1 0/99")
}

// TestRolesWithoutEnd: a host that says it has another role each time costs nobody
// else anything.
func TestRolesWithoutEnd(t *testing.T) {
	p := guarded(t)
	h := name(0)
	began := time.Now()
	look := func() time.Duration { s := time.Now(); p.f.View("r1"); p.f.Clear("r1"); return time.Since(s) }
	before := look()
	for i := range 20_000 {
		p.reports[h].Role = rollout.Word(fmt.Sprint("role-", i))
		p.reports[h].Labels = map[rollout.Word]rollout.Word{"rack": rollout.Word(fmt.Sprint("rack-", i))}
		p.report(h)
	}
	p.messages = nil
	t.Logf("20,000 reports in %s", time.Since(began))
	if after := look(); after > 10*before && after > 10*time.Millisecond {
		t.Errorf("a look took %s before, and takes %s now", before, after)
	}
}
