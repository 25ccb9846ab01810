package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/internal/testca"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// guarded is a server with identities and TLS, and what its clients need.
type guarded struct {
	t     *testing.T
	dir   string // of the identities
	store *access.Store
	ca    *testca.CA
	args  []string // that tsunamid gets for it
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, dir: filepath.Join(t.TempDir(), "access"), ca: testca.New(t)}
	var err error
	if g.store, err = access.Init(g.dir); err != nil {
		t.Fatal(err)
	}
	cert, key := g.ca.Server()
	g.args = []string{"--access", g.dir, "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", g.ca.File}
	return g
}

// connect connects to the broker as somebody new, who is told of a lost
// connection on the channel.
func (g *guarded) connect(url, name string, role subjects.Role) (*nats.Conn, chan error) {
	g.t.Helper()
	issued, err := g.store.Issue(access.Wanted{Name: name, Role: role})
	if err != nil {
		g.t.Fatal(err)
	}
	file := filepath.Join(g.t.TempDir(), "creds")
	if err := os.WriteFile(file, issued[0].Credentials, 0o600); err != nil {
		g.t.Fatal(err)
	}
	lost := make(chan error, 8)
	nc, err := nats.Connect(url, nats.UserCredentials(file), nats.RootCAs(g.ca.File), nats.CustomInboxPrefix(subjects.PersonInbox(name)),
		nats.MaxReconnects(0), nats.ClosedHandler(func(nc *nats.Conn) { lost <- nc.LastError() }))
	if err != nil {
		g.t.Fatalf("%s: %v", name, err)
	}
	g.t.Cleanup(nc.Close)
	return nc, lost
}

// get asks the console with a token, or with none.
func (g *guarded) get(url, token string) (int, string, error) {
	g.t.Helper()
	pem, err := os.ReadFile(g.ca.File)
	if err != nil {
		g.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := transport.RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (g *guarded) ready(url string) func() error {
	return func() error {
		status, body, err := g.get(url+"/readyz", "")
		if err == nil && (status != 200 || body != "ready\n") {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	}
}

// With an access directory nobody gets in without an identity, every part works
// with its own, and whoever is revoked is out within a second.
func TestAccess(t *testing.T) {
	g := newGuarded(t)
	p := launch(t, append(g.args, "--data", t.TempDir(), "--listen", "0.0.0.0:0", "--http", "0.0.0.0:0")...)
	m := p.await(up)
	if !strings.HasPrefix(m[3], "https://") {
		t.Errorf("the console is at %s", m[3])
	}
	broker, http := loopback(t, m[2], "tls"), loopback(t, m[3], "https")
	eventually(t, g.ready(http))

	// Strangers.
	for name, options := range map[string][]nats.Option{
		"without anything": nil, "without credentials": {nats.RootCAs(g.ca.File)},
	} {
		if nc, err := nats.Connect(broker, options...); err == nil {
			nc.Close()
			t.Errorf("%s: connected", name)
		}
	}
	if status, _, err := g.get(http+"/metrics", ""); err != nil || status != 401 {
		t.Errorf("/metrics to a stranger: %d, %v", status, err)
	}
	viewer, err := g.store.Issue(access.Wanted{Name: "prometheus", Role: subjects.RoleViewer, Bearer: true})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		status, body, err := g.get(http+"/metrics", viewer[0].JWT)
		if err != nil || status != 200 {
			return fmt.Errorf("/metrics to a viewer: %d, %w", status, err)
		}
		for _, part := range []string{partScheduler, partSloguard, partConsole} {
			if !strings.Contains(body, `tsunami_broker_connected{part="`+part+`"} 1`) {
				return fmt.Errorf("%s isn't connected", part)
			}
		}
		for _, want := range []string{"tsunami_scheduler_leading 1", "tsunami_guard_leading 1"} {
			if !strings.Contains(body, want) {
				return fmt.Errorf("/metrics lacks %s", want)
			}
		}
		return nil
	})

	// The parts are let do what they need.
	ada, lost := g.connect(broker, "ada", subjects.RoleOperator)
	bob, _ := g.connect(broker, "bob", subjects.RoleViewer)
	js, err := jetstream.New(bob)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		m, err := bus.Last(t.Context(), js, subjects.Stream, subjects.KindEpoch.Subject(""))
		if err == nil && len(m.Header[subjects.HeaderSeal]) == 0 {
			err = fmt.Errorf("the epoch isn't sealed")
		}
		return err
	})
	if log := p.stderr.String(); strings.Contains(strings.ToLower(log), "violation") {
		t.Errorf("a part may not do what it does:\n%s", log)
	}

	// Revoked, while the server runs.
	if _, err := g.store.Revoke("ada", ""); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	select {
	case <-lost:
		if took := time.Since(start); took > time.Second {
			t.Errorf("ada was disconnected after %s", took)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("ada is still connected: %v\n%s", ada.Status(), p.stderr.String())
	}
	if !bob.IsConnected() {
		t.Error("bob was disconnected too")
	}
	if _, err := g.store.Revoke("prometheus", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if status, _, err := g.get(http+"/metrics", viewer[0].JWT); err != nil || status != 401 {
			return fmt.Errorf("/metrics to a revoked viewer: %d, %w", status, err)
		}
		return nil
	})

	// An account that can't be read changes nothing.
	account := filepath.Join(g.dir, "server", "tsunami.jwt")
	if err := os.WriteFile(account, []byte("half a JWT"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.await("the changed account isn't taken")
	if err := g.ready(http)(); err != nil {
		t.Error(err)
	}
	p.stop()
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d:\n%s", code, p.stderr.String())
	}
}

