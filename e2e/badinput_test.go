package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// TestHostileNames starts agents under names that would cover other hosts, or
// that are none.
func TestHostileNames(t *testing.T) {
	s := newSite(t)
	for _, name := range []string{">", "*", "a..b", "Web1.example.net", "web1.*", "web 1", "-web", "web1.example.net.", strings.Repeat("a.", 150) + "a"} {
		r := execute(t, s.dir, "tsunami-agent", "--server", s.url, "--host", name, "--role", "web", "--state", filepath.Join(s.dir, "state"))
		if r.code != 2 || !strings.Contains(r.stderr, "host") {
			t.Errorf("--host %q: %s\nwant exit status 2 and what a host's name is", name, r)
		}
	}
	r := execute(t, s.dir, "tsunami-agent", "--server", s.url, "--host", "web1.example.net", "--role", "a role", "--state", filepath.Join(s.dir, "state"))
	if r.code != 2 || !strings.Contains(r.stderr, "role") {
		t.Errorf("--role %q: %s", "a role", r)
	}
	config := write(t, filepath.Join(s.dir, "agent.yaml"), 0o644, "host: web1.example.net\nrole: web\nlables: {zone: a}\n")
	r = execute(t, s.dir, "tsunami-agent", "--config", config)
	if r.code != 2 || !strings.Contains(r.stderr, "agent.yaml:3") || !strings.Contains(r.stderr, "lables") {
		t.Errorf("an unknown key: %s", r)
	}
}

// TestBadDocuments applies what can't be, and looks for the file's line, for
// what is wrong, and for the exit status.
func TestBadDocuments(t *testing.T) {
	s := newSite(t)
	s.tsunamid()
	const variable = "kind: Variable\nname: docker_version\ntype: string\nallowed: [\"1.10.3\", \"1.12.3\"]\ninitial: \"1.10.3\"\n"
	s.apply("variable.yaml", variable)
	s.apply("first.yaml", "kind: Rollout\nname: first\nvariable: docker_version\nto: \"1.12.3\"\nramp: {over: 2w}\n")
	s.must("rollout", "watch", "first", "--until", "running", "--timeout", "30s")

	start := "kind: Rollout\nname: second\nvariable: docker_version\n"
	for _, tt := range []struct {
		name, document string
		code           int
		words          []string
	}{
		{"unknown field", "kind: Variable\nname: a\ntype: string\nallowd: [x]\n", 2, []string{":4", "allowd"}},
		{"unknown kind", "kind: Varible\nname: a\n", 2, []string{":1", "Varible", "Variable"}},
		{"wrong type", "kind: Variable\nname: a\ntype: text\n", 2, []string{":3", "text", "string"}},
		{"unquoted version", "kind: Variable\nname: a\ntype: string\ninitial: 1.10\n", 2, []string{":4", "quotes", "1.10"}},
		{"a value of another type", "kind: Variable\nname: a\ntype: integer\ninitial: \"x\"\n", 2, []string{":4", "integer"}},
		{"a name", "kind: Variable\nname: Docker-Version\ntype: string\n", 2, []string{":2", "Docker-Version"}},
		{"a value that isn't allowed", start + "to: \"1.13.0\"\nramp: {over: 2w}\n", 2, []string{":4", "1.13.0", "1.12.3"}},
		{"percent over 100", start + "to: \"1.12.3\"\nramp: {over: 2w, percent: 120}\n", 2, []string{":5", "100"}},
		{"atLeast over atMost", start + "to: \"1.12.3\"\nramp: {over: 2w}\nlimits:\n  - {atLeast: 5, atMost: 3}\n", 2, []string{":7", "atMost"}},
		{"where", start + "to: \"1.12.3\"\nwhere: rôle ==\nramp: {over: 2w}\n", 2, []string{":5", "where"}},
		{"a duration", start + "to: \"1.12.3\"\nramp: {over: two weeks}\n", 2, []string{":5", "two weeks", "2w"}},
		{"no ramp", start + "to: \"1.12.3\"\n", 2, []string{"ramp"}},
		{"not YAML", "kind: [\n", 2, []string{"bad.yaml"}},
		{"unknown variable", "kind: Rollout\nname: second\nvariable: no_such\nto: x\nramp: {over: 2w}\n", 0, []string{"no_such"}},
		{"a second rollout of the variable", start + "to: \"1.12.3\"\nramp: {over: 2w}\n", 3, []string{"first"}},
		{"another value for a rollout that has started", "kind: Rollout\nname: first\nvariable: docker_version\nto: \"1.10.3\"\nramp: {over: 2w}\n", 2, []string{":4", "supersedes: first"}},
	} {
		file := write(t, filepath.Join(s.dir, "bad", strings.ReplaceAll(tt.name, " ", "-"), "bad.yaml"), 0o644, tt.document)
		for _, args := range [][]string{{"apply", "-f", file, "--dry-run"}, {"apply", "-f", file}} {
			r := s.ctl(args...)
			// What the service alone can know is refused or wrong usage: never done.
			if r.code == 0 || tt.code != 0 && r.code != tt.code || r.code != 2 && r.code != 3 {
				t.Errorf("%s: tsunamictl %s: %s\nwant exit status %d", tt.name, strings.Join(args, " "), r, tt.code)
			}
			for _, w := range tt.words {
				if !strings.Contains(r.stderr, w) {
					t.Errorf("%s: tsunamictl %s: %s\nwant %q in the error", tt.name, strings.Join(args, " "), r, w)
				}
			}
		}
	}
	// One bad document of several: none is applied.
	both := write(t, filepath.Join(s.dir, "both.yaml"), 0o644, "kind: Variable\nname: innocent\ntype: boolean\n---\nkind: Variable\nname: guilty\ntype: no\n")
	if r := s.ctl("apply", "-f", both); r.code != 2 {
		t.Errorf("a good and a bad document: %s", r)
	}
	if out := s.must("variable", "list", "-o", "json"); strings.Contains(out, "innocent") || strings.Contains(out, "guilty") {
		t.Errorf("something was applied: %s", out)
	}
	for _, name := range []string{">", "*", "a..b", "UPPER"} {
		s.refused(2, nil, "host", "show", name)
	}
	s.refused(1, []string{"nobody.example.net"}, "host", "show", "nobody.example.net")
	s.refused(1, []string{"nothing"}, "rollout", "show", "nothing")
	s.refused(2, []string{"--sever"}, "--sever", s.url, "status")
}

