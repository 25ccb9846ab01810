package console

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/internal/testca"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

const web2 = "web2.lon2.example.net"

// identities is an access directory, and who is known by it.
type identities struct {
	t      *testing.T
	dir    string
	store  *access.Store
	server atomic.Pointer[access.Server]
}

func newIdentities(t *testing.T) *identities {
	t.Helper()
	i := &identities{t: t, dir: filepath.Join(t.TempDir(), "access")}
	var err error
	if i.store, err = access.Init(i.dir); err != nil {
		t.Fatal(err)
	}
	i.read()
	return i
}

// read takes what has changed in the directory.
func (i *identities) read() {
	i.t.Helper()
	s, err := access.LoadServer(i.dir)
	if err != nil {
		i.t.Fatal(err)
	}
	i.server.Store(s)
}

func (i *identities) authority() *access.Authority {
	a, err := i.server.Load().Authority()
	if err != nil {
		i.t.Error(err)
	}
	return a
}

func (i *identities) token(w access.Wanted) string {
	i.t.Helper()
	out, err := i.store.Issue(w)
	if err != nil {
		i.t.Fatal(err)
	}
	return out[0].JWT
}

func (i *identities) guard(_ *fixture, o *Options) { o.Authority = i.authority }

// Who sees what, by token.
func TestTokens(t *testing.T) {
	ids, others := newIdentities(t), newIdentities(t)
	f := start(t, ids.guard)
	f.tell(web1, 7, "1.10.3", false)
	bearer := func(name string, role subjects.Role) string {
		return ids.token(access.Wanted{Name: name, Role: role, Bearer: true})
	}
	revoked := bearer("eve", subjects.RoleViewer)
	if _, err := ids.store.Revoke("eve", ""); err != nil {
		t.Fatal(err)
	}
	ids.read()
	ada := bearer("ada", subjects.RoleViewer)
	scheduler, err := os.ReadFile(filepath.Join(ids.dir, "server", "scheduler.creds"))
	if err != nil {
		t.Fatal(err)
	}
	part, err := access.ParseCredentials(scheduler)
	if err != nil {
		t.Fatal(err)
	}
	const stranger, host, viewer = 0, 1, 2
	for name, c := range map[string]struct {
		header string
		sees   int
	}{
		"nothing":             {"", stranger},
		"another scheme":      {"Basic YWRhOmFkYQ==", stranger},
		"no token":            {"Bearer", stranger},
		"nonsense":            {"Bearer x.y.z", stranger},
		"foreign":             {"Bearer " + others.token(access.Wanted{Name: "ada", Role: subjects.RoleViewer, Bearer: true}), stranger},
		"expired":             {"Bearer " + ids.token(access.Wanted{Name: "ada", Role: subjects.RoleViewer, Bearer: true, Expires: time.Now().Add(-time.Second)}), stranger},
		"revoked":             {"Bearer " + revoked, stranger},
		"of credentials":      {"Bearer " + ids.token(access.Wanted{Name: "ada", Role: subjects.RoleAdmin}), stranger},
		"a part's":            {"Bearer " + part.JWT(), stranger},
		"a tail":              {"Bearer " + ada + "A", stranger},
		"a host's":            {"Bearer " + bearer(web1, subjects.RoleAgent), host},
		"a viewer's":          {"Bearer " + ada, viewer},
		"in small letters":    {"bearer " + ada, viewer},
		"an approver's":       {"Bearer " + bearer("bob", subjects.RoleApprover), viewer},
		"an operator's":       {"Bearer " + bearer("cy", subjects.RoleOperator), viewer},
		"an administrator's":  {"Bearer " + bearer("dee", subjects.RoleAdmin), viewer},
		"a host of no record": {"Bearer " + bearer(web2, subjects.RoleAgent), -1},
	} {
		t.Run(name, func(t *testing.T) {
			var header []string
			if c.header != "" {
				header = []string{"Authorization", c.header}
			}
			want := map[int]map[string]int{
				stranger: {web1Path: 401, "/v1/hosts/" + web2 + "/desired": 401, "/v1/hosts/%3E/desired": 401, "/metrics": 401},
				host:     {web1Path: 200, "/v1/hosts/" + web2 + "/desired": 403, "/v1/hosts/%3E/desired": 403, "/metrics": 403},
				viewer:   {web1Path: 200, "/v1/hosts/" + web2 + "/desired": 404, "/v1/hosts/%3E/desired": 400, "/metrics": 200},
				-1:       {web1Path: 403, "/v1/hosts/" + web2 + "/desired": 404, "/v1/hosts/nobody/desired": 403, "/metrics": 403},
			}[c.sees]
			for path, status := range want {
				resp, body := f.do("GET", path, header...)
				if resp.StatusCode != status {
					t.Errorf("GET %s: %d %s, want %d", path, resp.StatusCode, body, status)
				}
				if challenge := resp.Header.Get("WWW-Authenticate"); (challenge != "") != (status == 401) {
					t.Errorf("GET %s: %d with the challenge %q", path, status, challenge)
				}
			}
			for _, path := range []string{"/healthz", "/readyz"} {
				if resp, body := f.do("GET", path, header...); resp.StatusCode != 200 {
					t.Errorf("GET %s: %d %s", path, resp.StatusCode, body)
				}
			}
		})
	}

	// Strangers get the same answer for a host that there is and one that there
	// isn't, and no reason why the server isn't ready.
	_, there := f.do("GET", web1Path)
	if _, missing := f.do("GET", "/v1/hosts/"+web2+"/desired"); there != missing {
		t.Errorf("strangers can tell hosts apart: %q, %q", there, missing)
	}
	f.mu.Lock()
	f.ready = errors.New("the streams aren't there yet")
	f.mu.Unlock()
	if resp, body := f.do("GET", "/readyz"); resp.StatusCode != 503 || body != "not ready\n" {
		t.Errorf("a stranger is told %d %q", resp.StatusCode, body)
	}
	if _, body := f.do("GET", "/readyz", "Authorization", "Bearer "+ada); body != "not ready: the streams aren't there yet\n" {
		t.Errorf("a viewer is told %q", body)
	}
}

