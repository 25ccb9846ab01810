package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// guarded is a machine whose service fails its check from version 2 on, or whose
// agent dies of it.
type guarded struct {
	name string
	file string // says which version it runs
	*process
}

// machines starts so many hosts of a role, each with a variable that lives in a
// file, and a check that fails where the file says bad.
func (s *site) machines(role, variable string, n int) (all []*guarded) {
	s.t.Helper()
	for i := range n {
		g := &guarded{name: fmt.Sprintf("%s%d.example.net", role, i+1)}
		dir := filepath.Join(s.dir, "machines", g.name)
		g.file = write(s.t, filepath.Join(dir, "version"), 0o644, "1\n")
		enact := write(s.t, filepath.Join(dir, "enact"), 0o755, fmt.Sprintf("#!/bin/sh\necho \"$1\" > %s.new && mv %s.new %s\n", g.file, g.file, g.file))
		check := write(s.t, filepath.Join(dir, "check"), 0o755, fmt.Sprintf("#!/bin/sh\nread -r version <%s\n[ \"$version\" = bad ] || exit 0\necho 'connection refused on port 8080'\nexit 1\n", g.file))
		g.process = s.agent(g.name, role, fmt.Sprintf(
			"enact:\n  %s: {exec: [%s], observe: [cat, %s]}\nchecks:\n  app: {exec: [%s], every: 2s}\n", variable, enact, g.file, check))
		all = append(all, g)
	}
	return all
}

func names(all ...[]*guarded) (out []string) {
	for _, machines := range all {
		for _, g := range machines {
			out = append(out, g.name)
		}
	}
	return out
}

const appHealthy = `kind: Objective
name: app-healthy
check: app
withinOfChange: {atMost: 1%, window: 5s}
for: 2s
grace: 2s
`

func stringVariable(name string) string {
	return fmt.Sprintf("---\nkind: Variable\nname: %s\ntype: string\ninitial: \"1\"\n", name)
}

// cleared waits until the guard lets a rollout go on: it listens for three
// heartbeats before it vouches for anybody's silence.
func (s *site) cleared(id string) {
	s.t.Helper()
	s.until(90*time.Second, id, "is cleared by the guard", func(v control.RolloutView) bool { return v.Guard != nil && v.Guard.Clear })
}

// frozen waits for the guard to freeze a rollout, and returns how it stands then.
func (s *site) frozen(id string) control.RolloutView {
	s.t.Helper()
	v := s.until(3*time.Minute, id, "is frozen", func(v control.RolloutView) bool { return v.State == rollout.StateFrozen })
	if v.Abort == nil || v.Abort.Actor != "sloguard" || v.Abort.Evidence == nil {
		s.t.Fatalf("the guard's abort: %+v", v.Abort)
	}
	return v
}

// stopped checks what a freeze promises: at most three hosts had been told but for
// those told a moment before, and nobody is told any more. The moment is how long a failure takes to count, and then some:
// the machine is busy.
func (s *site) stopped(v control.RolloutView, moment time.Duration) *slo.Verdict {
	s.t.Helper()
	verdict := v.Abort.Evidence
	early := 0
	for _, r := range ask[[]control.AuditRecord](s, "audit", "--rollout", string(v.ID)) {
		if r.Kind != "desired" {
			continue
		}
		if r.Origin > v.Abort.Sequence {
			s.t.Errorf("%s was told with sequence %d, after the abort's %d", r.Host, r.Origin, v.Abort.Sequence)
		}
		if r.Time.Before(verdict.Time.Add(-moment)) {
			early++
		}
	}
	unlucky := verdict.Standings[0].ControlFailed // a machine this busy loses a heartbeat or two
	if verdict.Of < 2 || early > 3+unlucky {
		s.t.Errorf("%d hosts had failed by the freeze, and %d were told more than %s before: want at most 3", verdict.Of, early, moment)
	}
	s.t.Logf("%s: %d failed, %d told, E %.4g: %s", v.ID, verdict.Of, v.Told, verdict.Standings[0].E, v.Abort.Why)
	return verdict
}

// TestGuard gives 30 hosts of one role a value that breaks their service, and at
// the same time 20 hosts of another role a harmless one, under one objective.
func TestGuard(t *testing.T) {
	s := newSite(t)
	s.tsunamid()
	s.apply("objects.yaml", appHealthy+stringVariable("app_version")+stringVariable("lib_version"))
	web, db := s.machines("web", "app_version", 30), s.machines("db", "lib_version", 20)
	s.welcomed(names(web, db)...)
	const common = "inFlight: {max: 100%%, perRole: 100%%}\nguard: {objectives: [app-healthy]}\n"
	s.apply("rollouts.yaml", fmt.Sprintf("kind: Rollout\nname: bad\nvariable: app_version\nto: bad\nwhere: role == \"web\"\nramp: {over: 2m}\n"+common+
		"---\nkind: Rollout\nname: good\nvariable: lib_version\nto: \"2\"\nwhere: role == \"db\"\nramp: {over: 20s}\n"+common))
	verdict := s.stopped(s.frozen("bad"), 15*time.Second)
	for _, f := range verdict.Failed {
		if f.How != slo.FailedCheck || f.Role != "web" || !strings.Contains(f.Output, "connection refused on port 8080") {
			t.Errorf("a failed host: %+v", f)
		}
	}
	good := s.until(2*time.Minute, "good", "is complete", func(v control.RolloutView) bool { return v.State == rollout.StateCompleted })
	if good.Confirmed != 20 || good.Abort != nil {
		t.Errorf("the harmless one: %+v", good)
	}
	for _, g := range db {
		if b, err := os.ReadFile(g.file); err != nil || strings.TrimSpace(string(b)) != "2" {
			t.Errorf("%s runs %q: %v", g.name, b, err)
		}
	}
	show := s.must("rollout", "show", "bad")
	for _, want := range []string{"app-healthy", "connection refused on port 8080", "sloguard", "rollback bad"} {
		if !strings.Contains(show, want) {
			t.Errorf("rollout show doesn't say %q:\n%s", want, show)
		}
	}
	// Before it is armed anywhere else: the same evidence, replayed.
	replay := s.must("objective", "replay", "--rollout", "bad")
	if !strings.Contains(replay, fmt.Sprint(verdict.Sequence)) {
		t.Errorf("the replay doesn't come to the verdict at %d:\n%s", verdict.Sequence, replay)
	}
}

