package main

import (
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// blindBad is a bad rollout of one host, which has failed: the guard has nobody to
// compare it with.
func blindBad() bad {
	return bad{id: "helios-0-9-1", hosts: 1, view: control.RolloutView{
		State: rollout.StateRunning, ReasonCode: rollout.Unconfirmed, Told: 1, Target: 1,
		Guard: &control.GuardView{Clear: true, Standings: []slo.Standing{{E: 7, Bar: 100, Treated: 1, TreatedFailed: 1}}},
	}}
}

// It has ended when the guard has frozen it or can't tell, and then only so.
func TestBadStatus(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *bad)
		of     func() bad
		ended  bool
		fault  string
		want   string
	}{
		"frozen": {nil, frozenBad, true, "", "helios-0-9-1 frozen by the guard after 3 of 40 hosts"},
		"frozen by a person": {func(b *bad) { b.view.Abort.Actor = "ada" }, frozenBad, true,
			"rollout helios-0-9-1 was frozen, but not by the guard: frozen by abort 9", "helios-0-9-1 frozen by abort 9: the change does harm"},
		"frozen by hand in the guard's name": {func(b *bad) { b.view.Abort.Evidence = nil }, frozenBad, true, "not by the guard", "helios-0-9-1 frozen by abort 9"},
		"cancelled":                          {func(b *bad) { b.view.State = rollout.StateCancelled }, frozenBad, true, "wasn't frozen by the guard", "helios-0-9-1 frozen by"},
		"blind":                              {nil, blindBad, true, "", "helios-0-9-1: 1 host, too few for the guard to tell"},
		"a failure that doesn't count yet": {func(b *bad) {
			b.view.Guard.Standings[0].TreatedFailed, b.failing, b.said = 0, 1, "h1: refused"
		}, blindBad, false, "wasn't frozen", "helios-0-9-1 moving: told 1 host, 1 failing"},
		"more failures would do":         {func(b *bad) { b.view.Guard.Standings[0].Needs = 1 }, blindBad, false, "wasn't frozen", "helios-0-9-1 moving"},
		"hosts are still to come":        {func(b *bad) { b.view.Target = 2 }, blindBad, false, "wasn't frozen", "helios-0-9-1 moving"},
		"a verdict that is on its way":   {func(b *bad) { b.view.Guard.Standings[0].E = 100 }, blindBad, false, "wasn't frozen", "helios-0-9-1 moving"},
		"the guard has said nothing yet": {func(b *bad) { b.view.Guard.Standings = nil }, blindBad, false, "wasn't frozen", "helios-0-9-1 moving"},
		"the evidence isn't fresh": {func(b *bad) {
			b.view.Guard.Clear, b.view.Reason, b.view.ReasonCode = false, "no fresh evidence", rollout.NoFreshEvidence
		}, blindBad, false, "wasn't frozen", "helios-0-9-1 not moving: no fresh evidence"},
	} {
		b := c.of()
		if c.change != nil {
			c.change(&b)
		}
		fault := ""
		if err := b.fault(); err != nil {
			fault = err.Error()
		}
		if _, _, words, _ := b.status(); b.ended() != c.ended || !strings.HasPrefix(words, c.want) {
			t.Errorf("%s: ended %v, %q; want %v, %q", name, b.ended(), words, c.ended, c.want)
		}
		if (fault == "") != (c.fault == "") || !strings.Contains(fault, c.fault) {
			t.Errorf("%s: the fault is %q, want %q", name, fault, c.fault)
		}
	}
}

// The guard may let as many hosts fail as it needs, and those that were told
// before the first failure counted.
func TestJudge(t *testing.T) {
	began := time.Unix(1000, 0)
	d := &demo{demoOptions: demoOptions{hosts: 40, over: 40 * time.Second}}
	d.scene.bad = frozenBad()
	v := d.scene.bad.view.Abort.Evidence
	told := &tally{badTold: map[rollout.Host]time.Time{
		"before": began.Add(-time.Second), "meanwhile": began.Add(d.judgedFor() / 2), "after": began.Add(d.judgedFor()),
	}}
	if err := d.judge(told); err == nil {
		t.Error("evidence without a host that failed is enough")
	}
	v.Failed = []slo.Failure{{Host: "before", Time: began}}
	for of, good := range map[int]bool{1: true, mostFailed + 1: true, mostFailed + 2: false} {
		v.Of = of
		if err := d.judge(told); (err == nil) != good {
			t.Errorf("%d failed: %v", of, err)
		}
	}
	d.scene.bad = blindBad()
	if err := d.judge(told); err != nil {
		t.Errorf("too few hosts to tell: %v", err)
	}
}

// What the audit log says is wrong is seen.
func TestTally(t *testing.T) {
	row := func(origin uint64, host rollout.Host, by rollout.ID) control.AuditRecord {
		return control.AuditRecord{Origin: origin, Host: host, Rollout: by, Reason: "its turn", Actor: "scheduler"}
	}
	bad := &control.RolloutView{ID: "bad", Abort: &control.AbortView{Sequence: 9}}
	first := []control.AuditRecord{row(1, "a", ""), row(1, "a", ""), row(2, "b", ""), row(2, "b", ""), row(5, "a", "bad"), row(8, "b", "good")}
	nameless := row(6, "b", "")
	nameless.Actor = ""
	for want, more := range map[string][]control.AuditRecord{
		"": {row(10, "b", "good")},
		"bad told b with record 10, after its abort, which is 9": {row(10, "b", "bad")},
		"bad told a twice": {row(6, "a", "bad")},
		"audit record 0 of b has no reason or no actor": {nameless},
	} {
		tally := newTally()
		for _, r := range append(first, more...) {
			tally.add(&r, "good", bad)
		}
		if got := strings.Join(tally.wrong, "; "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if tally.records != len(first)-2+len(more) || tally.byHost["a"]+tally.byHost["b"] != uint64(tally.records) {
			t.Errorf("%q: %d records, by host %v", want, tally.records, tally.byHost)
		}
	}
}

// Where there is nobody to compare with the demo says so, and succeeds.
func TestDemoOfOneHost(t *testing.T) {
	left := inTemp(t)
	p := launch(t, "demo", "--hosts", "1", "--over", "1s", "--exit")
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d:\n%s", code, p.stderr.String())
	}
	out := p.stdout.String()
	for _, want := range []string{
		"helios-0-9-1: 1 host, too few for the guard to tell", "there are too few for the guard to tell", "told       1 of 1 host, and all have failed",
		"docker-1-12-3 is complete: all 1 host run", "audit      3 records of 3 changes: 1 first documents, 1 by docker-1-12-3, 1 by helios-0-9-1",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it doesn't print %s:\n%s", want, out)
		}
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %s", l)
	}
}
