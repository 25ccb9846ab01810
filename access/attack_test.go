package access_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Permissions don't see headers: a host that may write its own key must not be
// able to erase others' records with it, nor an operator an abort.
func TestHeadersErase(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, _ := f.connect("a", subjects.RoleAgent)
	b, _ := f.connect("b", subjects.RoleAgent)
	olga, _ := f.connect("olga", subjects.RoleOperator)
	vera, _ := f.connect("vera", subjects.RoleViewer)
	js, err := jetstream.New(vera)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(nc *nats.Conn, subject string, header ...string) *nats.Msg {
		t.Helper()
		m := nats.NewMsg(subject)
		for i := 0; i < len(header); i += 2 {
			m.Header.Set(header[i], header[i+1])
		}
		m.Data = []byte(`{"role":"web"}`)
		answer, err := nc.RequestMsg(m, 5*time.Second)
		if err != nil {
			t.Fatalf("%s with %v: %v", subject, header, err)
		}
		return answer
	}
	ask(b, subjects.HostSubject("b"))
	ask(olga, subjects.KindAbort.Subject("r"))
	for name, header := range map[string][]string{
		"a rollup of all":     {"Nats-Rollup", "all"},
		"a rollup of its own": {"Nats-Rollup", "sub"},
		"a time to live":      {"Nats-TTL", "1s"},
	} {
		for subject, nc := range map[string]*nats.Conn{
			subjects.HostSubject("a"): a, subjects.Health("a"): a, subjects.KindAbort.Subject("r"): olga, subjects.KindStop.Subject(""): olga,
		} {
			answer := ask(nc, subject, header...)
			if string(answer.Data) == "" || !containsError(answer.Data) {
				t.Errorf("%s on %s is taken: %s", name, subject, answer.Data)
			}
		}
	}
	// A marker is taken, and erases nothing but what its writer said.
	ask(a, subjects.HostSubject("a"), "KV-Operation", "PURGE")
	for stream, subject := range map[string]string{subjects.HostsStream: subjects.HostSubject("b"), subjects.Stream: subjects.KindAbort.Subject("r")} {
		if _, err := bus.Last(t.Context(), js, stream, subject); err != nil {
			t.Errorf("%s is gone: %v", subject, err)
		}
	}
}

func containsError(answer []byte) bool {
	e, err := subjects.Decode[struct {
		Error  any    `json:"error"`
		Stream string `json:"stream"`
		Seq    uint64 `json:"seq"`
	}](answer)
	return err == nil && e.Error != nil && e.Seq == 0
}

// A sequence that a host claims in a header isn't its record's.
func TestForgedSequence(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, _ := f.connect("a", subjects.RoleAgent)
	sched, _ := f.connect("scheduler", subjects.RoleScheduler)
	js, err := jetstream.New(sched)
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg(subjects.HostSubject("a"))
	m.Header.Set("Nats-Sequence", "4711")
	m.Header.Set("Nats-Stream", subjects.Stream)
	m.Header.Set("Nats-Subject", subjects.HostSubject("b"))
	m.Data = []byte(`{"role":"web"}`)
	if _, err := a.RequestMsg(m, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	messages, err := bus.Consume(t.Context(), js, subjects.HostsStream, bus.ConsumeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := <-messages
	if got.Sequence != 1 || got.Subject != subjects.HostSubject("a") {
		t.Errorf("the scheduler takes it for %s at %d", got.Subject, got.Sequence)
	}
	host, err := subjects.HostOf(got.Subject)
	if err != nil || host != rollout.Host("a") {
		t.Errorf("%s, %v", host, err)
	}
	last, err := bus.Last(t.Context(), js, subjects.HostsStream, subjects.HostSubject("a"))
	if err != nil || last.Sequence != 1 {
		t.Errorf("%+v, %v", last, err)
	}
}

// Whoever may make consumers can have them deliver to any subject. What comes
// bears the subject that it was stored under, by which its reader knows it.
func TestAConsumerThatDeliversElsewhere(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	host, _ := f.connect("a", subjects.RoleAgent)
	sched, _ := f.connect("scheduler", subjects.RoleScheduler)
	vera, _ := f.connect("vera", subjects.RoleViewer)
	sjs, err := jetstream.New(sched)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Put(t.Context(), sjs, bus.Message{Subject: subjects.KindDesired.Subject("b"), Data: []byte(`{"v":"2"}`)}); err != nil {
		t.Fatal(err)
	}
	heard, err := host.SubscribeSync(subjects.KindDesired.Echo("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Flush(); err != nil {
		t.Fatal(err)
	}
	request := `{"stream_name":"KV_tsunami","config":{"deliver_subject":"tsunami.desired.a","deliver_policy":"all","ack_policy":"none","replay_policy":"instant","filter_subject":"$KV.tsunami.desired.b"}}`
	if _, err := vera.Request("$JS.API.CONSUMER.CREATE."+subjects.Stream, []byte(request), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	m, err := heard.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatalf("the attack doesn't work any more, which is good: forbid it in the table then: %v", err)
	}
	if m.Subject == subjects.KindDesired.Echo("a") {
		t.Errorf("another host's state comes as the host's own")
	}
	if h, err := subjects.HostOf(m.Subject); err != nil || h != "b" {
		t.Errorf("%s, %v", h, err)
	}
}