// loopback is the address of something that listens on all, for the certificate.
func loopback(t *testing.T, url, scheme string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(regexp.MustCompile(`^.*://`).ReplaceAllString(url, ""))
	if err != nil {
		t.Fatal(err)
	}
	return scheme + "://127.0.0.1:" + port
}

// Without the directory, or with files that others may read, it doesn't start.
func TestBadAccess(t *testing.T) {
	g := newGuarded(t)
	args := []string{"--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}
	p := launch(t, append(args, "--data", t.TempDir(), "--access", t.TempDir())...)
	if code := p.wait(); code != exitFailed || !strings.Contains(p.stderr.String(), "tsunamictl access init") {
		t.Errorf("an empty directory: exit code %d:\n%s", code, p.stderr.String())
	}
	creds := filepath.Join(g.dir, "server", "scheduler.creds")
	if err := os.Chmod(creds, 0o644); err != nil {
		t.Fatal(err)
	}
	p = launch(t, append(args, "--data", t.TempDir(), "--access", g.dir)...)
	if code := p.wait(); code != exitFailed || !strings.Contains(p.stderr.String(), "chmod 600") {
		t.Errorf("credentials for everybody: exit code %d:\n%s", code, p.stderr.String())
	}
}

// A renewed certificate is shown from the next handshake on; half of one, or
// none, isn't.
func TestCertificateRenewal(t *testing.T) {
	ca := testca.New(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	install := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err == nil {
			// The clock of files may not have moved since the last one.
			err = os.Chtimes(to, time.Time{}, time.Now().Add(time.Hour))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	first, firstKey := ca.Server()
	install(first, cert)
	install(firstKey, key)
	var log buffer
	config, err := serverTLS(cert, key, "", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	shown := func() string {
		t.Helper()
		c, err := config.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.SerialNumber.String()
	}
	before := shown()
	second, secondKey := ca.Server()
	install(second, cert)
	if got := shown(); got != before {
		t.Errorf("a certificate without its key is shown: %s", got)
	}
	if got := shown(); got != before || strings.Count(log.String(), "isn't taken") != 1 {
		t.Errorf("shown %s, and the log says:\n%s", got, &log)
	}
	install(secondKey, key)
	if got := shown(); got == before {
		t.Errorf("the renewed certificate isn't shown:\n%s", &log)
	}
	renewed := shown()
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != renewed {
		t.Errorf("without a file %s is shown", got)
	}
	for name, files := range map[string][3]string{
		"no pair": {first, secondKey, ""}, "no certificate": {key, key, ""}, "no authority": {first, firstKey, firstKey},
	} {
		if _, err := serverTLS(files[0], files[1], files[2], slog.New(slog.NewTextHandler(&log, nil))); err == nil || !strings.Contains(err.Error(), "--tls-") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Turning identities on over a directory that is in use says what that means,
// does it once, and then counts only what is sealed.
func TestTurningIdentitiesOn(t *testing.T) {
	data := t.TempDir()
	args := []string{"--data", data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}
	p := launch(t, args...)
	p.await(up)
	eventually(t, func() error {
		if !strings.Contains(p.stderr.String(), "msg=leading") {
			return errors.New("it doesn't lead")
		}
		return nil
	})
	p.stop()
	p.wait()
	g := newGuarded(t)
	with := append(args, g.args...)
	for _, refused := range []struct {
		args []string
		says string
	}{
		{with, "start once with --adopt"},
		{append(args, "--adopt"), "give --access too"},
	} {
		p := launch(t, refused.args...)
		if code := p.wait(); code == 0 || !strings.Contains(p.stderr.String(), refused.says) {
			t.Errorf("%v: ends with %d: %s", refused.args, code, p.stderr.String())
		}
	}
	for i, more := range [][]string{{"--adopt"}, nil} {
		p = launch(t, append(with, more...)...)
		p.await(up)
		eventually(t, func() error {
			if !strings.Contains(p.stderr.String(), "msg=leading") {
				return fmt.Errorf("start %d: it doesn't lead: %s", i, p.stderr.String())
			}
			return nil
		})
		p.stop()
		p.wait()
	}
	p = launch(t, args...)
	if code := p.wait(); code == 0 || !strings.Contains(p.stderr.String(), "start with --access") {
		t.Errorf("without identities again: ends with %d: %s", code, p.stderr.String())
	}
}
