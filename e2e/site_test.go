package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// site is a place where Tsunami runs: a directory, a broker's address, and
// whoever types commands there.
type site struct {
	t    *testing.T
	dir  string
	url  string // of the broker
	http string // of the console, "" without one
	// trust is the identities and certificates, nil without.
	trust *trust
}

func newSite(t *testing.T) *site {
	t.Helper()
	t.Parallel()
	return &site{t: t, dir: t.TempDir(), url: "nats://" + freeAddress(t)}
}

// address is the broker's host:port.
func (s *site) address() string {
	return strings.TrimPrefix(strings.TrimPrefix(s.url, "nats://"), "tls://")
}

// tsunamid starts the whole server in one process.
func (s *site) tsunamid() *process {
	s.t.Helper()
	s.http = "http://" + freeAddress(s.t)
	p := start(s.t, s.dir, "tsunamid", "tsunamid",
		"--data", filepath.Join(s.dir, "data"), "--listen", s.address(), "--http", strings.TrimPrefix(s.http, "http://"))
	s.ready(p)
	return p
}

// ready waits until /readyz says so, and the scheduler answers.
func (s *site) ready(p *process) {
	s.t.Helper()
	eventually(s.t, time.Minute, p.name+" is ready", func() (bool, string) {
		if !p.running() {
			s.t.Fatalf("%s has ended: %s", p.name, p.tail(2000))
		}
		response, err := s.client().Get(s.http + "/readyz")
		if err != nil {
			return false, err.Error()
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK, response.Status
	})
	s.serves()
}

// serves waits until a scheduler leads and answers: being ready means that it
// could.
func (s *site) serves() {
	s.t.Helper()
	eventually(s.t, time.Minute, "the scheduler answers", func() (bool, string) {
		r := s.ctl("status")
		return r.code == 0, r.String()
	})
}

// reachable waits until the broker takes connections.
func (s *site) reachable(p *process) {
	s.t.Helper()
	eventually(s.t, time.Minute, p.name+" listens", func() (bool, string) {
		if !p.running() {
			s.t.Fatalf("%s has ended: %s", p.name, p.tail(2000))
		}
		c, err := net.DialTimeout("tcp", s.address(), time.Second)
		if err != nil {
			return false, err.Error()
		}
		c.Close()
		return true, ""
	})
}

// agent starts an agent with a configuration file of its own. What follows
// host and role in the file is given, and so is what its environment has beside
// the usual.
func (s *site) agent(host, role, rest string, env ...string) *process {
	s.t.Helper()
	file := write(s.t, filepath.Join(s.dir, "agents", host, "agent.yaml"), 0o644, fmt.Sprintf(
		"server: %s\nhost: %s\nrole: %s\nstate: %s\n%s%s", s.url, host, role, filepath.Join(s.dir, "agents", host, "state"), s.trust.ofAgent(host), rest))
	return start(s.t, s.dir, host, append(env, "tsunami-agent", "--config", file)...)
}

// ctl runs tsunamictl.
func (s *site) ctl(args ...string) result {
	s.t.Helper()
	if s.trust != nil {
		return execute(s.t, s.dir, "tsunamictl", append([]string{"--context", operatorContext}, args...)...)
	}
	return execute(s.t, s.dir, "tsunamictl", append([]string{"--server", s.url, "--actor", operator}, args...)...)
}

// must runs tsunamictl where it has to succeed, and returns what it printed.
func (s *site) must(args ...string) string {
	s.t.Helper()
	r := s.ctl(args...)
	if r.code != 0 {
		s.t.Fatalf("tsunamictl %s: %s", strings.Join(args, " "), r)
	}
	return r.stdout
}

// refused runs tsunamictl where it has to fail with an exit status, and to say
// certain words about it.
func (s *site) refused(code int, words []string, args ...string) {
	s.t.Helper()
	r := s.ctl(args...)
	if r.code != code {
		s.t.Errorf("tsunamictl %s: %s\nwant exit status %d", strings.Join(args, " "), r, code)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			s.t.Errorf("tsunamictl %s: %s\nwant %q in the error", strings.Join(args, " "), r, w)
		}
	}
}

// ask runs tsunamictl and decodes its JSON.
func ask[T any](s *site, args ...string) T {
	s.t.Helper()
	var v T
	out := s.must(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		s.t.Fatalf("tsunamictl %s -o json: %v in:\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

// rollout is what `rollout show` says.
func (s *site) rollout(id string) control.RolloutView {
	s.t.Helper()
	return ask[control.RolloutView](s, "rollout", "show", id)
}

// host is what `host show` says.
func (s *site) host(name string) control.HostView {
	s.t.Helper()
	return ask[control.HostView](s, "host", "show", name)
}

// until waits for a rollout to reach a state or a number of hosts.
func (s *site) until(within time.Duration, id, what string, ok func(control.RolloutView) bool) control.RolloutView {
	s.t.Helper()
	var v control.RolloutView
	eventually(s.t, within, id+" "+what, func() (bool, string) {
		r := s.ctl("rollout", "show", id, "-o", "json")
		if r.code != 0 {
			return false, r.String()
		}
		v = control.RolloutView{}
		if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
			s.t.Fatalf("%v in: %s", err, r)
		}
		return ok(v), r.String()
	})
	return v
}

// apply writes documents to a file and applies them.
func (s *site) apply(name, documents string) string {
	s.t.Helper()
	return s.must("apply", "-f", write(s.t, filepath.Join(s.dir, name), 0o644, documents))
}

// welcomed waits until every host has its first document.
func (s *site) welcomed(hosts ...string) {
	s.t.Helper()
	eventually(s.t, time.Minute, "every host has its first document", func() (bool, string) {
		r := s.ctl("host", "list", "-o", "json")
		if r.code != 0 {
			return false, r.String()
		}
		var list []control.HostView
		if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
			s.t.Fatalf("%v in: %s", err, r)
		}
		n := 0
		for _, h := range list {
			if len(h.Desired) > 0 && h.Applied == h.Generation && h.Online {
				n++
			}
		}
		return n == len(hosts), r.stdout
	})
}

// nats runs the nats command, where it has to succeed.
func (s *site) nats(args ...string) string {
	s.t.Helper()
	r := execute(s.t, s.dir, "nats", append(s.natsFlags(), args...)...)
	if r.code != 0 {
		s.t.Fatalf("nats %s: %s", strings.Join(args, " "), r)
	}
	return r.stdout + r.stderr
}

// natsFlags say to the nats command where to connect to, and as whom.
func (s *site) natsFlags() []string {
	if s.trust != nil {
		return []string{"--context", operatorContext}
	}
	return []string{"--server", s.url}
}

// stream opens a connection that reads what the broker has stored.
func (s *site) stream() jetstream.JetStream {
	s.t.Helper()
	nc, err := nats.Connect(s.url, s.trust.options()...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	return js
}

// revisions are those of one key, the oldest first.
func (s *site) revisions(js jetstream.JetStream, kind subjects.Kind, name string) []bus.Msg {
	s.t.Helper()
	all, err := bus.History(s.t.Context(), js, subjects.Stream, kind.Subject(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// changes are what one host was told, the oldest first. Records that aren't
// the scheduler's come as nil.
func (s *site) changes(js jetstream.JetStream, host string) (changes []*subjects.Change, sequences []uint64) {
	s.t.Helper()
	for _, m := range s.revisions(js, subjects.KindDesired, host) {
		c, err := subjects.DecodeChange(rollout.Host(host), m.Header, m.Data)
		if err != nil {
			c = nil
		}
		changes, sequences = append(changes, c), append(sequences, m.Sequence)
	}
	return changes, sequences
}
