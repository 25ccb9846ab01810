package main

import (
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/hostagent"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// inTemp gives the demo a directory to make its own in, and returns what is in
// it.
func inTemp(t *testing.T) func() []string {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
}

func TestDemoToItsEnd(t *testing.T) {
	left := inTemp(t)
	p := launch(t, "demo", "--hosts", "15", "--over", "2s", "--exit")
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d:\n%s", code, p.stderr.String())
	}
	out := p.stdout.String()
	for _, want := range []string{
		`15 hosts, 12 roles, 3 zones`,
		`all are in and have their first document; broker nats://127\.0\.0\.1:\d+, console http://127\.0\.0\.1:\d+`,
		`(?m)^ +\d\.\ds  planned +\d+  told +\d+  confirmed +\d+  in flight +\d+  1\.10\.3: +\d+  1\.12\.3: +\d+  `,
		`planned 15  told 15  confirmed 15  in flight  0  1\.10\.3:  0  1\.12\.3: 15  completed`,
		`helios-0-9-1 begins: helios_version 0\.8\.1 → 0\.9\.1, which comes up on no host`,
		`helios-0-9-1 frozen by the guard after \d+ of 15 hosts: \d of \d+ changed failed, 0 of \d+ not yet changed; evidence \S+, bar 100`,
		`helios-0-9-1 was frozen by the guard: helios_version 0\.9\.1 (does harm|breaches helios-healthy)\.`,
		`told       \d+ of 15 hosts; \d had failed`, `frozen     \d\S* s after the first of them`, `evidence   \S+ of 100: `,
		`failed     \S+\.example\.net: localhost:5803: connection refused`, `ruled out  not `,
		`take back  tsunamictl rollout rollback helios-0-9-1 --why "`,
		`docker-1-12-3 is complete: all 15 hosts run docker_version 1\.12\.3\.`,
		`planned    2 s`, `took       \d`, `told       15 hosts, each once, in \d+ steps?, never more than \d+ off`,
		`confirmed  15 hosts`, `in flight  \d+ at the most, of \d+ allowed`,
		`audit      3\d records of 3\d changes: 15 first documents, 15 by docker-1-12-3, \d by helios-0-9-1`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("it doesn't print %s:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("there are terminal codes in what isn't a terminal:\n%q", out)
	}
	if strings.Contains(out, "another terminal") {
		t.Errorf("it suggests commands, and has ended:\n%s", out)
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %s", l)
	}
}

// address finds the broker's in the demo's output.
func (p *process) address() string {
	p.t.Helper()
	re := regexp.MustCompile(`broker (nats://\S+), console`)
	var m []string
	eventually(p.t, func() error {
		if m = re.FindStringSubmatch(p.stdout.String()); m == nil {
			return errors.New("no address:\n" + p.stdout.String() + p.stderr.String())
		}
		return nil
	})
	return m[1]
}

// Without --exit it stays up, so that the commands that it suggests work.
func TestDemoStaysUp(t *testing.T) {
	left := inTemp(t)
	p := launch(t, "demo", "--hosts", "3", "--over", "1s")
	c := client(t, p.address())
	eventually(t, func() error {
		if !strings.Contains(p.stdout.String(), "Ctrl-C ends the demo") {
			return errors.New(p.stdout.String())
		}
		return nil
	})
	out := p.stdout.String()
	for _, command := range []string{"rollout show helios-0-9-1\n", "objective list\n", "rollout rollback helios-0-9-1 --why "} {
		if !strings.Contains(out, "tsunamictl --server "+p.address()+" "+command) {
			t.Errorf("it doesn't suggest %s:\n%s", command, out)
		}
	}
	var h control.HostView
	if err := c.Call(t.Context(), control.HostShow, control.HostRequest{Host: "accesspoint1.lon2.example.net"}, &h); err != nil {
		t.Fatal(err)
	}
	if h.Actual[docker.variable].Text() != docker.to || !h.Online || h.Checks["docker"].Status != rollout.Passing {
		t.Errorf("host: %+v", h)
	}
	if len(left()) != 1 {
		t.Errorf("its directory: %s", left())
	}
	p.stop()
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d:\n%s", code, p.stderr.String())
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %s", l)
	}
}

// A rollout that was cancelled is no success, and an abort is shown.
func TestDemoDisturbed(t *testing.T) {
	left := inTemp(t)
	p := launch(t, "demo", "--hosts", "5", "--over", "30s", "--exit")
	c := client(t, p.address())
	eventually(t, func() error {
		return c.Call(t.Context(), control.RolloutShow, control.RolloutRequest{ID: "docker-1-12-3"}, nil)
	})
	eventually(t, func() error {
		_, err := c.Abort(t.Context(), "docker-1-12-3", "users see errors")
		return err
	})
	eventually(t, func() error {
		if !strings.Contains(p.stdout.String(), "users see errors") {
			return errors.New("the abort isn't shown:\n" + p.stdout.String())
		}
		return nil
	})
	if err := c.Call(t.Context(), control.RolloutCancel, control.RolloutRequest{ID: "docker-1-12-3", Why: "enough"}, nil); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != exitFailed || !strings.Contains(p.stderr.String(), "rollout docker-1-12-3 was cancelled: enough") {
		t.Errorf("exit code %d:\n%s", code, p.stderr.String())
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %s", l)
	}
}

