package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// asAgent makes the test's own binary the program.
const asAgent = "TSUNAMI_TEST_AS_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A host that has joined, as a process of its own, with TLS and its identity.
// It reports, and listens on nothing.
func TestProcessWithIdentity(t *testing.T) {
	d := newDesk(t)
	n := d.newcomer()
	n.wants(d.token(access.JoinToken{Host: "h1", Uses: 1}), exitDone, "has joined")

	server, err := access.LoadServer(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(d.ca.Server())
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(broker.Options{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Unsynced: true, Access: server, TLS: &tls.Config{Certificates: []tls.Certificate{pair}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	part := func(name string) jetstream.JetStream {
		file, err := server.Credentials(name)
		if err != nil {
			t.Fatal(err)
		}
		creds, err := access.LoadCredentials(file)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := bus.Connect(bus.ConnectOptions{InProcess: b.InProcess(), Creds: file, Inbox: creds.Inbox(false)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	if err := bus.Setup(t.Context(), part(access.PartSetup), 1); err != nil {
		t.Fatal(err)
	}
	js := part(access.PartScheduler)

	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var log syncBuffer
	cmd := exec.CommandContext(ctx, program, "--server", b.ClientURL(), "--ca", d.ca.File, "--host", "h1", "--role", "web",
		"--state", t.TempDir(), "--creds", n.creds, "--trust", n.trust, "--observe-only")
	cmd.Env = append(os.Environ(), asAgent+"=1")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := bus.Last(ctx, js, subjects.HostsStream, subjects.HostSubject("h1"))
		if err == nil {
			break
		}
		if !errors.Is(err, bus.ErrNotFound) {
			t.Fatalf("%v\n%s", err, &log)
		}
		time.Sleep(20 * time.Millisecond)
	}
	open, listening := sockets(t, cmd.Process.Pid)
	if open == 0 {
		t.Error("not even the connection to the broker was found: this test sees nothing")
	}
	if len(listening) > 0 {
		t.Errorf("it listens: %v", listening)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &log)
	}
}

// sockets counts a process's sockets of the internet, and lists those on which
// others can reach it.
func sockets(t *testing.T, pid int) (open int, listening []string) {
	t.Helper()
	own := map[string]bool{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(to, "socket:[") {
			own[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	const listens, unconnected = "0A", "07" // states of TCP and UDP
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			column := strings.Fields(lines.Text())
			if len(column) < 10 || !own[column[9]] {
				continue
			}
			open++
			if column[3] == listens || column[3] == unconnected {
				listening = append(listening, table+" "+column[1])
			}
		}
		f.Close()
	}
	return open, listening
}

// The counting sees a port that is open.
func TestSocketsSeesAPort(t *testing.T) {
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	if _, listening := sockets(t, os.Getpid()); len(listening) == 0 {
		t.Error("a broker's port wasn't seen")
	}
}
