package access_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// stored waits for what lies last under a subject, nil where there is nothing
// within a few seconds.
func stored(t *testing.T, js jetstream.JetStream, stream, subject string) *bus.Msg {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		m, err := bus.Last(t.Context(), js, stream, subject)
		if err == nil {
			return m
		}
		if !errors.Is(err, bus.ErrNotFound) {
			t.Fatal(err)
		}
	}
	return nil
}

// Permissions don't see the subject that an answer is asked on either: the
// broker acknowledges a host's own report on any subject, that of a stream
// included. So a host can stop things, and put an acknowledgement where another
// host's records are. It chooses none of the words and has no seal for them.
// Once the broker keeps hosts apart from the streams this fails: say then that
// nothing is stored.
func TestAcknowledgementsGoAnywhere(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, _ := f.connect("a", subjects.RoleAgent)
	sched, _ := f.connect("scheduler", subjects.RoleScheduler)
	js, err := jetstream.New(sched)
	if err != nil {
		t.Fatal(err)
	}
	for subject, stream := range map[string]string{
		subjects.KindStop.Subject(""):     subjects.Stream,
		subjects.KindAbort.Subject("r"):   subjects.Stream,
		subjects.KindDesired.Subject("b"): subjects.Stream,
		subjects.HostSubject("b"):         subjects.HostsStream,
		subjects.Health("b"):              subjects.EvidenceStream,
	} {
		if err := a.PublishRequest(subjects.HostSubject("a"), subject, []byte(`{"role":"web"}`)); err != nil {
			t.Fatal(err)
		}
		m := stored(t, js, stream, subject)
		if m == nil {
			t.Errorf("nothing is stored under %s any more, which is good: hold that here", subject)
			continue
		}
		if !strings.HasPrefix(string(m.Data), `{"stream":"`+subjects.HostsStream+`",`) || len(m.Header) > 0 {
			t.Errorf("the host has a say in what lies under %s: %v %s", subject, m.Header, m.Data)
		}
	}
}

// The broker's own answers command nothing: its API takes no request that
// nobody has sent.
func TestAcknowledgementsCommandNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, _ := f.connect("a", subjects.RoleAgent)
	b, _ := f.connect("b", subjects.RoleAgent)
	sched, _ := f.connect("scheduler", subjects.RoleScheduler)
	js, err := jetstream.New(sched)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Put(t.Context(), js, bus.Message{Subject: subjects.KindDesired.Subject("a"), Data: []byte(`{"v":"1"}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Request(subjects.HostSubject("b"), []byte(`{}`), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{subjects.Stream, subjects.HostsStream, subjects.AuditStream, subjects.EvidenceStream} {
		for _, verb := range []string{"PURGE", "DELETE", "UPDATE", "MSG.DELETE"} {
			if err := a.PublishRequest(subjects.HostSubject("a"), "$JS.API.STREAM."+verb+"."+stream, []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
			// The broker answers in order: this one comes after that one.
			if _, err := a.Request(subjects.HostSubject("a"), []byte(`{}`), 5*time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}
	for stream, subject := range map[string]string{
		subjects.Stream:         subjects.KindDesired.Subject("a"),
		subjects.HostsStream:    subjects.HostSubject("b"),
		subjects.AuditStream:    "tsunami.audit.desired.a",
		subjects.EvidenceStream: "tsunami.evidence.desired.a",
	} {
		if stored(t, js, stream, subject) == nil {
			t.Errorf("%s is gone from %s", subject, stream)
		}
	}
}

// A viewer and a host together forge more: what a viewer reads comes where the
// viewer wants it, with the host's own words. Only the headers of a read show
// where they were said. Once the broker keeps people apart from the streams this
// fails: say then that nothing is stored.
func TestAViewerAndAHostForgeHealth(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, _ := f.connect("a", subjects.RoleAgent)
	sched, _ := f.connect("scheduler", subjects.RoleScheduler)
	vera, _ := f.connect("vera", subjects.RoleViewer)
	js, err := jetstream.New(sched)
	if err != nil {
		t.Fatal(err)
	}
	const words = `{"event":"what the host likes"}`
	if _, err := a.Request(subjects.HostSubject("a"), []byte(words), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := vera.PublishRequest("$JS.API.DIRECT.GET."+subjects.HostsStream+"."+subjects.HostSubject("a"), subjects.Health("b"), nil); err != nil {
		t.Fatal(err)
	}
	m := stored(t, js, subjects.EvidenceStream, subjects.Health("b"))
	if m == nil {
		t.Fatal("the attack doesn't work any more, which is good: hold that here")
	}
	if string(m.Data) != words || m.Header.Get("Nats-Subject") != subjects.HostSubject("a") {
		t.Errorf("it isn't what the host said, or doesn't show where: %v %s", m.Header, m.Data)
	}
}
