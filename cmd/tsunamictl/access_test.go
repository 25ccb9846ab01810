package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// ctl runs the program and returns what it printed.
func ctl(t testing.TB, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code != exitDone {
		t.Fatalf("%v: exit code %d: %s%s", args, code, &out, &errs)
	}
	return out.String()
}

// A revocation that is pushed to a nats-server cuts off whoever is connected
// within a second, through the context that the person was given.
func TestPush(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "access")
	ctl(t, "access", "init", "--dir", dir)
	t.Chdir(filepath.Join(dir, "server"))
	opts, err := server.ProcessConfigFile("nats-server.conf")
	if err != nil {
		t.Fatal(err)
	}
	url := natsd(t, opts)
	// The server hasn't heard of her: it knows the key that has issued her.
	ctl(t, "access", "operator", "add", "ada", "--role", "viewer", "--dir", dir, "--server", url)
	nc, err := dialWith(t, "--context", "tsunami-ada")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Request("$JS.API.INFO", nil, 5*time.Second); err != nil {
		t.Errorf("the context has the wrong inbox: %v", err)
	}
	lost := make(chan struct{}, 1)
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) {
		select {
		case lost <- struct{}{}:
		default:
		}
	})
	if out := ctl(t, "access", "revoke", "ada", "--dir", dir, "--server", url); !strings.Contains(out, "has the identities as they are now") {
		t.Error(out)
	}
	select {
	case <-lost:
	case <-time.After(10 * time.Second): // a second is promised; broker's test holds it
		t.Error("she stays connected")
	}
	if out := ctl(t, "access", "push", "--dir", dir, "--server", url); !strings.Contains(out, "has the identities as they are now") {
		t.Error(out)
	}
	var out, errs bytes.Buffer
	open := natsd(t, &server.Options{})
	if code := run(t.Context(), []string{"access", "push", "--dir", dir, "--server", open, "--timeout", "2s"}, strings.NewReader(""), &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "didn't take the identities") {
		t.Errorf("a server without identities: %d, %s%s", code, &out, &errs)
	}
}

// enrollMany enrols so many hosts from a file, each with a file of its own.
func enrollMany(t testing.TB, dir string, hosts int) (creds string) {
	t.Helper()
	work := t.TempDir()
	list, creds := filepath.Join(work, "hosts.txt"), filepath.Join(work, "creds")
	var b strings.Builder
	for i := range hosts {
		fmt.Fprintf(&b, "host%d.lon2.example.net\n", i)
	}
	if err := os.WriteFile(list, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ctl(t, "access", "enroll", "-f", list, "--dir", dir, "--out", creds)
	return creds
}

func TestEnrollManyHosts(t *testing.T) {
	const hosts = 300
	dir := filepath.Join(t.TempDir(), "access")
	ctl(t, "access", "init", "--dir", dir)
	creds := enrollMany(t, dir, hosts)
	files, err := os.ReadDir(creds)
	if err != nil || len(files) != hosts {
		t.Fatalf("%d files, %v", len(files), err)
	}
	info, err := files[0].Info()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s, %v", info.Mode(), err)
	}
}

// BenchmarkEnroll enrols 10,000 hosts, which may take a minute.
func BenchmarkEnroll(b *testing.B) {
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "access")
		ctl(b, "access", "init", "--dir", dir)
		enrollMany(b, dir, 10_000)
	}
}
