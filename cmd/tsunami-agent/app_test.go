package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestUsage(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(bad, []byte("role: web\nrolle: web\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"--help", exitDone, "--label k=v"},
		{"--help", exitDone, "--observe-only"},
		{"--version", exitDone, "tsunami-agent, version"},
		{"--bogus", exitUsage, "-bogus"},
		{"--host h1", exitUsage, "role: is missing"},
		{"--host H1 --role web", exitUsage, "host: "},
		{"--host > --role web", exitUsage, "host: "},
		{"--host h1 --role web --label zone", exitUsage, "want name=value"},
		{"--host h1 --role web --label Zone=a", exitUsage, "label name"},
		{"--host h1 --role web --log-level loud", exitUsage, "loud"},
		{"--host h1 --role web start", exitUsage, "it takes no arguments"},
		{"--host h1 --role web --config " + bad, exitUsage, bad + ":2: rolle: isn't a key here"},
		{"--host h1 --role web --config /nowhere/agent.yaml", exitUsage, "/nowhere/agent.yaml"},
		{"--host h1 --role web --state " + bad, exitFailed, "state directory"},
		{"--host h1 --role web --creds " + bad, exitUsage, "trust: is missing"},
		{"--host h1 --role web --trust none --creds " + bad, exitUsage, "chmod 600"},
		{"--host h1 --role web --trust none --creds /nowhere/agent.creds", exitUsage, "/nowhere/agent.creds"},
		{"--host h1 --role web --trust /nowhere/trust.txt", exitUsage, "/nowhere/trust.txt"},
		{"--host h1 --role web --cert " + bad, exitUsage, "cert and key go together"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), strings.Fields(tt.args), &out, &errs)
		if code != tt.code || !strings.Contains(out.String()+errs.String(), tt.says) {
			t.Errorf("%s: exit code %d, want %d, and a message with %q:\n%s%s", tt.args, code, tt.code, tt.says, &out, &errs)
		}
		if code == exitDone && errs.Len() > 0 || code != exitDone && out.Len() > 0 {
			t.Errorf("%s: the message is on the wrong stream", tt.args)
		}
	}
}

func TestFlagsWinOverTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte("host: h1\nrole: web\nlabels: {zone: a, rack: r1}\nserver: nats://one:4222\nstate: /a\ncreds: /a.creds\ntrust: none\nca: /a.pem\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := parse([]string{"--config", path, "--role=db", "--label", "zone=b", "--label", "service=x", "--state", "/b", "--trust", "/t", "--cert", "/c", "--key", "/k"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.configuration()
	if err != nil {
		t.Fatal(err)
	}
	if c.Host != "h1" || c.Role != "db" || c.State != "/b" || c.Server != "nats://one:4222" ||
		c.Creds != "/a.creds" || c.Trust != "/t" || c.CA != "/a.pem" || c.Cert != "/c" || c.Key != "/k" {
		t.Errorf("%+v", c)
	}
	if want := (map[rollout.Word]rollout.Word{"zone": "b", "rack": "r1", "service": "x"}); len(c.Labels) != len(want) || c.Labels["zone"] != "b" || c.Labels["rack"] != "r1" || c.Labels["service"] != "x" {
		t.Errorf("labels %v, want %v", c.Labels, want)
	}
}

// The whole program, from its start against a real broker to SIGTERM.
func TestRun(t *testing.T) {
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	nc, err := bus.Connect(bus.ConnectOptions{URL: b.ClientURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log syncBuffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"--server", b.ClientURL(), "--host", "h1", "--role", "web", "--state", t.TempDir(), "--log-level", "debug", "--observe-only"}, &log, &log)
	}()
	deadline := time.Now().Add(20 * time.Second)
	for {
		m, err := bus.Last(t.Context(), js, subjects.HostsStream, subjects.HostSubject("h1"))
		if err == nil {
			if r, err := subjects.Decode[rollout.Report](m.Data); err != nil || r.Role != "web" || r.Held != "observe-only" {
				t.Fatalf("%v: %s", err, m.Data)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no report: %v\n%s", err, &log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	select {
	case code := <-done:
		if code != exitDone || !strings.Contains(log.String(), "the agent has stopped") {
			t.Errorf("exit code %d:\n%s", code, &log)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it doesn't stop")
	}
}
