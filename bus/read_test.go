package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func TestReads(t *testing.T) {
	_, js := setUp(t)
	ctx := within(t)
	request := subjects.DirectGetDesired("h1.example.net")
	if _, err := bus.DirectGet(ctx, js.Conn(), request); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("direct get of nothing: %v", err)
	}
	if _, err := bus.Last(ctx, js, subjects.Stream, desired(1)); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("last of nothing: %v", err)
	}
	if h, err := bus.History(ctx, js, subjects.Stream, desired(1)); err != nil || len(h) != 0 {
		t.Errorf("history of nothing: %v, %v", h, err)
	}
	// The writer's own Nats-Sequence isn't believed.
	m := bus.Message{Subject: desired(1), Header: subjects.Header{"Nats-Sequence": {"999"}, "Nats-Subject": {"x"}, "A": {"b"}}, Data: []byte("{}")}
	put(t, js, stop, "x")
	for range 70 {
		if _, err := bus.Put(ctx, js, m); err != nil {
			t.Fatal(err)
		}
	}
	direct, err := bus.DirectGet(ctx, js.Conn(), request)
	if err != nil {
		t.Fatal(err)
	}
	last, err := bus.Last(ctx, js, subjects.Stream, desired(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []*bus.Msg{direct, last} {
		if got.Sequence != 71 || got.Subject != desired(1) || got.Header.Get("A") != "b" || string(got.Data) != "{}" || time.Since(got.Time) > time.Minute {
			t.Errorf("got %+v", got)
		}
	}
	all, err := bus.History(ctx, js, subjects.Stream, desired(1))
	if err != nil || len(all) != 64 || all[0].Sequence != 8 || all[63].Sequence != 71 {
		t.Errorf("%d records, %v", len(all), err)
	}
	if _, err := bus.LastSequence(ctx, js, "NONE"); err == nil {
		t.Error("a stream that isn't has a sequence")
	}
	if _, err := bus.DirectGet(ctx, js.Conn(), "nobody.is.there"); err == nil || errors.Is(err, bus.ErrNotFound) {
		t.Errorf("direct get from nobody: %v", err)
	}
}

func TestPutWaitsForTheBroker(t *testing.T) {
	b, js := setUp(t)
	b.Shutdown()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := bus.Put(ctx, js, bus.Message{Subject: stop}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
	done := make(chan error, 1)
	go func() {
		_, err := bus.Put(within(t), js, bus.Message{Subject: stop, Data: []byte("now")})
		done <- err
	}()
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if h, err := bus.History(within(t), js, subjects.Stream, stop); err != nil || len(h) != 1 || string(h[0].Data) != "now" {
		t.Errorf("%+v, %v", h, err)
	}
	for name, m := range map[string]bus.Message{
		"too large":   {Subject: stop, Data: make([]byte, 3<<20)},
		"expectation": {Subject: stop, Expect: &bus.Expect{Subject: stop}},
		"wildcard":    {Subject: subjects.AllKeys},
	} {
		if _, err := bus.Put(within(t), js, m); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCommitWithoutTheBroker(t *testing.T) {
	b, js := setUp(t)
	b.Shutdown()
	eventually(t, "the client has noticed", func() bool { return !js.Conn().IsConnected() })
	for _, n := range []int{0, 3} {
		if _, err := bus.Commit(within(t), js, step(fences{}, n)); !errors.Is(err, bus.ErrNotWritten) {
			t.Errorf("got %v, want %v", err, bus.ErrNotWritten)
		}
	}
	if err := b.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client is back", js.Conn().IsConnected)
	if seq, err := bus.LastSequence(within(t), js, subjects.Stream); err != nil || seq != 0 {
		t.Errorf("a write arrived late: last sequence %d, %v", seq, err)
	}
}

// A responder that takes the request and never answers stands for an answer
// that was lost.
func TestALostAnswerIsUnknown(t *testing.T) {
	_, js := start(t)
	taken := make(chan *nats.Msg, 8)
	if _, err := js.Conn().ChanSubscribe("mute.>", taken); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Conn().Subscribe("opens.>", func(m *nats.Msg) {
		if m.Header.Get("Nats-Batch-Commit") == "" {
			_ = m.Respond(nil)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for _, answer := range []string{"not json", "{}", `{"stream":"S","seq":7,"batch":"another","count":2}`} {
		if _, err := js.Conn().Subscribe("answers."+fmt.Sprint(len(answer)), func(m *nats.Msg) {
			if m.Header.Get("Nats-Batch-Sequence") == "1" {
				_ = m.Respond(nil)
				return
			}
			_ = m.Respond([]byte(answer))
		}); err != nil {
			t.Fatal(err)
		}
		s := "answers." + fmt.Sprint(len(answer))
		if _, err := bus.Commit(within(t), js, []bus.Message{{Subject: s}, {Subject: s}}); !errors.Is(err, bus.ErrUnknown) || errors.Is(err, bus.ErrNotWritten) {
			t.Errorf("answered %s: %v, want %v", answer, err, bus.ErrUnknown)
		}
	}
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	if _, err := bus.Commit(short(), js, []bus.Message{{Subject: "mute.a"}}); !errors.Is(err, bus.ErrUnknown) {
		t.Errorf("one message: %v, want %v", err, bus.ErrUnknown)
	}
	if _, err := bus.Commit(short(), js, []bus.Message{{Subject: "opens.a"}, {Subject: "opens.b"}, {Subject: "opens.c"}}); !errors.Is(err, bus.ErrUnknown) {
		t.Errorf("the commit: %v, want %v", err, bus.ErrUnknown)
	}
	// Before the commit was sent nothing can have been written.
	if _, err := bus.Commit(short(), js, []bus.Message{{Subject: "mute.a"}, {Subject: "mute.b"}}); !errors.Is(err, bus.ErrNotWritten) {
		t.Errorf("the opening: %v, want %v", err, bus.ErrNotWritten)
	}
}
