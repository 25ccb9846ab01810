package evidence

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/field"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func TestABadRolloutIsFrozenAfterFewFailures(t *testing.T) {
	p := guarded(t)
	p.tell("h0003", "r1")
	p.pass(time.Hour)
	p.breaks("h0003")
	p.want("r1", "1/1 0/99")
	p.tell("h0004", "r1")
	p.breaks("h0004")
	if len(p.verdicts) != 1 {
		t.Fatalf("%d verdicts; %s", len(p.verdicts), p.standing("r1"))
	}
	v := p.verdicts[0]
	if v.Rollout != "r1" || v.Kind != slo.Harm || v.Objective != "docker-healthy" || v.Sequence != uint64(len(p.messages)) || !v.Time.Equal(p.now) || v.Of != 2 || v.Failed[1].Host != "h0004" || v.Failed[1].Output != "exit status 1" {
		t.Fatalf("%+v", v)
	}
	if out := strings.Join(v.RuledOut, "\n"); !strings.Contains(out, "none of the failed hosts has been told anything else") {
		t.Fatalf("%s", out)
	}
	if view, _ := p.f.View("r1"); !strings.Contains(view.Unclear, "the evidence against it suffices (harm of docker-healthy") {
		t.Fatalf("%+v", view)
	}
	// It is pending until the abort in the bucket carries it.
	if len(p.f.Pending()) != 1 {
		t.Fatal("the verdict isn't pending")
	}
	p.abort(v)
	if len(p.f.Pending()) != 0 {
		t.Fatal("the verdict is still pending")
	}
}

func TestTheHostsWordMayComeFirst(t *testing.T) {
	p := guarded(t)
	c := p.next("h0001", "docker_version", value("2"), "r1")
	p.send("h0001", p.event("h0001", rollout.Pending))
	p.want("r1", "0/1 0/99")
	p.pass(10 * time.Second)
	p.fails("h0001")
	p.pass(20 * time.Second)
	p.change(c) // sourced late
	p.pass(40 * time.Second)
	p.listens("s1")
	p.want("r1", "1/1 0/99")
}

// TestWhatIsTakenOfEvents is a list of what may happen to events between a host
// and the stream.
func TestWhatIsTakenOfEvents(t *testing.T) {
	check := func(boot string, sequence uint64, status string) subjects.HealthEvent {
		return subjects.HealthEvent{Kind: subjects.HealthCheck, Boot: boot, Sequence: sequence, Check: "docker", Status: status, Time: epoch}
	}
	for _, c := range []struct {
		name   string
		events []subjects.HealthEvent
		fails  bool
	}{
		{"one", []subjects.HealthEvent{check("boot-1", 1, "failing")}, true},
		{"a duplicate that was overtaken", []subjects.HealthEvent{check("boot-1", 1, "failing"), check("boot-1", 2, "passing"), check("boot-1", 1, "failing")}, false},
		{"out of order", []subjects.HealthEvent{check("boot-1", 3, "failing"), check("boot-1", 2, "passing")}, true},
		{"a gap", []subjects.HealthEvent{check("boot-1", 1, "passing"), check("boot-1", 90, "failing")}, true},
		{"a new boot begins at 1", []subjects.HealthEvent{check("boot-1", 50, "passing"), check("boot-2", 1, "failing")}, true},
		{"an older boot's", []subjects.HealthEvent{check("boot-2", 1, "passing"), check("boot-1", 99, "failing")}, false},
		{"back and forth", []subjects.HealthEvent{check("boot-2", 1, "failing"), check("boot-1", 99, "passing"), check("boot-2", 1, "passing")}, true},
		{"without a boot", []subjects.HealthEvent{check("", 1, "failing")}, false},
		{"without a sequence", []subjects.HealthEvent{check("boot-1", 0, "failing")}, false},
		{"a boot too long to be one", []subjects.HealthEvent{check(strings.Repeat("x", 1000), 1, "failing")}, false},
		{"a status of a newer agent", []subjects.HealthEvent{check("boot-1", 1, "unknown")}, false},
		{"another check", []subjects.HealthEvent{{Kind: subjects.HealthCheck, Boot: "boot-1", Sequence: 1, Check: "memory", Status: "failing"}}, false},
		{"no check", []subjects.HealthEvent{{Kind: subjects.HealthCheck, Boot: "boot-1", Sequence: 1, Status: "failing"}}, false},
		{"a refusal", []subjects.HealthEvent{{Kind: subjects.HealthRefused, Boot: "boot-1", Sequence: 1, Status: "failing"}}, false},
		{"the clock a day behind", []subjects.HealthEvent{{Kind: subjects.HealthCheck, Boot: "boot-1", Sequence: 1, Check: "docker", Status: "failing", Time: epoch.Add(-24 * time.Hour)}}, true},
		{"the clock a day ahead", []subjects.HealthEvent{{Kind: subjects.HealthCheck, Boot: "boot-1", Sequence: 1, Check: "docker", Status: "failing", Time: epoch.Add(24 * time.Hour)}}, true},
		{"gave up", []subjects.HealthEvent{{Kind: subjects.HealthEnact, Boot: "boot-1", Sequence: 1, Variable: "docker_version", Rollout: "r1", Generation: 1, Status: "failed"}}, true},
		{"gave up another variable", []subjects.HealthEvent{{Kind: subjects.HealthEnact, Boot: "boot-1", Sequence: 1, Variable: "kernel", Rollout: "r1", Generation: 1, Status: "failed"}}, false},
		{"still trying", []subjects.HealthEvent{{Kind: subjects.HealthEnact, Boot: "boot-1", Sequence: 1, Variable: "docker_version", Rollout: "r1", Generation: 1, Status: "retrying"}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := guarded(t)
			p.tell("h0001", "r1")
			for _, e := range c.events {
				p.send("h0001", e)
			}
			p.pass(59 * time.Second)
			p.listens("s1")
			if c.events[0].Kind == subjects.HealthCheck {
				p.want("r1", "0/1 0/99") // not before its minute, whatever the host's clock says
			}
			p.pass(time.Second)
			p.listens("s1")
			want := "0/1 0/99"
			if c.fails {
				want = "1/1 0/99"
			}
			p.want("r1", want)
		})
	}
}

