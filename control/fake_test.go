package control_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// within gives a context that ends long after what is waited for.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// start starts a broker with its streams and connects to it.
func start(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: b.InProcess()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(within(t), js, 1); err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func serve(t *testing.T, nc *nats.Conn, h control.Handler) {
	t.Helper()
	stop, err := control.Serve(t.Context(), nc, "1.2.3", h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func client(t *testing.T, nc *nats.Conn) *control.Client {
	t.Helper()
	c, err := control.NewClient(nc, "alice")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t *testing.T, js jetstream.JetStream, m bus.Message) uint64 {
	t.Helper()
	seq, err := bus.Put(within(t), js, m)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// audited waits until the audit log has sourced so many messages.
func audited(t *testing.T, js jetstream.JetStream, n uint64) {
	t.Helper()
	ctx := within(t)
	for {
		last, err := bus.LastSequence(ctx, js, subjects.AuditStream)
		if err != nil {
			t.Fatal(err)
		}
		if last >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error lacks %q:\n%v", p, err)
		}
	}
}
