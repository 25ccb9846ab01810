package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const (
	upgradeHosts = 12
	upgradeOver  = 20 * time.Second
	upgrade      = "helios-0-9-1" // the rollout
	operator     = "ada"
)

var upgradeRoles = []string{"web", "cache", "queue"}

// machine is one host: its package database, its agent, and the log of what
// its enactor was called for.
type machine struct {
	name  string
	root  dpkgRoot
	agent *process
	calls string
}

// enactments is how often the enactor was started.
func (m *machine) enactments() int {
	b, err := os.ReadFile(m.calls)
	if err != nil {
		return 0
	}
	return strings.Count(string(b), "\n")
}

// TestUpgrade takes twelve machines from helios 0.9.0 to 0.9.1 by the shipped
// enactor, while an agent is killed as it enacts and the server half-way. Then
// dpkg-query says what each machine runs, and the audit log what each was told.
func TestUpgrade(t *testing.T) {
	s := newSite(t)
	s.upgrade(s.tsunamid(), func(...string) {})
}

// upgrade is that, wherever the server gets its identities. Each host is
// introduced before its agent starts.
func (s *site) upgrade(server *process, introduce func(hosts ...string)) {
	t := s.t
	t.Helper()
	packages := filepath.Join(s.dir, "packages")
	old, _ := buildDeb(t, packages, "helios", "0.9.0"), buildDeb(t, packages, "helios", "0.9.1")
	write(t, filepath.Join(s.dir, ".dpkg.cfg"), 0o644, "log /dev/null\n") // this machine's own log is none of theirs
	s.apply("helios.yaml", `
kind: Variable
name: helios_version
type: string
allowed: ["0.9.0", "0.9.1"]
initial: "0.9.0"
`)

	machines := make(map[string]*machine)
	var names []string
	for i := range upgradeHosts {
		names = append(names, fmt.Sprintf("%s%d.lon2.example.net", upgradeRoles[i%3], i/3+1))
	}
	introduce(names...)
	for i, name := range names {
		role := upgradeRoles[i%3]
		m := &machine{name: name}
		home := filepath.Join(s.dir, "machines", m.name)
		m.root = newRoot(t, filepath.Join(home, "root"))
		m.root.install(t, old)
		m.calls = filepath.Join(home, "calls")
		// The shipped program, after a note that it was called, and after long
		// enough for a kill to come in between.
		enact := write(t, filepath.Join(home, "enact"), 0o755, fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\nsleep 0.5\nexec %s \"$@\"\n", m.calls, shipped(t, "enact-deb")))
		m.agent = s.agent(m.name, role, fmt.Sprintf(`enact:
  helios_version:
    exec: [%s, helios]
    observe: [%s, helios]
    timeout: 30s
    retry: {first: 500ms, max: 2s, attempts: 20}
`, enact, shipped(t, "observe-deb")), "TSUNAMI_DPKG_ROOT="+string(m.root), "TSUNAMI_DEB_DIR="+packages)
		machines[m.name] = m
	}

	s.welcomed(names...)
	for _, m := range machines {
		if n := m.enactments(); n != 0 {
			t.Errorf("%s enacted %d times before any rollout", m.name, n)
		}
	}

	// The operator's own tools watch from the side.
	watched := names[len(names)-1]
	watch := start(t, s.dir, "nats-kv-watch", append(append([]string{"nats"}, s.natsFlags()...), "kv", "watch", "tsunami", "desired."+watched)...)
	eventually(t, 20*time.Second, "nats kv watch shows what is there", func() (bool, string) {
		return strings.Contains(watch.output(), "0.9.0"), watch.output()
	})

	s.apply("rollout.yaml", fmt.Sprintf(`
kind: Rollout
name: %s
variable: helios_version
to: "0.9.1"
ramp: {over: %s}
inFlight: {max: 50%%, perRole: 50%%}
`, upgrade, upgradeOver))

	// The first agent that is seen to enact dies in the middle of it.
	var victim *machine
	eventually(t, time.Minute, "a host enacts", func() (bool, string) {
		for _, m := range machines {
			if m.enactments() > 0 {
				victim = m
				return true, ""
			}
		}
		return false, server.tail(1000)
	})
	victim.agent.kill()
	if _, version := victim.root.installed(t, "helios"); version != "0.9.0" {
		t.Logf("%s had been upgraded before its agent was killed", victim.name)
	}
	victim.agent.start()

	// The server dies half-way.
	s.until(time.Minute, upgrade, "is half-way", func(v control.RolloutView) bool { return v.Told >= upgradeHosts/2 })
	server.kill()
	server.start()
	s.ready(server)

	done := s.until(2*time.Minute, upgrade, "has completed", func(v control.RolloutView) bool { return v.State == rollout.StateCompleted })
	if done.Target != upgradeHosts || done.Told != upgradeHosts || done.Confirmed != upgradeHosts || done.Failed != 0 || done.Fraction != 1 {
		t.Errorf("it says of itself %+v", done)
	}

	for _, m := range machines {
		if status, version := m.root.installed(t, "helios"); status != "installed" || version != "0.9.1" {
			t.Errorf("%s: helios is %s %s", m.name, status, version)
		}
		if n := m.enactments(); n != 1 && m != victim {
			t.Errorf("%s enacted %d times", m.name, n)
		}
		h := s.host(m.name)
		if h.Desired["helios_version"].Text() != "0.9.1" || h.Actual["helios_version"].Text() != "0.9.1" || len(h.Problems) > 0 {
			t.Errorf("%s: %+v", m.name, h)
		}
	}
	if n := victim.enactments(); n > 3 {
		t.Errorf("%s, whose agent was killed, enacted %d times", victim.name, n)
	}
	s.checkTold(names)
	s.checkAudit(names)
	s.checkOperatorsTools(names, watch)
	s.checkHTTP(names[0])
}