func TestAnEventIsAboutTheHostOfItsSubject(t *testing.T) {
	p := guarded(t)
	p.tell("h0001", "r1")
	data := p.encode(p.event("h0002", rollout.Failing))
	data = append([]byte(`{"host":"h0001",`), data[1:]...)
	p.put(subjects.Health("h0002"), nil, data)
	p.put(subjects.Health("stranger"), nil, data)
	p.pass(time.Minute)
	p.listens("s1")
	p.want("r1", "0/1 1/99")
}

func TestAReportOlderThanTheNewestEventSaysNothing(t *testing.T) {
	p := guarded(t)
	p.tell("h0001", "r1")
	p.send("h0001", p.event("h0001", rollout.Passing))
	p.fails("h0001")
	p.reports["h0001"].Event = 1 // made after the first
	p.report("h0001")            // it says that the check passes
	p.pass(time.Minute)
	p.listens("s1")
	p.want("r1", "1/1 0/99")
}

// TestAReportStandsInForLostEvents: agents report themselves, so what is lost on
// the way to the stream is late, not lost.
func TestAReportStandsInForLostEvents(t *testing.T) {
	p := guarded(t)
	p.tell("h0001", "r1")
	p.tell("h0002", "r1")
	p.reports["h0001"].Checks["docker"] = rollout.Check{Status: rollout.Failing, Output: "exit status 1"}
	p.reports["h0002"].Enact = map[rollout.Name]rollout.Enact{"docker_version": {Status: rollout.EnactFail, Generation: 1, Error: "no space left"}}
	p.report("h0001")
	p.report("h0002")
	p.pass(time.Minute)
	p.listens("s1")
	p.want("r1", "2/2 0/98")
}

func TestWhoIsNotWatched(t *testing.T) {
	p := newTape(t)
	p.objective(docker())
	p.hosts(0, 100, "web")
	pinned := p.host("pinned", "web")
	pinned.Enact = map[rollout.Name]rollout.Enact{"docker_version": {Status: rollout.Enacted, Pinned: true}}
	p.report("pinned")
	has := p.host("has", "web")
	has.Actual["docker_version"] = value("2")
	p.report("has")
	ill := p.host("ill", "web")
	ill.Checks["docker"] = rollout.Check{Status: rollout.Failing}
	p.report("ill")
	p.host("unselected", "db")
	p.host("excluded", "web")
	r := p.start("r0", "docker-healthy")
	r.Spec.Name, r.Spec.Where, r.Spec.Exclude = "r1", `role == "web"`, []rollout.Host{"excluded"}
	p.records["r1"] = r
	p.record("r1")
	p.want("r1", "0/0 0/100")
	if view, _ := p.f.View("r1"); view.Standings[0].Unwatched != 1 {
		t.Fatalf("%d are unwatched, want the one that is ill", view.Standings[0].Unwatched)
	}
	// Whatever they are told, or say, they don't come in: but for a host that
	// recovers.
	for _, host := range []rollout.Host{"has", "pinned"} {
		p.tell(host, "r1")
		p.report(host)
		p.breaks(host)
	}
	for _, host := range []rollout.Host{"unselected", "excluded"} {
		e := p.event(host, rollout.Passing)
		e.Rollout, e.Generation = "r1", 7
		p.send(host, e)
		p.report(host)
		p.breaks(host)
	}
	p.want("r1", "0/0 0/100")
	p.send("ill", p.event("ill", rollout.Passing))
	p.want("r1", "0/0 0/101")
}