// client talks to a server with TLS, with a certificate of its own or without.
func client(t *testing.T, ca *testca.CA, certificate ...string) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AppendCertsFromPEM(pem)
	if len(certificate) > 0 {
		pair, err := tls.LoadX509KeyPair(certificate[0], certificate[1])
		if err != nil {
			t.Fatal(err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Who sees what, by client certificate; and the headers of every answer, over a
// server as Run starts it.
func TestCertificates(t *testing.T) {
	ids, ca, foreign := newIdentities(t), testca.New(t), testca.New(t)
	f := start(t)
	f.tell(web1, 7, "1.10.3", false)
	cert, key := ca.Server()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: x509.NewCertPool(), ClientAuth: tls.VerifyClientCertIfGiven}
	config.ClientCAs.AppendCertsFromPEM(pem)
	l, err := Listen("0.0.0.0:0", true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{
			Listener: l, TLS: config, Authority: ids.authority, Conn: f.conn, Gatherer: prometheus.NewRegistry(),
			Ready: func(context.Context) error { return nil }, Logger: slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	url := "https://127.0.0.1:" + port

	certificate := func(ca *testca.CA, subject pkix.Name, names ...string) []string {
		cert, key := ca.Client(subject, names...)
		return []string{cert, key}
	}
	viewers := pkix.Name{CommonName: "grafana", Organization: []string{ViewersOrganization}}
	for name, c := range map[string]struct {
		certificate            []string
		own, others, ofMetrics int // statuses; 0: no connection
	}{
		"none":               {nil, 401, 401, 401},
		"host's":             {certificate(ca, pkix.Name{CommonName: "x"}, web1, web2), 200, 403, 403},
		"host's, by subject": {certificate(ca, pkix.Name{CommonName: web1}), 200, 403, 403},
		"no host's":          {certificate(ca, pkix.Name{CommonName: "Ada Lovelace"}), 401, 401, 401},
		"a pattern's":        {certificate(ca, pkix.Name{CommonName: "*"}), 401, 401, 401},
		"viewer's":           {certificate(ca, viewers), 200, 404, 200},
		"foreign viewer's":   {certificate(foreign, viewers), 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			http := client(t, ca, c.certificate...)
			for path, want := range map[string]int{web1Path: c.own, "/v1/hosts/" + web2 + "/desired": c.others, "/metrics": c.ofMetrics} {
				resp, err := http.Get(url + path)
				if want == 0 {
					if err == nil {
						_ = resp.Body.Close()
						t.Errorf("GET %s: %d", path, resp.StatusCode)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := resp.Body.Close(); err != nil || resp.StatusCode != want {
					t.Errorf("GET %s: %d, %v; want %d", path, resp.StatusCode, err, want)
				}
				for k, want := range map[string]string{
					"Strict-Transport-Security": "max-age=31536000", "X-Content-Type-Options": "nosniff",
					"Content-Security-Policy":      "default-src 'none'; frame-ancestors 'none'",
					"Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer",
				} {
					if got := resp.Header.Get(k); got != want {
						t.Errorf("GET %s: %d with %s: %q, want %q", path, resp.StatusCode, k, got, want)
					}
				}
			}
		})
	}

	// Whoever forgets the s is told so, and no more.
	resp, err := http.Get("http://127.0.0.1:" + port + web1Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 400 {
		t.Errorf("without TLS: %d %q, %v", resp.StatusCode, body, err)
	}
}

// Neither identities nor TLS alone open a port to the network.
func TestGuarded(t *testing.T) {
	ids := newIdentities(t)
	for name, o := range map[string]Options{
		"identities alone": {Authority: ids.authority}, "TLS alone": {TLS: &tls.Config{}},
	} {
		wide, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		o.Listener = wide
		if err := Run(t.Context(), o); err == nil {
			t.Errorf("%s: it serves beyond loopback", name)
		}
	}
}