// shipped returns the path of a program of deploy/libexec.
func shipped(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "deploy", "libexec", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// checkTold looks at what the broker has stored: each host was told twice,
// first what it ran and then what it was to run, and the fleet no faster than
// the ramp.
func (s *site) checkTold(names []string) {
	s.t.Helper()
	js := s.stream()
	var first, last time.Time
	for _, name := range names {
		changes, _ := s.changes(js, name)
		if len(changes) != 2 || changes[0] == nil || changes[1] == nil {
			s.t.Errorf("%s: %d records, want its first document and the rollout's", name, len(changes))
			continue
		}
		if c := changes[0]; c.Desired.Values["helios_version"].Text() != "0.9.0" || c.Desired.Generation != 1 || c.Rollout != "" {
			s.t.Errorf("%s: first document %+v", name, c)
		}
		c := changes[1]
		if c.Desired.Values["helios_version"].Text() != "0.9.1" || c.Desired.Generation != 2 || c.Rollout != upgrade || c.Variable != "helios_version" || c.Previous.Text() != "0.9.0" {
			s.t.Errorf("%s: second document %+v", name, c)
		}
		if first.IsZero() || c.Time.Before(first) {
			first = c.Time
		}
		if c.Time.After(last) {
			last = c.Time
		}
	}
	// 12 places on the line span 11/12 of it, give or take the roles' phases.
	if span := last.Sub(first); span < upgradeOver*3/4 {
		s.t.Errorf("told all within %s, with a ramp of %s", span, upgradeOver)
	}
}

// checkAudit looks at the audit log as an operator would.
func (s *site) checkAudit(names []string) {
	s.t.Helper()
	records := ask[[]control.AuditRecord](s, "audit")
	count := map[string]int{}
	for _, r := range records {
		if r.Kind != string(subjects.KindDesired) {
			count[r.Kind+" "+r.Name]++
			continue
		}
		count[fmt.Sprintf("%s %s %s", r.Host, r.Variable, r.Value.Text())]++
		if r.Reason == "" || r.Actor == "" || r.Time.IsZero() {
			s.t.Errorf("a record without its reason, actor or time: %+v", r)
		}
		if r.Value.Text() == "0.9.1" && (r.Rollout != upgrade || r.Actor != operator || r.Previous.Text() != "0.9.0") {
			s.t.Errorf("a record with the wrong rollout, actor or previous value: %+v", r)
		}
	}
	for _, name := range names {
		for _, version := range []string{"0.9.0", "0.9.1"} {
			if n := count[fmt.Sprintf("%s helios_version %s", name, version)]; n != 1 {
				s.t.Errorf("%s: %d audit records of %s", name, n, version)
			}
		}
		if n := len(ask[[]control.AuditRecord](s, "audit", "--host", name)); n != 2 {
			s.t.Errorf("audit --host %s: %d records", name, n)
		}
	}
	if count["variable helios_version"] == 0 || count["rollout "+upgrade] == 0 {
		s.t.Errorf("the variable or the rollout isn't in the audit log: %v", count)
	}
	if n := len(ask[[]control.AuditRecord](s, "audit", "--rollout", upgrade)); n < upgradeHosts {
		s.t.Errorf("audit --rollout: %d records", n)
	}
}

// checkOperatorsTools reads the same things with the nats command.
func (s *site) checkOperatorsTools(names []string, watch *process) {
	s.t.Helper()
	contains := func(what, out string, words ...string) {
		s.t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				s.t.Errorf("%s: no %q in:\n%s", what, w, out)
			}
		}
	}
	if out := strings.TrimSpace(s.nats("kv", "get", "tsunami", "desired."+names[0], "--raw")); out != `{"helios_version":"0.9.1"}` {
		s.t.Errorf("nats kv get: %q", out)
	}
	keys := s.nats("kv", "ls", "tsunami")
	contains("nats kv ls", keys, "rollout."+upgrade, "progress."+upgrade, "variable.helios_version", "leader")
	for _, name := range names {
		contains("nats kv ls", keys, "desired."+name)
	}
	contains("nats kv history", s.nats("kv", "history", "tsunami", "desired."+names[0]), "0.9.0", "0.9.1")
	contains("nats kv get", s.nats("kv", "get", "tsunami_hosts", names[0], "--raw"), `"actual":{"helios_version":"0.9.1"}`)
	contains("nats micro ls", s.nats("micro", "ls"), control.ServiceName)
	contains("nats micro info", s.nats("micro", "info", control.ServiceName), control.ServiceName, "tsunami.api.")
	contains("nats stream ls", s.nats("stream", "ls", "--all"), subjects.Stream, subjects.HostsStream, subjects.AuditStream, subjects.EvidenceStream)
	// The watch came back with the server, by itself.
	eventually(s.t, 30*time.Second, "nats kv watch has seen the new value", func() (bool, string) {
		return strings.Contains(watch.output(), "0.9.1"), watch.output()
	})
}

