package bus_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

var (
	leader   = subjects.KindLeader.Subject("")
	stop     = subjects.KindStop.Subject("")
	abort    = subjects.KindAbort.Subject("r1")
	progress = subjects.KindProgress.Subject("r1")
)

func desired(i int) string { return subjects.KindDesired.Subject(fmt.Sprintf("h%d.example.net", i)) }

// fences are the three revisions that a step expects.
type fences struct{ leader, stop, abort uint64 }

// step is the batch of design.md §5.
func step(f fences, hosts int) []bus.Message {
	msgs := []bus.Message{{Subject: leader, Data: []byte("{}"), Expect: &bus.Expect{Subject: leader, Sequence: f.leader}}}
	for i := range hosts {
		msgs = append(msgs, bus.Message{
			Subject: desired(i), Data: []byte(`{"v":1}`), Header: subjects.Header{subjects.HeaderGeneration: {"1"}},
			Expect: &bus.Expect{Subject: stop, Sequence: f.stop},
		})
	}
	return append(msgs, bus.Message{Subject: progress, Data: []byte("{}"), Expect: &bus.Expect{Subject: abort, Sequence: f.abort}})
}

func TestCommitWritesAStepWhole(t *testing.T) {
	_, js := setUp(t)
	heard := echoes(t, js)
	const hosts = 490
	last, err := bus.Commit(within(t), js, step(fences{}, hosts))
	if err != nil {
		t.Fatal(err)
	}
	if last != hosts+2 {
		t.Errorf("last sequence %d, want %d", last, hosts+2)
	}
	m, err := bus.Last(within(t), js, subjects.Stream, progress)
	if err != nil || m.Sequence != last {
		t.Errorf("progress: %+v, %v; want sequence %d", m, err, last)
	}
	for i := range hosts + 2 {
		select {
		case m := <-heard:
			if got := m.Header.Get("Nats-Sequence"); got != fmt.Sprint(i+1) {
				t.Fatalf("echo %d has sequence %s", i+1, got)
			}
		case <-within(t).Done():
			t.Fatalf("only %d echoes", i)
		}
	}
	// The caller's header isn't written to.
	h := subjects.Header{"A": {"b"}}
	if _, err := bus.Commit(within(t), js, []bus.Message{{Subject: desired(1), Header: h}, {Subject: desired(2), Header: h}}); err != nil || len(h) != 1 {
		t.Errorf("error %v, the header became %v", err, h)
	}
}

func TestCommitOfOneMessage(t *testing.T) {
	_, js := setUp(t)
	renew := func(at uint64) (uint64, error) {
		return bus.Commit(within(t), js, []bus.Message{{Subject: leader, Data: []byte("{}"), Expect: &bus.Expect{Subject: leader, Sequence: at}}})
	}
	first, err := renew(0)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := renew(first); err != nil || second != first+1 {
		t.Fatalf("renewed at %d: %d, %v", first, second, err)
	}
	if _, err := renew(first); !errors.Is(err, bus.ErrRefused) || !errors.Is(err, bus.ErrNotWritten) {
		t.Errorf("a stale renewal: %v, want %v", err, bus.ErrRefused)
	}
}

