package access

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/subjects"
)

// external starts a nats-server as a process of its own in a folder that is
// as init wrote it, and returns its URL and how to stop it.
func external(t *testing.T, dir string) (url string, stop func()) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "nats-server")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/nats-io/nats-server/v2")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ports := t.TempDir()
	var log strings.Builder
	cmd := exec.CommandContext(t.Context(), program, "-c", "nats-server.conf", "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", ports)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is killed
	}()
	stop = func() {
		_ = cmd.Process.Kill() // it may have ended
		<-done
	}
	t.Cleanup(stop)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		files, err := filepath.Glob(filepath.Join(ports, "*.ports"))
		if err != nil {
			t.Fatal(err)
		}
		var listens struct {
			NATS []string `json:"nats"`
		}
		if len(files) == 1 {
			b, err := os.ReadFile(files[0])
			if err == nil && json.Unmarshal(b, &listens) == nil && len(listens.NATS) > 0 {
				return listens.NATS[0], stop
			}
		}
		if time.Now().After(deadline) {
			stop()
			t.Fatalf("the nats-server doesn't start: %s", &log)
		}
	}
}

// connect connects with a credentials file; lost is closed when the connection
// is cut.
func connect(t *testing.T, url string, creds []byte) (nc *nats.Conn, lost chan struct{}, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ParseCredentials(creds)
	if err != nil {
		t.Fatal(err)
	}
	lost = make(chan struct{})
	nc, err = nats.Connect(url, nats.UserCredentials(file), nats.NoReconnect(), nats.CustomInboxPrefix(c.Inbox(false)),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { close(lost) }),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, lost, err
}

// pushed gives a server the account as it is.
func pushed(t *testing.T, s *Store, url string) {
	t.Helper()
	p, err := s.Pusher(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(url, nats.UserJWT(func() (string, error) { return p.JWT, nil }, p.Sign), nats.CustomInboxPrefix(p.Inbox), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, account := range p.Accounts {
		if m, err := nc.Request(PushSubject, []byte(account), 5*time.Second); err != nil || !strings.Contains(string(m.Data), `"code":200`) {
			t.Fatalf("%v, %v", m, err)
		}
	}
}

// A nats-server that is a process of its own loads what Init wrote, from
// wherever the folder was copied to; it lets in whom the account knows, and
// nobody else, and takes changes that are pushed to it.
func TestExternalServer(t *testing.T) {
	s, other := made(t), made(t)
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(copied, os.DirFS(s.ServerDir())); err != nil {
		t.Fatal(err)
	}
	ada := issued(t, s, Wanted{Name: "ada", Role: subjects.RoleOperator})
	bob := issued(t, s, Wanted{Name: "bob", Role: subjects.RoleOperator})
	foreign := issued(t, other, Wanted{Name: "ada", Role: subjects.RoleOperator})
	bearer := issued(t, s, Wanted{Name: "ada", Role: subjects.RoleAdmin, Bearer: true})
	url, stop := external(t, copied)

	setup, err := os.ReadFile(filepath.Join(copied, PartSetup+".creds"))
	if err != nil {
		t.Fatal(err)
	}
	nc, _, err := connect(t, url, setup)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := nc.Request("$JS.API.INFO", nil, 5*time.Second); err != nil || strings.Contains(string(m.Data), `"error"`) {
		t.Errorf("the account has no JetStream: %v, %v", m, err)
	}
	if _, _, err := connect(t, url, foreign.Credentials); err == nil {
		t.Error("another fleet's operator is let in")
	}
	if nc, err := nats.Connect(url); err == nil {
		nc.Close()
		t.Error("somebody without credentials is let in")
	}
	token := nats.UserJWT(func() (string, error) { return bearer.JWT, nil }, func([]byte) ([]byte, error) { return nil, nil })
	if nc, err := nats.Connect(url, token); err == nil {
		nc.Close()
		t.Error("a token for HTTP is let in")
	}

	// Two in a row: both count, and each is cut off within a second.
	for _, i := range []Issued{ada, bob} {
		_, lost, err := connect(t, url, i.Credentials)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Revoke(i.Name, subjects.RoleOperator); err != nil {
			t.Fatal(err)
		}
		pushed(t, s, url)
		select {
		case <-lost:
		case <-time.After(time.Second):
			t.Errorf("%s is connected a second after the revocation was pushed", i.Name)
		}
	}
	// The folder still has the account of the beginning: the newer one holds.
	stop()
	url, _ = external(t, copied)
	for _, i := range []Issued{ada, bob} {
		if _, _, err := connect(t, url, i.Credentials); err == nil {
			t.Errorf("%s is let in again after a restart", i.Name)
		}
	}
	if _, _, err := connect(t, url, setup); err != nil {
		t.Error(err)
	}
}