// checkHTTP asks as clients without NATS do.
func (s *site) checkHTTP(host string) {
	s.t.Helper()
	get := func(path, etag string) (int, string, http.Header) {
		s.t.Helper()
		request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.http+path, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		s.trust.authorize(request)
		if etag != "" {
			request.Header.Set("If-None-Match", etag)
		}
		response, err := s.client().Do(request)
		if err != nil {
			s.t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
		if err != nil {
			s.t.Fatal(err)
		}
		return response.StatusCode, strings.TrimSpace(string(body)), response.Header
	}
	path := "/v1/hosts/" + host + "/desired"
	code, body, header := get(path, "")
	if code != http.StatusOK || body != `{"helios_version":"0.9.1"}` || header.Get("ETag") == "" {
		s.t.Errorf("GET %s: %d %s, ETag %q", path, code, body, header.Get("ETag"))
	}
	if code, body, _ := get(path, header.Get("ETag")); code != http.StatusNotModified || body != "" {
		s.t.Errorf("GET %s with its ETag: %d %s", path, code, body)
	}
	if code, _, _ := get("/v1/hosts/nobody.example.net/desired", ""); code != http.StatusNotFound {
		s.t.Errorf("the desired state of nobody: %d", code)
	}
	if code, _, _ := get("/healthz", ""); code != http.StatusOK {
		s.t.Errorf("GET /healthz: %d", code)
	}
	if code, body, _ := get("/metrics", ""); code != http.StatusOK || !strings.Contains(body, "\ntsunami_") {
		s.t.Errorf("GET /metrics: %d, and no metric of Tsunami's in it", code)
	}
}