func TestToldWhileFailing(t *testing.T) {
	p := guarded(t)
	p.fails("h0001")
	p.pass(10 * time.Second)
	p.tell("h0001", "r1")
	p.pass(time.Hour)
	p.listens("s1")
	p.want("r1", "0/0 1/100")
}

func TestAPinTakesAHostOut(t *testing.T) {
	p := guarded(t)
	p.tell("h0001", "r1")
	p.tell("h0001", "") // a pin
	p.want("r1", "0/0 0/99")
	p.reports["h0001"].Enact = map[rollout.Name]rollout.Enact{"docker_version": {Status: rollout.Enacted, Pinned: true}}
	p.report("h0001")
	p.breaks("h0001")
	p.want("r1", "0/0 0/99")
	// Another variable's change is no matter of this rollout's.
	p.tell("h0002", "r1")
	p.change(p.next("h0002", "kernel", value("6"), ""))
	p.want("r1", "0/1 0/98")
	p.breaks("h0002")
	p.want("r1", "1/1 0/98")
}

func TestAnotherChangeIsNotRuledOut(t *testing.T) {
	p := guarded(t)
	for _, host := range []rollout.Host{"h0001", "h0002"} {
		p.tell(host, "r1")
		p.pass(time.Second)
		p.change(p.next(host, "kernel", value("6"), "kernel-6"))
		p.breaks(host)
	}
	if len(p.verdicts) != 1 || !strings.Contains(strings.Join(p.verdicts[0].RuledOut, "\n"), "2 of them were told something else since, by kernel-6") {
		t.Fatalf("%+v", p.verdicts)
	}
}

func TestDecommissioned(t *testing.T) {
	p := guarded(t)
	p.tell("h0001", "r1")
	c := p.next("h0001", "docker_version", value("2"), "r1")
	c.Decommissioned = true
	p.change(c)
	p.fails("h0001")
	p.pass(time.Hour)
	p.listens("s1")
	p.want("r1", "0/0 0/99")
}

func TestAHostThatChangesItsRole(t *testing.T) {
	p := guarded(t)
	p.hosts(100, 110, "db")
	p.reports["h0001"].Role = "db"
	p.report("h0001")
	if s, _ := p.f.rollouts["r1"].watch.Stratum("h0001"); s != "db" {
		t.Fatalf("it is compared with %s", s)
	}
	p.tell("h0001", "r1")
	p.reports["h0001"].Role = "web"
	p.report("h0001")
	if s, _ := p.f.rollouts["r1"].watch.Stratum("h0001"); s != "db" {
		t.Fatalf("a treated host is compared with %s now", s)
	}
	p.want("r1", "0/1 0/109")
	// However often a host changes: it fails once.
	for i := range 10 {
		p.reports["h0002"].Role = rollout.Word([]string{"db", "web"}[i%2])
		p.report("h0002")
		p.send("h0002", p.event("h0002", rollout.Passing))
		p.breaks("h0002")
	}
	p.want("r1", "0/1 1/109")
}

