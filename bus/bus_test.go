package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// start starts a broker of the test's own and connects to it in process.
func start(t *testing.T) (*broker.Broker, jetstream.JetStream) {
	t.Helper()
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	return b, connect(t, b, bus.ConnectOptions{})
}

func connect(t *testing.T, b *broker.Broker, o bus.ConnectOptions) jetstream.JetStream {
	t.Helper()
	if o.URL == "" {
		o.InProcess = b.InProcess()
	}
	nc, err := bus.Connect(o)
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

// setUp is start with the streams made.
func setUp(t *testing.T) (*broker.Broker, jetstream.JetStream) {
	t.Helper()
	b, js := start(t)
	if err := bus.Setup(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	return b, js
}

// within gives a context that ends long after what is waited for.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, js jetstream.JetStream, subject, body string) uint64 {
	t.Helper()
	seq, err := bus.Put(within(t), js, bus.Message{Subject: subject, Data: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := within(t)
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// next receives a message.
func next(t *testing.T, c <-chan bus.Msg) bus.Msg {
	t.Helper()
	select {
	case m, open := <-c:
		if !open {
			t.Fatal("the channel was closed")
		}
		return m
	case <-time.After(30 * time.Second):
		t.Fatal("no message came")
	}
	panic("unreachable")
}

func echoes(t *testing.T, js jetstream.JetStream) <-chan *nats.Msg {
	t.Helper()
	c := make(chan *nats.Msg, 1024)
	if _, err := js.Conn().ChanSubscribe(subjects.AllEchoes, c); err != nil {
		t.Fatal(err)
	}
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	return c
}
