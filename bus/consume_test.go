package bus_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// batches writes n records in batches, on subjects of their own.
func batches(t *testing.T, commit func([]bus.Message) error, n int) {
	t.Helper()
	for i := 0; i < n; {
		var msgs []bus.Message
		for ; i < n && len(msgs) < bus.MaxBatch; i++ {
			msgs = append(msgs, bus.Message{Subject: desired(i), Data: fmt.Append(nil, i)})
		}
		if err := commit(msgs); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConsumeMarksTheEndOfWhatWasStored(t *testing.T) {
	_, js := setUp(t)
	c, err := bus.Consume(t.Context(), js, subjects.Stream, bus.ConsumeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m := next(t, c); m.Subject != "" {
		t.Fatalf("an empty stream begins with %+v, want the mark", m)
	}
	put(t, js, stop, "a")
	put(t, js, stop, "b")
	put(t, js, abort, "c")
	for _, want := range []string{"a", "b", "c"} {
		if m := next(t, c); string(m.Data) != want || m.Subject == "" || m.Time.IsZero() {
			t.Fatalf("got %+v, want %s", m, want)
		}
	}

	for name, tt := range map[string]struct {
		options bus.ConsumeOptions
		want    string
	}{
		"all":        {bus.ConsumeOptions{}, "a b c |"},
		"one":        {bus.ConsumeOptions{Subjects: []string{stop}}, "a b |"},
		"none":       {bus.ConsumeOptions{Subjects: []string{leader}}, "|"},
		"last":       {bus.ConsumeOptions{LastPerSubject: true}, "b c |"},
		"last of 2":  {bus.ConsumeOptions{LastPerSubject: true, Subjects: []string{stop, leader}}, "b |"},
		"start":      {bus.ConsumeOptions{Start: 3}, "c |"},
		"the future": {bus.ConsumeOptions{Start: 4}, "|"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c, err := bus.Consume(ctx, js, subjects.Stream, tt.options)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			for got == "" || got[len(got)-1] != '|' {
				m := next(t, c)
				switch {
				case m.Subject == "":
					got += "|"
				default:
					got += string(m.Data) + " "
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			cancel()
			for m := range c {
				t.Errorf("after the end: %+v", m)
			}
		})
	}
}

func TestConsumeHeadersOnly(t *testing.T) {
	_, js := setUp(t)
	put(t, js, stop, "a body")
	c, err := bus.Consume(t.Context(), js, subjects.Stream, bus.ConsumeOptions{HeadersOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if m := next(t, c); len(m.Data) != 0 || m.Subject != stop {
		t.Errorf("got %+v", m)
	}
}

func TestConsumeOfNoStream(t *testing.T) {
	_, js := start(t)
	if _, err := bus.Consume(t.Context(), js, subjects.Stream, bus.ConsumeOptions{}); err == nil {
		t.Error("no error")
	}
	if _, err := bus.Consume(t.Context(), js, subjects.Stream, bus.ConsumeOptions{LastPerSubject: true, Start: 1}); err == nil {
		t.Error("no error")
	}
}

// A reader that doesn't read holds the broker back: the client holds a few
// hundred messages, and the rest arrives when it reads on.
func TestConsumeHoldsBackForASlowReader(t *testing.T) {
	_, js := setUp(t)
	const n = 10_000
	batches(t, func(m []bus.Message) error { _, err := bus.Commit(within(t), js, m); return err }, n)
	c, err := bus.Consume(t.Context(), js, subjects.Stream, bus.ConsumeOptions{Buffer: 64})
	if err != nil {
		t.Fatal(err)
	}
	in := js.Conn().Stats().InMsgs
	eventually(t, "the buffer is full", func() bool { return len(c) == 64 })
	if got := js.Conn().Stats().InMsgs - in; got > 1000 {
		t.Errorf("%d messages came in for a reader that reads none", got)
	}
	inOrder(t, c, 1, n)
}

// inOrder reads sequences first to last, and the mark once.
func inOrder(t *testing.T, c <-chan bus.Msg, first, last uint64) {
	t.Helper()
	marks := 0
	for seq := first; seq <= last || marks == 0; {
		m := next(t, c)
		if m.Subject == "" {
			if marks++; marks > 1 {
				t.Fatal("the mark came twice")
			}
			continue
		}
		if m.Sequence != seq {
			t.Fatalf("sequence %d where %d comes next", m.Sequence, seq)
		}
		seq++
	}
}

func TestConsumeOverRestartsOfTheBroker(t *testing.T) {
	b, js := setUp(t)
	writer := connect(t, b, bus.ConnectOptions{})
	c, err := bus.Consume(t.Context(), js, subjects.Stream, bus.ConsumeOptions{Buffer: 16})
	if err != nil {
		t.Fatal(err)
	}
	if m := next(t, c); m.Subject != "" {
		t.Fatalf("got %+v, want the mark", m)
	}
	// Each round the broker goes away with messages on their way to the reader.
	var total, read uint64
	for range 8 {
		var last uint64
		batches(t, func(m []bus.Message) (err error) { last, err = bus.Commit(within(t), writer, m); return err }, 200)
		total = last
		for range 20 {
			read++
			if m := next(t, c); m.Sequence != read {
				t.Fatalf("sequence %d where %d comes next", m.Sequence, read)
			}
		}
		if err := b.Restart(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the writer is back", writer.Conn().IsConnected)
	}
	for read < total {
		read++
		if m := next(t, c); m.Sequence != read {
			t.Fatalf("sequence %d where %d comes next", m.Sequence, read)
		}
	}
	// And it is live.
	seq := put(t, writer, stop, "x")
	if m := next(t, c); m.Sequence != seq {
		t.Fatalf("sequence %d, want %d", m.Sequence, seq)
	}
}

func TestConsumeEndsWithAClosedConnectionAndWithAStreamSetBack(t *testing.T) {
	var b *broker.Broker
	for name, end := range map[string]func(victim *nats.Conn){
		"closed":   func(victim *nats.Conn) { victim.Close() },
		"set back": func(*nats.Conn) { setBack(t, b) },
	} {
		t.Run(name, func(t *testing.T) {
			var js jetstream.JetStream
			b, js = setUp(t)
			put(t, js, stop, "x")
			victimJS := connect(t, b, bus.ConnectOptions{})
			c, err := bus.Consume(t.Context(), victimJS, subjects.Stream, bus.ConsumeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			next(t, c)
			next(t, c)
			end(victimJS.Conn())
			select {
			case m, open := <-c:
				if open {
					t.Errorf("got %+v, want a closed channel", m)
				}
			case <-within(t).Done():
				t.Error("the channel stays open")
			}
		})
	}
}

// setBack makes the stream anew, as a restored backup would.
func setBack(t *testing.T, b *broker.Broker) {
	t.Helper()
	js := connect(t, b, bus.ConnectOptions{})
	if err := js.DeleteStream(within(t), subjects.Stream); err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(within(t), js, 1); err != nil {
		t.Fatal(err)
	}
}

// bubble runs f in fake time with the real broker. facts.md has why it takes
// all of this.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	empty := func() { runtime.GC(); runtime.GC() } // the client's pool of timers
	empty()
	defer empty() // a timer of the bubble would kill a later test, too
	ats.Register()
	defer ats.Unregister()
	synctest.Test(t, f)
}

func TestConsumeInFakeTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b, err := broker.Start(broker.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Shutdown()
		js := connect(t, b, bus.ConnectOptions{PingInterval: time.Hour})
		defer js.Conn().Close()
		if err := bus.Setup(t.Context(), js, 1); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		c, err := bus.Consume(ctx, js, subjects.Stream, bus.ConsumeOptions{Heartbeat: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if m := <-c; m.Subject != "" {
			t.Fatalf("got %+v, want the mark", m)
		}
		for round := range 4 {
			time.Sleep(20 * time.Minute)
			if round%2 == 1 {
				b.Shutdown()
				time.Sleep(10 * time.Minute)
				if err := b.Restart(); err != nil {
					t.Fatal(err)
				}
			}
			seq, err := bus.Put(ctx, js, bus.Message{Subject: stop})
			if err != nil {
				t.Fatal(err)
			}
			if m := <-c; m.Sequence != seq || time.Since(m.Time) > time.Minute {
				t.Fatalf("round %d: got %+v, want sequence %d of %s", round, m, seq, time.Now())
			}
		}
		cancel()
		for m := range c {
			t.Errorf("after the end: %+v", m)
		}
	})
}