func TestSilence(t *testing.T) {
	p := guarded(t)
	p.tell("h0001", "r1")
	p.silence("h0001", subjects.HostSilent, "s1")
	p.pass(2 * time.Minute)
	p.listens("s1")
	p.want("r1", "0/1 0/99")
	// The guard is started anew. It can't know whether the host was heard while
	// nobody listened.
	p.pass(time.Hour)
	p.listens("s2")
	p.want("r1", "0/1 0/99")
	p.silence("h0001", subjects.HostSilent, "s2")
	p.listens("s2")
	p.pass(3*time.Minute - time.Second)
	p.listens("s2")
	p.want("r1", "0/1 0/99")
	p.pass(time.Second)
	p.listens("s2")
	p.want("r1", "1/1 0/99")
	if silent, by := p.f.Silent("h0001", "s2"); !silent || !by {
		t.Fatal("it isn't known to be silent")
	}
	// Any sign of life ends a silence.
	for i, sign := range []func(){
		func() { p.silence("h0010", subjects.HostHeard, "s2") },
		func() { p.report("h0010") },
		func() { p.send("h0010", p.event("h0010", rollout.Passing)) },
	} {
		p.silence("h0010", subjects.HostSilent, "s2")
		p.pass(2 * time.Minute)
		sign()
		p.pass(2 * time.Minute)
		p.listens("s2")
		if silent, _ := p.f.Silent("h0010", "s2"); silent {
			t.Fatalf("sign %d isn't one", i)
		}
	}
	p.want("r1", "1/1 0/99")
}

func TestMassSilenceIsNotTheChange(t *testing.T) {
	p := guarded(t)
	p.tell("h0000", "r1")
	for i := range 20 {
		p.silence(name(i), subjects.HostSilent, "s1")
	}
	p.pass(time.Hour)
	p.listens("s1")
	p.want("r1", "1/1 19/99") // 19 of 99 aren't 20 %, so far
	p = guarded(t)
	p.tell("h0000", "r1")
	for i := range 21 {
		p.silence(name(i), subjects.HostSilent, "s1")
	}
	p.pass(time.Hour)
	p.listens("s1")
	p.want("r1", "0/1 0/99")
	if view, _ := p.f.View("r1"); !strings.Contains(view.Unclear, "20 of 99 hosts of web that aren't changed are silent together") {
		t.Fatalf("%q", view.Unclear)
	}
	for i := range 21 {
		p.silence(name(i), subjects.HostHeard, "s1")
	}
	if view, _ := p.f.View("r1"); view.Unclear != "" {
		t.Fatalf("%q", view.Unclear)
	}
}

func TestNoDataHolds(t *testing.T) {
	p := newTape(t)
	p.objective(&slo.Objective{Name: "strict", Check: "memory"})
	p.objective(&slo.Objective{Name: "lax", Check: "memory", NoData: slo.NoDataPass})
	p.hosts(0, 10, "web")
	for id, want := range map[rollout.ID]string{
		"strict": "none of its 10 hosts has been seen to pass the check memory", "lax": "", "none": "there is no objective none",
	} {
		p.start("r-"+id, id)
		view, ok := p.f.View("r-" + id)
		if !ok || want == "" && view.Unclear != "" || !strings.Contains(view.Unclear, want) {
			t.Errorf("%s: %q", id, view.Unclear)
		}
	}
	if _, ok := p.f.View("another"); ok {
		t.Error("a rollout that isn't watched is shown")
	}
}

func TestTwoObjectivesShareAlpha(t *testing.T) {
	p := guarded(t, docker(), &slo.Objective{Name: "docker-too", Check: "docker"})
	p.tell("h0001", "r1")
	p.tell("h0002", "r1")
	p.breaks("h0001")
	p.breaks("h0002")
	view, _ := p.f.View("r1")
	sum := 0.0
	for _, s := range view.Standings {
		if s.Bar != 200 {
			t.Fatalf("%+v", s)
		}
		sum += s.E / s.Bar
	}
	if (sum >= 1) != (len(p.verdicts) == 1) {
		t.Fatalf("%d verdicts at %v", len(p.verdicts), sum)
	}
	// The two see the same here, so that together they are as quick as one.
	q := guarded(t)
	q.tell("h0001", "r1")
	q.tell("h0002", "r1")
	q.breaks("h0001")
	q.breaks("h0002")
	if len(p.verdicts) != len(q.verdicts) {
		t.Fatalf("%d verdicts of two, %d of one", len(p.verdicts), len(q.verdicts))
	}
}