func TestEachFenceRefusesTheWholeStep(t *testing.T) {
	for name, move := range map[string]string{"stale leader": leader, "stop": stop, "abort": abort} {
		t.Run(name, func(t *testing.T) {
			_, js := setUp(t)
			var f fences
			last, err := bus.Commit(within(t), js, step(f, 3))
			if err != nil {
				t.Fatal(err)
			}
			f.leader = last - 4
			put(t, js, move, "x")
			before, err := bus.LastSequence(within(t), js, subjects.Stream)
			if err != nil {
				t.Fatal(err)
			}
			heard := echoes(t, js)
			if _, err := bus.Commit(within(t), js, step(f, 3)); !errors.Is(err, bus.ErrRefused) {
				t.Fatalf("got %v, want %v", err, bus.ErrRefused)
			}
			after := put(t, js, subjects.KindGuard.Subject(""), "a later write")
			if after != before+1 {
				t.Errorf("the refused step took %d sequences", after-before-1)
			}
			if m := <-heard; m.Subject != subjects.KindGuard.Echo("") {
				t.Errorf("an echo of the refused step: %s", m.Subject)
			}
			// The step of one who has seen it commits.
			for subject, at := range map[string]*uint64{leader: &f.leader, stop: &f.stop, abort: &f.abort} {
				if m, err := bus.Last(within(t), js, subjects.Stream, subject); err == nil {
					*at = m.Sequence
				} else if !errors.Is(err, bus.ErrNotFound) {
					t.Fatal(err)
				}
			}
			if _, err := bus.Commit(within(t), js, step(f, 3)); err != nil {
				t.Errorf("after reading again: %v", err)
			}
		})
	}
}

func TestADeleteMarkerFences(t *testing.T) {
	_, js := setUp(t)
	at := put(t, js, abort, "users see errors")
	kv, err := js.KeyValue(within(t), subjects.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Delete(within(t), subjects.KindAbort.Key("r1")); err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{0, at} {
		if _, err := bus.Commit(within(t), js, step(fences{abort: seq}, 1)); !errors.Is(err, bus.ErrRefused) {
			t.Errorf("expecting the abort at %d: %v, want %v", seq, err, bus.ErrRefused)
		}
	}
}

func TestCommitRejectsWhatCanNeverCommit(t *testing.T) {
	_, js := setUp(t)
	m := bus.Message{Subject: desired(1)}
	for name, msgs := range map[string][]bus.Message{
		"none":          nil,
		"too many":      make([]bus.Message, bus.MaxBatch+1),
		"no subject":    {{}},
		"wildcard":      {{Subject: subjects.AllKeys}},
		"too large":     {m, {Subject: desired(2), Data: make([]byte, 3<<20)}},
		"own write":     {m, {Subject: progress, Expect: &bus.Expect{Subject: desired(1)}}},
		"contradiction": {{Subject: desired(1), Expect: &bus.Expect{Subject: stop}}, {Subject: desired(2), Expect: &bus.Expect{Subject: stop, Sequence: 1}}},
	} {
		if _, err := bus.Commit(within(t), js, msgs); !errors.Is(err, bus.ErrNotWritten) || errors.Is(err, bus.ErrRefused) {
			t.Errorf("%s: %v, want %v", name, err, bus.ErrNotWritten)
		}
	}
	if seq, err := bus.LastSequence(within(t), js, subjects.Stream); err != nil || seq != 0 {
		t.Errorf("last sequence %d, %v", seq, err)
	}
}

func TestTheBrokersOwnWordsComeThrough(t *testing.T) {
	_, js := setUp(t)
	// The evidence stream doesn't take batches.
	_, err := bus.Commit(within(t), js, []bus.Message{{Subject: "tsunami.health.h1"}, {Subject: "tsunami.health.h2"}})
	if api, ok := errors.AsType[*jetstream.APIError](err); !ok || api.ErrorCode != 10174 || !errors.Is(err, bus.ErrNotWritten) {
		t.Errorf("got %v, want the broker's error 10174 in %v", err, bus.ErrNotWritten)
	}
	// Nobody is there at all.
	for _, n := range []int{1, 2} {
		if _, err := bus.Commit(within(t), js, nowhere(n)); !errors.Is(err, bus.ErrNotWritten) {
			t.Errorf("%d to nobody: %v, want %v", n, err, bus.ErrNotWritten)
		}
	}
}

func nowhere(n int) []bus.Message {
	msgs := make([]bus.Message, n)
	for i := range msgs {
		msgs[i].Subject = fmt.Sprintf("nobody.%d", i)
	}
	return msgs
}
