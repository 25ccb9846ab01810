package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/internal/testca"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// operatorContext is the context of the nats command that `operator add` writes.
const operatorContext = "tsunami-" + operator

// trust is what a site with identities and TLS has beside. Its methods are good
// for a site without, where it is nil.
type trust struct {
	dir       string // of the identities
	ca        string // file of the authority
	cert, key string // files of what serves
	creds     string // file of the operator
	hosts     string // directory of the hosts' credentials
	token     string // of a viewer, for HTTP
	pool      *x509.CertPool
	client    *http.Client
}

// ofAgent are the lines of an agent's file.
func (t *trust) ofAgent(host string) string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf("creds: %s\ntrust: %s\nca: %s\n", filepath.Join(t.hosts, host+".creds"), filepath.Join(t.dir, "trust.txt"), t.ca)
}

// options are the operator's, for a connection.
func (t *trust) options() []nats.Option {
	if t == nil {
		return nil
	}
	return []nats.Option{nats.UserCredentials(t.creds), nats.RootCAs(t.ca), nats.CustomInboxPrefix(subjects.PersonInbox(operator))}
}

func (t *trust) authorize(r *http.Request) {
	if t != nil {
		r.Header.Set("Authorization", "Bearer "+t.token)
	}
}

// client speaks HTTP to the console.
func (s *site) client() *http.Client {
	if s.trust == nil {
		return http.DefaultClient
	}
	return s.trust.client
}

// trusted makes a site with identities: everything that an administrator types
// before the first server starts.
func trusted(t *testing.T) *site {
	s := newSite(t)
	s.url = "tls://" + s.address()
	ca := testca.New(t)
	s.trust = &trust{dir: filepath.Join(s.dir, "tsunami", "access"), ca: ca.File, hosts: filepath.Join(s.dir, "hosts"), pool: x509.NewCertPool()}
	s.trust.cert, s.trust.key = ca.Server()
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	s.trust.pool.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.trust.pool}}
	t.Cleanup(transport.CloseIdleConnections)
	s.trust.client = &http.Client{Transport: transport}

	s.access("init")
	s.trust.creds = filepath.Join(s.dir, operator+".creds")
	s.access("operator", "add", operator, "--role", "operator", "--out", s.trust.creds, "--server", s.url, "--ca", s.trust.ca)
	s.trust.token = strings.TrimSpace(s.access("token", "grafana"))
	return s
}

// access runs tsunamictl access where it has to succeed.
func (s *site) access(args ...string) string {
	s.t.Helper()
	r := execute(s.t, s.dir, "tsunamictl", append([]string{"access"}, args...)...)
	if r.code != 0 {
		s.t.Fatalf("tsunamictl access %s: %s", strings.Join(args, " "), r)
	}
	return r.stdout
}

// enroll issues hosts' credentials.
func (s *site) enroll(hosts ...string) {
	s.t.Helper()
	s.access(append([]string{"enroll", "--out", s.trust.hosts + "/"}, hosts...)...)
}

// guardedFlags are tsunamid's.
func (s *site) guardedFlags() []string {
	s.http = "https://" + freeAddress(s.t)
	return []string{
		"--access", s.trust.dir, "--tls-cert", s.trust.cert, "--tls-key", s.trust.key,
		"--http", strings.TrimPrefix(s.http, "https://"),
	}
}

// The main path once more, with identities and TLS.
func TestUpgradeWithIdentities(t *testing.T) {
	s := trusted(t)
	server := start(t, s.dir, "tsunamid", append([]string{"tsunamid", "--data", filepath.Join(s.dir, "data"), "--listen", s.address()}, s.guardedFlags()...)...)
	s.ready(server)
	s.upgrade(server, s.enroll)
	s.checkStrangers()
	s.checkJoin()
	s.checkRevoked()
	s.checkViolations(server)
}

// And against a nats-server of its own, which loads what `access init` wrote.
func TestUpgradeWithIdentitiesOnNATS(t *testing.T) {
	s := trusted(t)
	folder := filepath.Join(s.trust.dir, "server")
	config := write(t, filepath.Join(folder, "site.conf"), 0o600, fmt.Sprintf(
		"include ./nats-server.conf\nlisten: %q\ntls: {cert_file: %q, key_file: %q}\n", s.address(), s.trust.cert, s.trust.key))
	broker := start(t, s.dir, "nats-server", "sh", "-c", `cd "$1" && exec "$2" -c "$3"`, "sh", folder, program(t, "nats-server"), config)
	s.reachable(broker)
	server := start(t, s.dir, "tsunamid", append([]string{"tsunamid", "--nats", s.url, "--ca", s.trust.ca}, s.guardedFlags()...)...)
	s.ready(server)
	s.upgrade(server, s.enroll)
	s.checkStrangers()
	s.checkRevoked("--server", s.url, "--ca", s.trust.ca)
	s.checkViolations(server)
}

