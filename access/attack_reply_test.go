package access_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// targets are subjects that streams take in, of which none of the attackers
// below may write any: an answer that is asked for there must not be stored.
var targets = map[string]string{
	subjects.KindStop.Subject(""):     subjects.Stream,
	subjects.KindAbort.Subject("r"):   subjects.Stream,
	subjects.KindDesired.Subject("b"): subjects.Stream,
	subjects.KindLeader.Subject(""):   subjects.Stream,
	subjects.HostSubject("b"):         subjects.HostsStream,
	subjects.Health("b"):              subjects.EvidenceStream,
	subjects.SilenceOf("b"):           subjects.EvidenceStream,
}

// stored says which of the targets have been written, after a while in which the
// broker may write.
func stored(t *testing.T, js jetstream.JetStream) (all []string) {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
	for subject, stream := range targets {
		switch m, err := bus.Last(t.Context(), js, stream, subject); {
		case err == nil:
			all = append(all, subject+": "+string(m.Data))
		case !errors.Is(err, bus.ErrNotFound):
			t.Fatal(err)
		}
	}
	return all
}

// Permissions don't see on which subject an answer is asked for. Whatever hosts
// and people ask, no answer is stored: the streams are in another account.
func TestAnswersAreNotStored(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	sched, _ := f.connect("scheduler", subjects.RoleScheduler)
	js, err := jetstream.New(sched)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Put(t.Context(), js, bus.Message{Subject: subjects.KindDesired.Subject("a"), Data: []byte(`{"v":"1"}`)}); err != nil {
		t.Fatal(err)
	}
	readings := []string{
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO." + subjects.Stream, "$SRV.PING",
		"$JS.API.DIRECT.GET." + subjects.HostsStream + "." + subjects.HostSubject("a"), "$JS.API.DIRECT.GET." + subjects.Stream + ".none",
		"$JS.API.CONSUMER.NAMES." + subjects.Stream, "$JS.API.CONSUMER.MSG.NEXT." + subjects.Stream + ".none", subjects.API + "%.status",
	}
	for name, attacker := range map[string]struct {
		role subjects.Role
		asks []string
	}{
		"a": {subjects.RoleAgent, []string{
			subjects.HostSubject("a"), subjects.Health("a"), subjects.Alive("a"), subjects.DirectGetEpoch,
			"$JS.API.DIRECT.GET." + subjects.Stream + "." + subjects.KindDesired.Subject("a"),
		}},
		"vera": {subjects.RoleViewer, readings},
		"anna": {subjects.RoleApprover, readings},
	} {
		nc, _ := f.connect(name, attacker.role)
		for _, ask := range attacker.asks {
			ask = strings.ReplaceAll(ask, "%", name)
			for target := range targets {
				if err := nc.PublishRequest(ask, target, []byte(`{"role":"web"}`)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := nc.LastError(); err != nil {
			t.Errorf("%s isn't allowed to attack: %v", name, err)
		}
	}
	if _, err := bus.Last(t.Context(), js, subjects.HostsStream, subjects.HostSubject("a")); err != nil {
		t.Fatalf("what the host says itself isn't stored: %v", err)
	}
	if all := stored(t, js); len(all) > 0 {
		t.Errorf("answers are stored: %q", all)
	}

	// A part of tsunamid can do it, within the account of the streams: this
	// test sees what it looks for.
	guard, _ := f.connect("sloguard", subjects.RoleSloguard)
	if err := guard.PublishRequest(subjects.KindGuard.Subject(""), subjects.KindStop.Subject(""), []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if all := stored(t, js); len(all) != 1 {
		t.Errorf("the guard's answer: %q", all)
	}
}

// Nor is what a consumer delivers that a person has made for it.
func TestDeliveriesAreNotStored(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, _ := f.connect("a", subjects.RoleAgent)
	sched, _ := f.connect("scheduler", subjects.RoleScheduler)
	vera, _ := f.connect("vera", subjects.RoleViewer)
	js, err := jetstream.New(sched)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Request(subjects.HostSubject("a"), []byte(`{"event":"what the host likes"}`), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	for target := range targets {
		request, err := json.Marshal(map[string]any{"stream_name": subjects.HostsStream, "config": map[string]any{
			"deliver_subject": target, "deliver_policy": "all", "ack_policy": "none", "replay_policy": "instant",
		}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := vera.Request("$JS.API.CONSUMER.CREATE."+subjects.HostsStream, request, 5*time.Second)
		if err != nil || !made(m) && target != subjects.HostSubject("b") { // that one would go round in a circle
			t.Fatalf("no consumer that delivers to %s: %v, %s", target, err, m.Data)
		}
	}
	if all := stored(t, js); len(all) > 0 {
		t.Errorf("deliveries are stored: %q", all)
	}
}

func made(m *nats.Msg) bool { return !strings.Contains(string(m.Data), `"error"`) }

// The broker's own answers command nothing: its API takes no request that
// nobody has sent.
func TestAnswersCommandNothing(t *testing.T) {
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
		subjects.Stream:      subjects.KindDesired.Subject("a"),
		subjects.HostsStream: subjects.HostSubject("b"),
	} {
		if _, err := bus.Last(t.Context(), js, stream, subject); err != nil {
			t.Errorf("%s in %s: %v", subject, stream, err)
		}
	}
}
