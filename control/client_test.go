package control_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := subjects.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func value(t *testing.T, s string) rollout.Value {
	t.Helper()
	v, err := rollout.StringValue(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func putRollout(t *testing.T, js jetstream.JetStream, id rollout.ID) uint64 {
	t.Helper()
	return put(t, js, bus.Message{Subject: subjects.KindRollout.Subject(string(id)), Data: encode(t, rollout.Record{
		Spec:  rollout.Spec{Name: id, Variable: "docker_version", To: value(t, "1.12.3"), Ramp: rollout.Ramp{Over: 1e9}},
		State: rollout.StateRunning, Why: "started", By: "bob", Author: "bob",
	})})
}

func TestAbortAndStopNeedNoScheduler(t *testing.T) {
	nc, js := start(t)
	c := client(t, nc)
	_, err := c.Abort(within(t), "docker-1-12-3", "users see errors")
	wantError(t, err, "rollout docker-1-12-3: not found", "nothing was aborted")
	if !errors.Is(err, rollout.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	before := putRollout(t, js, "docker-1-12-3")
	seq, err := c.Abort(within(t), "docker-1-12-3", "users see errors")
	if err != nil || seq != before+1 {
		t.Fatalf("sequence %d after %d, %v", seq, before, err)
	}
	abort, err := c.LastAbort(within(t), "docker-1-12-3")
	if err != nil || abort.Sequence != seq || abort.Why != "users see errors" || abort.Actor != "alice" || time.Since(abort.Time) > time.Minute {
		t.Errorf("the abort is %+v, %v", abort, err)
	}
	if _, err := c.Abort(within(t), "*", "x"); err == nil || !strings.Contains(err.Error(), "isn't allowed") {
		t.Errorf("an abort of * gave %v", err)
	}
	if stop, err := c.LastStop(within(t)); stop != nil || err != nil {
		t.Errorf("before there was one, the stop is %+v, %v", stop, err)
	}
	seq, err = c.Stop(within(t), "incident 4711")
	if err != nil {
		t.Fatal(err)
	}
	stop, err := c.LastStop(within(t))
	if err != nil || stop.Sequence != seq || stop.Why != "incident 4711" || stop.Released {
		t.Errorf("the stop is %+v, %v", stop, err)
	}
	put(t, js, bus.Message{Subject: subjects.KindStop.Subject(""), Data: []byte("by hand")})
	if stop, err := c.LastStop(within(t)); err != nil || stop.Why != "by hand" || stop.Actor != "" || stop.Time.IsZero() {
		t.Errorf("the stop by hand is %+v, %v", stop, err)
	}
}

// tell writes what a host is told, as the scheduler does.
func tell(t *testing.T, js jetstream.JetStream, c subjects.Change) {
	t.Helper()
	h, body, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put(t, js, bus.Message{Subject: subjects.KindDesired.Subject(string(c.Host)), Header: h, Data: body})
}

// history writes one record of each kind, and returns how many.
func history(t *testing.T, js jetstream.JetStream, then time.Time) uint64 {
	t.Helper()
	told := func(id rollout.ID, gen uint64) rollout.Told {
		return rollout.Told{Rollout: id, Generation: gen, Time: then}
	}
	reason, err := json.Marshal(rollout.Reason{Code: rollout.ByOperator})
	if err != nil {
		t.Fatal(err)
	}
	by := func(actor string) subjects.Header {
		return subjects.Header{subjects.HeaderActor: {actor}, subjects.HeaderTime: {then.Format(time.RFC3339Nano)}, subjects.HeaderReason: {string(reason)}}
	}
	put(t, js, bus.Message{Subject: subjects.KindVariable.Subject("docker_version"), Header: by("bob"),
		Data: encode(t, rollout.Variable{Name: "docker_version", Type: rollout.String, Value: value(t, "1.10.3")})})
	tell(t, js, subjects.Change{Host: "h1.example.net", Reason: rollout.Reason{Code: rollout.ByFirst}, Actor: rollout.Scheduler, Time: then, Desired: rollout.Desired{
		Generation: 1, Values: rollout.Document{"docker_version": value(t, "1.10.3"), "agent": value(t, "2")},
		Told: map[rollout.Name]rollout.Told{"docker_version": told("", 1), "agent": told("", 1)},
	}})
	putRollout(t, js, "docker-1-12-3")
	for _, h := range []rollout.Host{"h1.example.net", "h2.example.net"} {
		tell(t, js, subjects.Change{Host: h, Variable: "docker_version", Previous: value(t, "1.10.3"), Rollout: "docker-1-12-3", Actor: "bob", Time: then.Add(time.Second),
			Reason: rollout.Reason{Code: rollout.ByRamp, Role: "web", Position: 3, Target: 10, Share: 0.25},
			Desired: rollout.Desired{
				Generation: 2, Values: rollout.Document{"docker_version": value(t, "1.12.3"), "agent": value(t, "2")},
				Told: map[rollout.Name]rollout.Told{"docker_version": told("docker-1-12-3", 2), "agent": told("", 1)},
			}})
	}
	put(t, js, bus.Message{Subject: subjects.KindAbort.Subject("docker-1-12-3"), Data: []byte("users see errors")})
	put(t, js, bus.Message{Subject: subjects.KindDesired.Subject("h1.example.net"), Data: []byte(`{"docker_version":"9\u0007"}` + "\x1b[2J")})
	put(t, js, bus.Message{Subject: subjects.KindDesired.Subject("h2.example.net"), Header: subjects.Header{"KV-Operation": {"DEL"}}})
	put(t, js, bus.Message{Subject: subjects.KindRollout.Subject("docker-1-12-3"), Data: []byte("oops")})
	put(t, js, bus.Message{Subject: subjects.KindStop.Subject(""), Header: subjects.Header{subjects.HeaderAcknowledges: {"7"}, subjects.HeaderActor: {"carol"}}, Data: encode(t, subjects.Abort{Why: "over", Time: then})})
	put(t, js, bus.Message{Subject: subjects.KindPin.Subject("h1.example.net"), Data: []byte("{}")})
	return 11
}

func read(t *testing.T, c *control.Client, f control.AuditFilter) []control.AuditRecord {
	t.Helper()
	var all []control.AuditRecord
	for r, err := range c.Audit(within(t), f) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestAudit(t *testing.T) {
	nc, js := start(t)
	c := client(t, nc)
	if all := read(t, c, control.AuditFilter{}); len(all) != 0 {
		t.Errorf("an empty log has %v", all)
	}
	then := time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	audited(t, js, history(t, js, then))

	all := read(t, c, control.AuditFilter{})
	if len(all) != 12 { // the first document changed two variables
		t.Fatalf("%d records: %+v", len(all), all)
	}
	for i, want := range []string{
		"variable applied bob", "desired the host's first document scheduler", "desired the host's first document scheduler", "rollout running: started bob",
		"desired the ramp is at 25.00%: host 3 of 10 in role web bob", "desired the ramp is at 25.00%: host 3 of 10 in role web bob",
		"abort users see errors ", `desired written by hand: {"docker_version":"9\u0007"} [2J `, "desired deleted by hand ",
		"rollout written by hand: oops ", "stop stop 7 released: over carol", "pin written by hand: {} ",
	} {
		r := all[i]
		if got := r.Kind + " " + r.Reason + " " + r.Actor; got != want {
			t.Errorf("record %d is %q, want %q", i, got, want)
		}
		if r.Origin == 0 || r.Sequence == 0 || r.Time.IsZero() {
			t.Errorf("record %d is %+v", i, r)
		}
	}
	if r := all[1]; r.Variable != "agent" || r.Value.Text() != "2" || r.Host != "h1.example.net" || !r.Time.Equal(then) {
		t.Errorf("the first document's first variable is %+v", r)
	}
	if r := all[4]; r.Previous.Text() != "1.10.3" || r.Value.Text() != "1.12.3" || r.Rollout != "docker-1-12-3" || r.Generation != 2 {
		t.Errorf("the ramp's change is %+v", r)
	}

	for _, f := range []struct {
		name   string
		filter control.AuditFilter
		want   int
	}{
		{"host", control.AuditFilter{Host: "h1.example.net"}, 5},
		{"rollout", control.AuditFilter{Rollout: "docker-1-12-3"}, 5},
		{"both", control.AuditFilter{Host: "h1.example.net", Rollout: "docker-1-12-3"}, 1},
		{"variable", control.AuditFilter{Variable: "agent"}, 1},
		{"kinds", control.AuditFilter{Kinds: []subjects.Kind{subjects.KindAbort, subjects.KindStop}}, 2},
		{"since before", control.AuditFilter{Since: then}, 12},
		{"since, by when it was done", control.AuditFilter{Since: then.Add(time.Minute)}, 6},
		{"since later", control.AuditFilter{Since: time.Now().Add(time.Hour)}, 0},
		{"nothing can match", control.AuditFilter{Host: "h1.example.net", Kinds: []subjects.Kind{subjects.KindStop}}, 0},
		{"unknown", control.AuditFilter{Rollout: "nope"}, 0},
	} {
		if got := read(t, c, f.filter); len(got) != f.want {
			t.Errorf("%s: %d records, want %d: %+v", f.name, len(got), f.want, got)
		}
	}
	n := 0
	for range c.Audit(within(t), control.AuditFilter{}) { // a reader may leave early
		if n++; n == 2 {
			break
		}
	}
}

// The record of a rollout that was steered says only in its header who did what
// and when; the rest of it is of the last transition.
func TestAuditOfASteeredRollout(t *testing.T) {
	nc, js := start(t)
	then := time.Now().UTC().Add(-time.Hour).Truncate(time.Second)
	record := func(by rollout.ID, at time.Time, reason rollout.Reason) {
		t.Helper()
		put(t, js, bus.Message{
			Subject: subjects.KindRollout.Subject("up"),
			Header: subjects.Header{
				subjects.HeaderActor: {string(by)}, subjects.HeaderTime: {at.Format(time.RFC3339Nano)},
				subjects.HeaderReason: {string(encode(t, reason))},
			},
			Data: encode(t, rollout.Record{
				Spec:  rollout.Spec{Name: "up", Variable: "docker_version", To: value(t, "1.12.3"), Ramp: rollout.Ramp{Over: 1e9}},
				State: rollout.StateFrozen, Why: "users see errors", By: "alice", Author: "alice", Changed: then,
			}),
		})
	}
	record("alice", then, rollout.Reason{Code: rollout.Frozen, Detail: "users see errors"})
	record("bob", then.Add(time.Minute), rollout.Reason{Code: rollout.ByOperator, Detail: "approved: looks good"})
	audited(t, js, 2)
	all := read(t, client(t, nc), control.AuditFilter{Rollout: "up"})
	if len(all) != 2 {
		t.Fatalf("%d records: %+v", len(all), all)
	}
	if r := all[0]; r.Reason != "frozen: users see errors" || r.Actor != "alice" || !r.Time.Equal(then) {
		t.Errorf("the transition is %+v", r)
	}
	if r := all[1]; r.Reason != "approved: looks good" || r.Actor != "bob" || !r.Time.Equal(then.Add(time.Minute)) || r.Value.Text() != "1.12.3" {
		t.Errorf("the approval is %+v", r)
	}
}

func TestAuditWithoutALog(t *testing.T) {
	nc, js := start(t)
	if err := js.DeleteStream(within(t), subjects.AuditStream); err != nil {
		t.Fatal(err)
	}
	for _, err := range client(t, nc).Audit(within(t), control.AuditFilter{Since: time.Now()}) {
		wantError(t, err, "there is no audit log")
	}
	for _, err := range client(t, nc).Audit(within(t), control.AuditFilter{}) {
		wantError(t, err, "there is no audit log")
	}
}
