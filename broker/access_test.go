package broker

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/internal/testca"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// identities make an access directory.
func identities(t *testing.T) (*access.Store, *access.Server) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "access")
	store, err := access.Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	server, err := access.LoadServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	return store, server
}

// creds issues an identity and gives its file.
func creds(t *testing.T, s *access.Store, name string, role subjects.Role, expires time.Time) string {
	t.Helper()
	out, err := s.Issue(access.Wanted{Name: name, Role: role, Expires: expires})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name+".creds")
	if err := os.WriteFile(file, out[0].Credentials, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func guarded(t *testing.T, o Options) *Broker {
	t.Helper()
	o.Dir, o.Unsynced = t.TempDir(), true
	b, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	return b
}

func TestNobodyWithoutCredentials(t *testing.T) {
	store, server := identities(t)
	b := guarded(t, Options{Listen: "127.0.0.1:0", Access: server})
	foreign, _ := identities(t)
	for name, o := range map[string]bus.ConnectOptions{
		"nobody":               {URL: b.ClientURL()},
		"nobody in process":    {InProcess: b.InProcess()},
		"another fleet's host": {URL: b.ClientURL(), Creds: creds(t, foreign, "h1", subjects.RoleAgent, time.Time{})},
	} {
		nc, err := bus.Connect(o)
		if err == nil {
			nc.Close()
		}
		// In process the pipe may be closed before its reason is read.
		if err == nil || o.InProcess == nil && !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", name, err)
		}
	}
	file, err := server.Credentials(access.PartScheduler)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]bus.ConnectOptions{
		"a host":                {URL: b.ClientURL(), Creds: creds(t, store, "h1", subjects.RoleAgent, time.Time{})},
		"a part in process":     {InProcess: b.InProcess(), Creds: file},
		"a part through a port": {URL: b.ClientURL(), Creds: file},
	} {
		nc, err := bus.Connect(o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		nc.Close()
	}
}

func TestRevocationDisconnects(t *testing.T) {
	store, server := identities(t)
	b := guarded(t, Options{Listen: "127.0.0.1:0", Access: server})
	lost := make(chan string, 10)
	for _, host := range []string{"h1", "h2"} {
		nc, err := bus.Connect(bus.ConnectOptions{URL: b.ClientURL(), Creds: creds(t, store, host, subjects.RoleAgent, time.Time{}), Disconnected: func() { lost <- host }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
	}
	if _, err := store.Revoke("h1", ""); err != nil {
		t.Fatal(err)
	}
	changed, err := access.LoadServer(filepath.Dir(store.ServerDir()))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := b.SetAccess(changed); err != nil {
		t.Fatal(err)
	}
	select {
	case host := <-lost:
		if took := time.Since(begun); host != "h1" || took > time.Second {
			t.Errorf("%s was disconnected after %s", host, took)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nobody was disconnected")
	}
	select {
	case host := <-lost:
		t.Errorf("%s was disconnected too", host)
	case <-time.After(300 * time.Millisecond):
	}
	// And so it stays after a restart.
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	if nc, err := bus.Connect(bus.ConnectOptions{URL: b.ClientURL(), Creds: creds(t, store, "h3", subjects.RoleAgent, time.Time{})}); err != nil {
		t.Error(err)
	} else {
		nc.Close()
	}
	_, foreign := identities(t)
	if err := b.SetAccess(foreign); err == nil || !strings.Contains(err.Error(), "isn't issued by the operator") {
		t.Errorf("another fleet's account: %v", err)
	}
}

func TestExpiryDisconnects(t *testing.T) {
	store, server := identities(t)
	b := guarded(t, Options{Listen: "127.0.0.1:0", Access: server})
	file := creds(t, store, "h1", subjects.RoleAgent, time.Now().Add(2*time.Second))
	lost, back := make(chan struct{}, 1), make(chan struct{}, 1)
	nc, err := bus.Connect(bus.ConnectOptions{
		URL: b.ClientURL(), Creds: file,
		Disconnected: func() { lost <- struct{}{} }, Reconnected: func() { back <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	wait := func(c <-chan struct{}, what string) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(20 * time.Second):
			t.Fatal(what)
		}
	}
	wait(lost, "an expired identity stays connected")
	fresh, err := os.ReadFile(creds(t, store, "h1", subjects.RoleAgent, time.Time{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	wait(back, "new credentials aren't taken")
}

func TestBeyondLoopback(t *testing.T) {
	store, server := identities(t)
	authority := testca.New(t)
	pair, err := tls.LoadX509KeyPair(authority.Server())
	if err != nil {
		t.Fatal(err)
	}
	ca, config := authority.File, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"without identities": {Options{TLS: config}, "without identities"},
		"without TLS":        {Options{Access: server}, "without TLS"},
	} {
		tt.o.Dir, tt.o.Listen = t.TempDir(), "0.0.0.0:0"
		if b, err := Start(tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
			if b != nil {
				b.Shutdown()
			}
		}
	}
	// Loopback, so that the test opens no port to others.
	b := guarded(t, Options{Listen: "127.0.0.1:0", Access: server, TLS: config})
	file := creds(t, store, "h1", subjects.RoleAgent, time.Time{})
	nc, err := bus.Connect(bus.ConnectOptions{URL: b.ClientURL(), Creds: file, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.TLSConnectionState(); err != nil {
		t.Errorf("the connection isn't encrypted: %v", err)
	}
	nc.Close()
	if nc, err := bus.Connect(bus.ConnectOptions{URL: b.ClientURL(), Creds: file}); err == nil {
		nc.Close()
		t.Error("a certificate that nobody vouches for is taken")
	}
	part, err := server.Credentials(access.PartScheduler)
	if err != nil {
		t.Fatal(err)
	}
	nc, err = bus.Connect(bus.ConnectOptions{InProcess: b.InProcess(), Creds: part})
	if err != nil {
		t.Fatalf("in process: %v", err)
	}
	nc.Close()
}

// Where the configuration asks for clients' certificates, credentials alone
// don't do; the parts in the broker's own process need none.
func TestClientCertificates(t *testing.T) {
	store, server := identities(t)
	ca, other := testca.New(t), testca.New(t)
	serving, err := tls.LoadX509KeyPair(ca.Server())
	if err != nil {
		t.Fatal(err)
	}
	pool := ca.Pool()
	b := guarded(t, Options{Listen: "127.0.0.1:0", Access: server, TLS: &tls.Config{
		Certificates: []tls.Certificate{serving}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}})
	o := bus.ConnectOptions{URL: b.ClientURL(), Creds: creds(t, store, "h1", subjects.RoleAgent, time.Time{}), CA: ca.File}
	foreign, own, nobody := o, o, o
	foreign.Cert, foreign.Key = other.Client(pkix.Name{CommonName: "h1"})
	own.Cert, own.Key = ca.Client(pkix.Name{CommonName: "h1"})
	nobody.Cert, nobody.Key, nobody.Creds = own.Cert, own.Key, ""
	for name, refused := range map[string]bus.ConnectOptions{"no certificate": o, "another authority's": foreign, "no credentials": nobody} {
		if nc, err := bus.Connect(refused); err == nil {
			nc.Close()
			t.Errorf("%s: let in", name)
		}
	}
	part, err := server.Credentials(access.PartScheduler)
	if err != nil {
		t.Fatal(err)
	}
	for name, taken := range map[string]bus.ConnectOptions{"its own": own, "in process": {InProcess: b.InProcess(), Creds: part}} {
		nc, err := bus.Connect(taken)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		nc.Close()
	}
}