func TestAResumeBeginsAnew(t *testing.T) {
	p := guarded(t)
	for i := range 3 {
		p.tell(name(i), "r1")
	}
	p.breaks("h0000")
	p.breaks("h0001")
	if len(p.verdicts) != 1 {
		t.Fatalf("%d verdicts", len(p.verdicts))
	}
	p.abort(p.verdicts[0])
	// The objective is changed meanwhile: no matter before the resume.
	strict := docker()
	strict.WithinOfChange = &slo.Within{AtMost: 1, Window: field.Duration(time.Hour)}
	p.objective(strict)
	if view, _ := p.f.View("r1"); view.Standings[0].Breach != 0 {
		t.Fatalf("%+v", view.Standings)
	}
	p.want("r1", "2/3 0/97")
	r := p.records["r1"]
	r.State, r.Acknowledged = rollout.StateRunning, r.Abort
	p.record("r1")
	view, _ := p.f.View("r1")
	if view.Unclear != "" || view.Standings[0].Breach != 1 || view.Standings[0].E != 1 {
		t.Fatalf("%+v", view)
	}
	// Those that have failed aren't watched before they are healthy again, and are
	// treated then.
	p.want("r1", "0/1 0/97")
	p.send("h0000", p.event("h0000", rollout.Passing))
	p.want("r1", "0/2 0/97")
	p.tell("h0050", "r1")
	p.breaks("h0050")
	p.tell("h0051", "r1")
	p.breaks("h0051")
	if len(p.verdicts) != 2 || p.verdicts[1].Of != 2 {
		t.Fatalf("%+v", p.verdicts)
	}
}

func TestSupersededAndEnded(t *testing.T) {
	for _, state := range []rollout.State{rollout.StateSuperseded, rollout.StateCancelled} {
		p := guarded(t)
		p.records["r1"].State = state
		p.record("r1")
		if n := len(p.f.Rollouts()); n != 0 {
			t.Fatalf("%d rollouts are watched after one is %s", n, state)
		}
	}
	// A completed one is watched as a layer, until another one of its variable covers
	// every host and has completed too.
	p := guarded(t)
	p.tell("h0000", "r1")
	p.records["r1"].State = rollout.StateCompleted
	p.record("r1")
	p.tell("h0001", "r1")
	p.want("r1", "0/2 0/98")
	p.pass(time.Minute)
	r2 := p.start("r2", "docker-healthy")
	if ids := p.f.Rollouts(); len(ids) != 2 {
		t.Fatalf("%v are watched", ids)
	}
	r2.State = rollout.StateCompleted
	p.record("r2")
	if ids := p.f.Rollouts(); len(ids) != 1 || ids[0] != "r2" {
		t.Fatalf("%v are watched", ids)
	}
}

// TestTwoRolloutsJudgeOneFailure: it counts in each of which the host is one.
func TestTwoRolloutsJudgeOneFailure(t *testing.T) {
	p := guarded(t)
	r := p.start("r2", "docker-healthy")
	r.Spec.Variable = "kernel"
	p.records["r3"] = r
	r.Spec.Name = "r3"
	p.record("r3")
	p.tell("h0001", "r1")
	p.breaks("h0001")
	p.want("r1", "1/1 0/99")
	p.want("r3", "0/0 1/100")
}

func TestARollbackIsJudgedByTheObjectiveOnly(t *testing.T) {
	within := docker()
	within.WithinOfChange = &slo.Within{AtMost: 1, Window: field.Duration(time.Hour)}
	p := newTape(t)
	p.objective(within)
	p.hosts(0, 50, "web")
	r := p.start("r1-rollback", "docker-healthy")
	r.Spec.Rollback, r.Spec.Name = "r1", "back"
	p.records["back"] = r
	p.record("back")
	p.want("back", "0/0 0/0")
	for i := 0; len(p.verdicts) == 0; i++ {
		if i == 20 {
			t.Fatal("no verdict")
		}
		p.tell(name(i), "back")
		p.breaks(name(i))
	}
	if v := p.verdicts[0]; v.Kind != slo.Breach || v.Standings[0].Harm != 1 {
		t.Fatalf("%+v", v)
	}
}