// TestBadEnactors rolls out over hosts whose enactors are broken in every way,
// and one that works: each fault is seen by name, and the good host is done.
func TestBadEnactors(t *testing.T) {
	const id = "flag-2"
	s := newSite(t)
	server := s.tsunamid()
	retry := "    timeout: 1s\n    retry: {first: 100ms, max: 300ms, attempts: 2}\n"
	loud := write(t, filepath.Join(s.dir, "loud"), 0o755, "#!/bin/sh\nhead -c 20000000 /dev/zero | tr '\\0' x\necho 'the end of it'\nexit 3\n")
	liar := write(t, filepath.Join(s.dir, "liar"), 0o755, "#!/bin/sh\nexit 0\n")
	good, config := s.fileEnactor("good.example.net", "flag")
	for host, enact := range map[string]string{
		"good.example.net":     config,
		"missing.example.net":  fmt.Sprintf("  flag:\n    exec: [%s]\n    observe: [echo, \"1\"]\n%s", filepath.Join(s.dir, "no-such-program"), retry),
		"loud.example.net":     fmt.Sprintf("  flag:\n    exec: [%s]\n    observe: [echo, \"1\"]\n%s", loud, strings.Replace(retry, "1s", "20s", 1)),
		"hangs.example.net":    "  flag:\n    exec: [sleep, \"600\"]\n    observe: [echo, \"1\"]\n" + retry,
		"liar.example.net":     fmt.Sprintf("  flag:\n    exec: [%s]\n    observe: [echo, \"1\"]\n%s", liar, retry),
		"observer.example.net": "  flag:\n    observe: [echo, \"1\"]\n",
	} {
		s.agent(host, "web", "enact:\n"+enact)
	}
	names := []string{"good.example.net", "missing.example.net", "loud.example.net", "hangs.example.net", "liar.example.net", "observer.example.net"}
	s.apply("flag.yaml", "kind: Variable\nname: flag\ntype: integer\ninitial: 1\n")
	s.welcomed(names...)
	s.apply("rollout.yaml", fmt.Sprintf("kind: Rollout\nname: %s\nvariable: flag\nto: 2\nramp: {over: 3s}\ninFlight: {max: 100%%, perRole: 100%%}\n", id))

	v := s.until(time.Minute, id, "has confirmed one host and knows of four failures", func(v control.RolloutView) bool { return v.Confirmed == 1 && v.Failed == 4 })
	if v.State != rollout.StateRunning || v.Told != len(names) {
		t.Errorf("it is %s, %d told: want running and %d", v.State, v.Told, len(names))
	}
	waiting := map[string]control.FlightView{}
	for _, w := range v.Waiting {
		waiting[string(w.Host)] = w
	}
	for host, word := range map[string]string{
		"missing.example.net": "no-such-program",
		"loud.example.net":    "the end of it",
		"hangs.example.net":   "1s",
		"liar.example.net":    "1",
	} {
		h := s.host(host)
		e := h.Enact["flag"]
		if e.Status != rollout.EnactFail || !strings.Contains(e.Error, word) || len(e.Error) > 2048 {
			t.Errorf("%s: enact is %+v, want it failed, with %q in the error", host, e, word)
		}
		if w, ok := waiting[host]; !ok || w.Status != rollout.EnactFail || w.Error == "" {
			t.Errorf("%s: rollout show has it waiting as %+v", host, w)
		}
	}
	if e := s.host("observer.example.net").Enact["flag"]; e.Status != rollout.Unenacted {
		t.Errorf("observer.example.net: enact is %+v, want unenacted", e)
	}
	if got := s.host("good.example.net").Actual["flag"].Text(); got != "2" {
		t.Errorf("good.example.net runs %s, says its report (file %s)", got, good)
	}
	if why := ask[control.WhyView](s, "why", "missing.example.net", "flag"); why.Confirmed || why.Rollout != id || why.Actor != operator || why.Value.Text() != "2" || why.Reason == "" {
		t.Errorf("why: %+v", why)
	}
	if !server.running() {
		t.Error("tsunamid has ended")
	}
}