// checkStrangers looks at what somebody gets who is nobody.
func (s *site) checkStrangers() {
	s.t.Helper()
	if r := execute(s.t, s.dir, "nats", "--server", s.url, "--tlsca", s.trust.ca, "kv", "ls"); r.code == 0 {
		s.t.Errorf("the nats command without credentials: %s", r)
	}
	if nc, err := nats.Connect(strings.Replace(s.url, "tls:", "nats:", 1), nats.UserCredentials(s.trust.creds)); err == nil {
		nc.Close()
		s.t.Error("a client takes a certificate of an authority that it doesn't know")
	}
	for path, want := range map[string]int{
		"/v1/hosts/web1.lon2.example.net/desired": 401, "/v1/hosts/nobody/desired": 401, "/metrics": 401, "/healthz": 200,
	} {
		response, err := s.client().Get(s.http + path)
		if err != nil {
			s.t.Error(err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != want {
			s.t.Errorf("GET %s as a stranger: %s", path, response.Status)
		}
	}
}

// checkRevoked revokes a host, as an administrator does who has stopped trusting
// it: it is out within a second, and the others stay.
func (s *site) checkRevoked(flags ...string) {
	s.t.Helper()
	const host = "db1.lon2.example.net"
	s.enroll(host)
	agent := s.agent(host, "db", "")
	s.online(host)
	s.access(append([]string{"revoke", host}, flags...)...)
	revoked := time.Now()
	eventually(s.t, 20*time.Second, host+" is disconnected", func() (bool, string) {
		out := agent.output()
		return strings.Contains(out, "lost the broker"), out
	})
	// A second is promised, and broker's test holds it; here a dozen tests share
	// the processors.
	if took := time.Since(revoked); took > 5*time.Second {
		s.t.Errorf("%s was disconnected %s after it was revoked", host, took)
	}
	for _, h := range ask[[]control.HostView](s, "host", "list") {
		if string(h.Host) != host && !h.Online {
			s.t.Errorf("%s isn't online any more", h.Host)
		}
	}
}

// checkJoin lets a host join by token. Whoever has stolen the token comes too
// late, and is told so.
func (s *site) checkJoin() {
	s.t.Helper()
	const host = "new1.lon2.example.net"
	token := write(s.t, filepath.Join(s.dir, "token"), 0o600, s.access("enroll", "--token", "--roles", "web"))
	join := func(host string) result {
		s.t.Helper()
		return execute(s.t, s.dir, "tsunami-agent", "join", "--server", s.http, "--token-file", token, "--ca", s.trust.ca, "--host", host, "--role", "web",
			"--creds", filepath.Join(s.trust.hosts, host+".creds"), "--trust", filepath.Join(s.trust.hosts, host+".trust"))
	}
	if r := join(host); r.code != 0 {
		s.t.Fatalf("joining: %s", r)
	}
	s.agent(host, "web", "")
	s.online(host)
	if r := join("thief.example.net"); r.code == 0 || !strings.Contains(r.stderr, host+" joined with it on ") {
		s.t.Errorf("joining with a used token: %s", r)
	}
	if r := s.must("audit", "--host", host); !strings.Contains(r, "its identity is the key U") {
		s.t.Errorf("the audit log of %s: %s", host, r)
	}
}

// online waits until a host is.
func (s *site) online(host string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, host+" is online", func() (bool, string) {
		r := s.ctl("host", "show", host, "-o", "json")
		var v control.HostView
		return r.code == 0 && json.Unmarshal([]byte(r.stdout), &v) == nil && v.Online, r.String()
	})
}

// checkViolations finds what somebody did who may not.
func (s *site) checkViolations(server *process) {
	s.t.Helper()
	for line := range strings.Lines(server.output()) {
		if strings.Contains(strings.ToLower(line), "permissions violation") {
			s.t.Errorf("tsunamid does what it may not: %s", line)
		}
	}
}