// TestGuardSilence kills each agent as soon as its host has enacted.
func TestGuardSilence(t *testing.T) {
	s := newSite(t)
	s.tsunamid()
	s.apply("objects.yaml", appHealthy+stringVariable("app_version"))
	web := s.machines("web", "app_version", 30)
	s.welcomed(names(web)...)
	s.apply("rollout.yaml", "kind: Rollout\nname: deadly\nvariable: app_version\nto: \"2\"\nramp: {over: 10m}\ninFlight: {max: 100%, perRole: 100%}\nguard: {objectives: [app-healthy]}\n")
	done := make(chan struct{})
	killed := make(chan int)
	go func() {
		dead := make(map[string]bool)
		for {
			for _, g := range web {
				if b, err := os.ReadFile(g.file); err == nil && strings.TrimSpace(string(b)) == "2" && !dead[g.name] {
					dead[g.name] = true
					_ = g.cmd.Process.Signal(syscall.SIGKILL) // it has gone already at the worst
				}
			}
			select {
			case <-done:
				killed <- len(dead)
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	v := s.frozen("deadly")
	close(done)
	t.Logf("%d agents were killed", <-killed)
	// A silence counts after three heartbeats, its grace and half a heartbeat.
	verdict := s.stopped(v, time.Minute)
	for _, f := range verdict.Failed {
		if f.How != slo.FailedSilence || f.Told.IsZero() {
			t.Errorf("a failed host: %+v", f)
		}
	}
	t.Logf("the evidence, replayed:\n%s", s.must("objective", "replay", "--rollout", "deadly"))
}

// TestGuardKilled kills the guard, a process of its own, in the middle of a
// rollout that fails, and stops it for good in another.
func TestGuardKilled(t *testing.T) {
	s := newSite(t)
	s.http = "http://" + freeAddress(t)
	s.ready(start(t, s.dir, "tsunamid", "tsunamid", "--data", filepath.Join(s.dir, "data"), "--listen", s.address(),
		"--http", strings.TrimPrefix(s.http, "http://"), "--run", "broker,scheduler,console"))
	guard := start(t, s.dir, "guard", "tsunamid", "--nats", s.url, "--run", "sloguard")
	s.apply("objects.yaml", appHealthy+stringVariable("app_version"))
	web := s.machines("web", "app_version", 20)
	s.welcomed(names(web)...)
	document := func(name, to string) string {
		return fmt.Sprintf("kind: Rollout\nname: %s\nvariable: app_version\nto: %s\nramp: {over: 2m}\ninFlight: {max: 100%%, perRole: 100%%}\nguard: {objectives: [app-healthy]}\n", name, to)
	}
	s.apply("bad.yaml", document("bad", "bad"))
	s.until(2*time.Minute, "bad", "has told somebody", func(v control.RolloutView) bool { return v.Told >= 1 })
	guard.kill()
	guard.start()
	verdict := s.stopped(s.frozen("bad"), time.Minute) // it has to listen anew
	at := fmt.Sprintf("at sequence %d", verdict.Sequence)
	guard.kill()
	guard.start()
	s.until(2*time.Minute, "bad", "is judged again by a guard that was started anew", func(v control.RolloutView) bool {
		return v.Guard != nil && strings.Contains(v.Guard.Why, at)
	})
	if v := s.rollout("bad"); v.Abort.Evidence.Sequence != verdict.Sequence {
		t.Errorf("another abort: %+v", v.Abort)
	}
	s.must("rollout", "cancel", "bad", "--why", "it is bad")

	s.apply("next.yaml", document("next", "\"2\""))
	s.cleared("next")
	guard.stop()
	s.until(2*time.Minute, "next", "holds without a guard, and says so", func(v control.RolloutView) bool {
		return v.State == rollout.StateRunning && v.ReasonCode == rollout.NoFreshEvidence && v.Reason != ""
	})
	told := s.rollout("next").Told
	time.Sleep(5 * time.Second)
	if v := s.rollout("next"); v.Told != told || v.ReasonCode != rollout.NoFreshEvidence {
		t.Errorf("it went on without a guard: %+v", v)
	}
	guard.start()
	s.until(2*time.Minute, "next", "goes on by itself", func(v control.RolloutView) bool { return v.Told > told && v.Reason == "" })
}