func TestBadMessagesChangeNothing(t *testing.T) {
	p := guarded(t)
	p.tell("h0001", "r1")
	p.fails("h0001")
	desired := subjects.EvidenceOf(subjects.KindDesired, "h0002")
	record := subjects.EvidenceOf(subjects.KindRollout, "r1")
	objective := subjects.EvidenceOf(subjects.KindObjective, "docker-healthy")
	c := p.next("h0002", "docker_version", value("2"), "r1")
	h, body, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	without := func(key string) subjects.Header {
		out := subjects.Header{}
		for k, v := range h {
			if k != key {
				out[k] = v
			}
		}
		return out
	}
	foreign := *p.records["r1"]
	foreign.Spec.Variable, foreign.Spec.Where = "docker_version", "role =="
	foreign.Spec.Name = "r9"
	layer := *p.records["r1"]
	layer.State = rollout.StateCompleted
	p.put(record, p.owned(), p.encode(&layer))
	before := text(t, p)
	n := 0
	for _, m := range []Message{
		{Subject: "tsunami.health", Data: []byte(`{}`)},
		{Subject: "tsunami.audit.desired.h0002", Header: h, Data: body},
		{Subject: "tsunami.evidence.pin.h0002", Data: []byte(`{}`)},
		{Subject: "tsunami.evidence.rollout.R1", Header: p.owned(), Data: []byte(`{}`)},
		{Subject: subjects.Health("h0001"), Data: []byte(`{"kind":"check","boot":"boot-1","sequence":1e9`)},
		{Subject: subjects.Health("h0001"), Data: []byte(`{"kind":"check","boot":"boot-1","sequence":-1}`)},
		{Subject: subjects.Health("h0001"), Data: []byte(`{"check":"Not One"}`)},
		{Subject: subjects.Health("h0001"), Data: make([]byte, subjects.MaxBody+1)},
		{Subject: subjects.Health("h0001"), Data: nil},
		{Subject: subjects.Health("H0001"), Data: p.encode(p.event("h0001", rollout.Passing))},
		{Subject: subjects.SilenceOf("h0001"), Data: []byte(`silent`)},
		{Subject: subjects.Listening, Data: []byte(`[]`)},
		{Subject: subjects.EvidenceOf(subjects.KindHost, "h0001"), Data: []byte(`{"role":"web"`)},
		{Subject: subjects.EvidenceOf(subjects.KindHost, "h0001"), Data: []byte(`{}`)},
		{Subject: desired, Data: body},
		{Subject: desired, Header: without(subjects.HeaderGeneration), Data: body},
		{Subject: desired, Header: without(subjects.HeaderTold), Data: body},
		{Subject: desired, Header: h, Data: []byte(`{"docker_version":{}}`)},
		{Subject: record, Header: nil, Data: p.encode(p.records["r1"])},
		{Subject: record, Header: subjects.Header{"KV-Operation": {"DEL"}}},
		{Subject: record, Header: p.owned(), Data: []byte(`{"state":3}`)},
		{Subject: subjects.EvidenceOf(subjects.KindRollout, "r9"), Header: p.owned(), Data: p.encode(&foreign)},
		{Subject: objective, Header: nil, Data: p.encode(docker())},
		{Subject: objective, Header: p.owned(), Data: p.encode(&slo.Objective{Name: "other", Check: "docker"})},
		{Subject: objective, Header: p.owned(), Data: p.encode(&slo.Objective{Name: "docker-healthy", Check: "docker", Alpha: 90})},
	} {
		n++
		if err := p.putAny(m.Subject, m.Header, m.Data); err == nil {
			t.Errorf("%s with %.80s is taken", m.Subject, m.Data)
		} else if len(err.Error()) > 2000 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
		if after := text(t, p); after != before {
			t.Fatalf("%s with %.80s changed %s to %s", m.Subject, m.Data, before, after)
		}
	}
	if p.f.Unread() != n {
		t.Errorf("%d are counted of %d", p.f.Unread(), n)
	}
	// A deleted report harms nobody either, and no error is made of it.
	p.put(subjects.EvidenceOf(subjects.KindHost, "h0001"), subjects.Header{"KV-Operation": {"PURGE"}}, nil)
	if after := text(t, p); after != before {
		t.Fatalf("a deleted report changed %s to %s", before, after)
	}
	p.pass(time.Minute)
	p.listens("s1")
	p.want("r1", "1/1 0/99")
}

// text is all that a fold comes to, for comparisons.
func text(t testing.TB, p *tape) string { return state(t, p.f) }

func state(t testing.TB, f *Fold) string {
	type host struct {
		Name              rollout.Host
		Role              rollout.Word
		Checks            string
		Boot, Session     string
		Sequence          uint64
		Boots             []string
		Silent            bool
		ChangedBy         rollout.ID
		Changed, Reported time.Time
	}
	var all []any
	for _, id := range sortedKeys(f.objectives) {
		all = append(all, f.objectives[id])
	}
	for _, id := range f.Rollouts() {
		r := f.rollouts[id]
		view, _ := f.View(id)
		all = append(all, id, view, r.state, fmt.Sprint(r.told), r.verdict, r.acknowledged, r.aborted)
	}
	for _, n := range sortedKeys(f.hosts) {
		h := f.hosts[n]
		all = append(all, host{h.name, h.role, fmt.Sprint(h.checks), h.boot, h.session, h.sequence, h.boots, h.silent, h.changedBy, h.changed, h.reported})
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