func TestDemoInterrupted(t *testing.T) {
	left := inTemp(t)
	for args, want := range map[string]int{"demo --over 30s --hosts 2 --exit": exitFailed, "demo --over 30s --hosts 2": exitDone} {
		p := launch(t, strings.Fields(args)...)
		p.address()
		p.stop()
		if code := p.wait(); code != want || !strings.Contains(p.stdout.String()+p.stderr.String(), "the demo was interrupted") {
			t.Errorf("%s: exit code %d:\n%s", args, code, p.stderr.String())
		}
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left behind: %s", l)
	}
}

func TestDemoHosts(t *testing.T) {
	for _, n := range []int{1, 2, 11, 12, 13, 40, 200, mostHosts} {
		sizes := zipf(n, min(n, len(demoRoles)))
		sum := 0
		for _, s := range sizes {
			sum += s
		}
		if sum != n || slices.Min(sizes) < 1 || !slices.IsSortedFunc(sizes, func(a, b int) int { return b - a }) {
			t.Errorf("%d hosts: sizes %v", n, sizes)
		}
		names, roles := map[rollout.Host]bool{}, map[rollout.Word]int{}
		for _, h := range demoHosts(n, t.TempDir(), time.Millisecond, time.Second) {
			if _, err := rollout.ParseHost(string(h.name)); err != nil || names[h.name] {
				t.Errorf("%d hosts: %s: %v", n, h.name, err)
			}
			names[h.name] = true
			roles[h.role]++
			if err := h.options(nil, nil).Config.Validate(); err != nil {
				t.Errorf("%d hosts: %s: %v", n, h.name, err)
			}
		}
		if len(names) != n || len(roles) != len(sizes) {
			t.Errorf("%d hosts: %d names, roles %v", n, len(names), roles)
		}
	}
}

// What a host runs is in files on its machine.
func TestDemoPrograms(t *testing.T) {
	h := demoHosts(1, t.TempDir(), time.Millisecond, 2*time.Millisecond)[0]
	do := func(args ...string) hostagent.Result {
		return h.exec(t.Context(), hostagent.Command{Args: args})
	}
	if r := do("healthy", "docker"); r.Err == nil {
		t.Error("an empty machine is healthy")
	}
	if r := do("install", "docker", docker.to); r.Err == nil {
		t.Error("it installs where there is no machine")
	}
	if err := h.provide(); err != nil {
		t.Fatal(err)
	}
	for _, s := range demoSoftware {
		name := string(s.name)
		if r := do("installed", name); r.Err != nil || strings.TrimSpace(r.Stdout) != s.from {
			t.Errorf("%s in the beginning: %q %v", name, r.Stdout, r.Err)
		}
		if r := do("healthy", name); r.Err != nil {
			t.Errorf("%s %s: %v", name, s.from, r.Err)
		}
		if r := do("install", name, s.to); r.Err != nil {
			t.Error(r.Err)
		}
		if r := do("installed", name); r.Err != nil || strings.TrimSpace(r.Stdout) != s.to {
			t.Errorf("%s: %q %v", name, r.Stdout, r.Err)
		}
		if r := do("healthy", name); (r.Err != nil) != (s.broken != "") {
			t.Errorf("%s %s: %v", name, s.to, r.Err)
		}
	}
	for _, args := range [][]string{{"rm"}, {"rm", "docker"}, {"healthy", "cron"}} {
		if r := do(args...); r.Err == nil {
			t.Errorf("it runs what isn't there: %v", args)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.least, h.most = time.Hour, time.Hour
	if r := h.exec(ctx, hostagent.Command{Args: []string{"install", "docker", docker.from}}); !errors.Is(r.Err, context.Canceled) {
		t.Errorf("installing when stopped: %v", r.Err)
	}
}

func TestBatches(t *testing.T) {
	for _, c := range []struct {
		origins []uint64
		want    int
	}{{nil, 0}, {[]uint64{7}, 1}, {[]uint64{9, 8, 7}, 1}, {[]uint64{7, 8, 11, 14, 15}, 3}} {
		if got := batches(c.origins); got != c.want {
			t.Errorf("%v: got %d, want %d", c.origins, got, c.want)
		}
	}
}

// The demo's limits let each role's hosts overlap as the ramp needs it.
func TestDemoLimits(t *testing.T) {
	for _, over := range []time.Duration{leastOver, 5 * time.Second, 40 * time.Second, mostOver} {
		d := &demo{demoOptions: demoOptions{over: over}}
		l := d.limits()
		least, most := d.enactTimes()
		if least > most || most > over/10 {
			t.Errorf("over %s: enacting takes %s to %s", over, least, most)
		}
		for _, s := range demoSoftware {
			if err := d.objective(s).Validate(); err != nil {
				t.Errorf("over %s: %v", over, err)
			}
		}
		inFlight := rollout.Percent(100 * float64(most) / float64(over))
		if l.Max < inFlight || l.PerRole < inFlight || l.Max > 100 || l.PerRole > 100 || l.Max < 5 {
			t.Errorf("over %s: limits %v with %v in flight", over, l, inFlight)
		}
	}
}
