package control_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// recording writes evidence as a scheduler, a guard and hosts do. What is sourced
// is waited for, so that everything is in the order in which it is written.
type recording struct {
	t      *testing.T
	js     jetstream.JetStream
	stored uint64 // in the evidence stream
	events map[rollout.Host]uint64
}

func (r *recording) put(subject string, header subjects.Header, v any) {
	r.t.Helper()
	body, err := subjects.Encode(v)
	if err != nil {
		r.t.Fatal(err)
	}
	r.message(bus.Message{Subject: subject, Header: header, Data: body})
}

func (r *recording) message(m bus.Message) {
	r.t.Helper()
	if _, err := bus.Put(within(r.t), r.js, m); err != nil {
		r.t.Fatal(err)
	}
	r.stored++
	for {
		n, err := bus.LastSequence(within(r.t), r.js, subjects.EvidenceStream)
		if err != nil {
			r.t.Fatal(err)
		}
		if n >= r.stored {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func own() subjects.Header {
	return subjects.Header{subjects.HeaderTime: {time.Now().UTC().Format(time.RFC3339Nano)}}
}

// objective is one whose failures count at once.
func objective(name rollout.ID) *slo.Objective {
	return &slo.Objective{Name: name, Check: "app", For: new(rollout.Duration(0)), Grace: new(rollout.Duration(0))}
}

func (r *recording) rollout(id rollout.ID, acknowledged uint64, objectives ...rollout.ID) {
	r.t.Helper()
	record := rollout.Record{
		Spec:  rollout.Spec{Name: id, Variable: "version", To: value(r.t, "2"), Ramp: rollout.Ramp{Over: rollout.Duration(time.Hour)}},
		State: rollout.StateRunning, By: "ann", Author: "ann", Created: time.Now().UTC(), Changed: time.Now().UTC(), Salt: "s", Acknowledged: acknowledged,
	}
	if objectives != nil {
		record.Spec.Guard = &rollout.Guard{Objectives: objectives}
	}
	r.put(subjects.KindRollout.Subject(string(id)), own(), record)
}

// hosts reports hosts that pass the check.
func (r *recording) hosts(n int) (all []rollout.Host) {
	r.t.Helper()
	for i := range n {
		h := rollout.Host(fmt.Sprintf("web%d.example.net", i+1))
		r.put(subjects.HostSubject(h), nil, rollout.Report{
			Role: "web", Boot: "b1", Actual: rollout.Document{"version": value(r.t, "1")}, Checks: map[rollout.ID]rollout.Check{"app": {Status: rollout.Passing}},
		})
		all = append(all, h)
	}
	return all
}

func (r *recording) tell(id rollout.ID, h rollout.Host) {
	r.t.Helper()
	now := time.Now()
	c := subjects.Change{
		Host: h, Rollout: id, Variable: "version", Actor: "ann", Reason: rollout.Reason{Code: rollout.ByRamp}, Time: now,
		Desired: rollout.Desired{
			Generation: 2, Values: rollout.Document{"version": value(r.t, "2")},
			Told: map[rollout.Name]rollout.Told{"version": {Rollout: id, Generation: 2, Time: now}},
		},
	}
	header, body, err := c.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	r.message(bus.Message{Subject: subjects.KindDesired.Subject(string(h)), Header: header, Data: body})
}

func (r *recording) check(h rollout.Host, status rollout.CheckStatus) {
	r.t.Helper()
	r.events[h]++
	r.put(subjects.Health(h), nil, subjects.HealthEvent{
		Kind: subjects.HealthCheck, Boot: "b1", Sequence: r.events[h], Time: time.Now(), Check: "app", Status: string(status), Output: "refused",
	})
}

func (r *recording) silence(h rollout.Host, kind subjects.SilenceKind, session string) {
	r.t.Helper()
	r.put(subjects.SilenceOf(h), nil, subjects.Silence{Kind: kind, Session: session})
}

func record(t *testing.T) (*recording, *control.Client) {
	t.Helper()
	nc, js := start(t)
	return &recording{t: t, js: js, events: make(map[rollout.Host]uint64)}, client(t, nc)
}

func TestReplay(t *testing.T) {
	r, c := record(t)
	r.put(subjects.KindObjective.Subject("healthy"), own(), objective("healthy"))
	hosts := r.hosts(30)
	r.rollout("up", 0, "healthy")
	r.rollout("bare", 0)
	r.check(hosts[29], rollout.Failing) // before its turn
	var half time.Time
	for i, h := range hosts[:20] {
		r.tell("up", h)
		if i < 4 || i >= 10 && i < 14 {
			r.check(h, rollout.Failing)
		}
		if i == 9 {
			half = time.Now()
		}
	}
	r.message(bus.Message{Subject: subjects.Health("web1.example.net"), Data: []byte("nonsense")})

	got, err := c.Replay(within(t), control.ReplayRequest{Rollout: "up"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Verdicts) != 1 {
		t.Fatalf("verdicts %+v", got.Verdicts)
	}
	v := got.Verdicts[0]
	if v.Kind != slo.Harm || v.Rollout != "up" || v.Objective != "healthy" || v.Of < 2 || v.Of > 4 || v.Failed[0].Host != hosts[0] {
		t.Errorf("verdict %+v", v)
	}
	last := got.Events[len(got.Events)-1]
	if n := len(got.Events); n != v.Of+1 || got.Events[0].Treated || got.Events[0].Host != hosts[29] || got.Events[0].How != slo.FailedCheck || !got.Events[1].Treated || got.Events[1].Host != hosts[0] || got.Events[1].Told.IsZero() || got.Events[1].Standing.TreatedFailed != 1 || last.Sequence != v.Sequence || last.Standing.E < last.Standing.Bar {
		t.Errorf("%d events: %+v", n, got.Events)
	}
	if got.Told != 20 || got.ToldAfter != 20-v.Of || got.Unread != 1 || got.Messages != int(r.stored) || !got.Begins.IsZero() || got.Unclear != "" {
		t.Errorf("got %+v", got)
	}
	if len(got.Peaks) != 1 || got.Peaks[0].E != last.Standing.E {
		t.Errorf("peaks %+v", got.Peaks)
	}

	// Later evidence alone: those that failed before don't count any more, and
	// those that had been told are changed all the same.
	late, err := c.Replay(within(t), control.ReplayRequest{Rollout: "up", Since: half})
	if err != nil {
		t.Fatal(err)
	}
	first := late.Events[0]
	if !first.Treated || first.Host != hosts[10] || first.Standing.Treated != 7 || first.Standing.TreatedFailed != 1 || first.Standing.Control != 18 || !late.From.Equal(half) {
		t.Errorf("late: %+v", late)
	}

	none, err := c.Replay(within(t), control.ReplayRequest{Rollout: "up", Since: time.Now().Add(time.Hour)})
	if err != nil || len(none.Events)+len(none.Verdicts)+len(none.Peaks)+none.ToldAfter != 0 {
		t.Errorf("%v, of the time to come: %+v", err, none)
	}

	// Another objective, which nobody has heard of: it forgives all.
	mild := objective("mild")
	mild.Tolerate = 100
	other, err := c.Replay(within(t), control.ReplayRequest{Rollout: "bare", Objectives: []*slo.Objective{mild}})
	if err != nil || len(other.Verdicts) != 0 || len(other.Events) == 0 || other.Told != 0 || len(other.Peaks) != 1 || other.Peaks[0].Objective != "mild" {
		t.Errorf("%v, %+v", err, other)
	}

	for id, code := range map[rollout.ID]control.Code{"bare": control.Usage, "nope": control.NotFound} {
		if _, err := c.Replay(within(t), control.ReplayRequest{Rollout: id}); control.AsError(err).Code != code {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A rollout that is resumed is judged anew.
func TestReplayOfAResumedRollout(t *testing.T) {
	r, c := record(t)
	r.put(subjects.KindObjective.Subject("healthy"), own(), objective("healthy"))
	hosts := r.hosts(60)
	r.rollout("up", 0, "healthy")
	for _, h := range hosts[:10] {
		r.tell("up", h)
		r.check(h, rollout.Failing)
	}
	r.rollout("up", math.MaxUint64/2, "healthy")
	for _, h := range hosts[10:20] {
		r.tell("up", h)
		r.check(h, rollout.Failing)
	}
	got, err := c.Replay(within(t), control.ReplayRequest{Rollout: "up"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Verdicts) != 2 || len(got.Events) != got.Verdicts[0].Of+got.Verdicts[1].Of || got.Verdicts[1].Failed[0].Host != hosts[10] {
		t.Errorf("events %+v\nverdicts %+v", got.Events, got.Verdicts)
	}
}

func TestObjective(t *testing.T) {
	r, c := record(t)
	r.put(subjects.KindObjective.Subject("healthy"), own(), objective("healthy"))
	if o, err := c.Objective(within(t), "healthy"); err != nil || o.Check != "app" {
		t.Errorf("%+v, %v", o, err)
	}
	r.put(subjects.KindObjective.Subject("forged"), nil, objective("forged"))
	if o, err := c.Objective(within(t), "forged"); err == nil {
		t.Errorf("%+v", o)
	}
	if _, err := c.Objective(within(t), "nope"); control.AsError(err).Code != control.NotFound {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	r, c := record(t)
	began := time.Now().Add(-time.Hour)
	hosts := r.hosts(6)
	r.check(hosts[0], rollout.Failing)
	r.check(hosts[1], rollout.Failing)
	r.check(hosts[1], rollout.Passing) // too soon
	r.silence(hosts[2], subjects.HostSilent, "s1")
	r.silence(hosts[3], subjects.HostSilent, "s1")
	r.silence(hosts[3], subjects.HostHeard, "s1") // too soon
	r.silence(hosts[4], subjects.HostSilent, "s1")
	time.Sleep(300 * time.Millisecond)
	r.silence(hosts[4], subjects.HostSilent, "s2") // another session
	r.silence(hosts[4], subjects.HostHeard, "s2")
	r.check(hosts[0], rollout.Passing)
	r.check(hosts[2], rollout.Passing) // heard
	r.check(hosts[5], rollout.Failing)
	half := 300 * time.Millisecond / 2
	f, err := c.Failures(within(t), "app", half, half, began)
	if err != nil {
		t.Fatal(err)
	}
	want := map[rollout.Host]slo.How{hosts[0]: slo.FailedCheck, hosts[2]: slo.FailedSilence}
	delete(f.Hosts, hosts[5]) // it depends on how fast this test is
	if fmt.Sprint(f.Hosts) != fmt.Sprint(want) || f.From.Before(began) {
		t.Errorf("%v, want %v; from %s", f.Hosts, want, f.From)
	}
	time.Sleep(half)
	if f, err := c.Failures(within(t), "app", half, half, began); err != nil || f.Hosts[hosts[5]] != slo.FailedCheck {
		t.Errorf("what still fails: %v, %v", f, err)
	}
	if f, err := c.Failures(within(t), "other", 0, time.Hour, began); err != nil || len(f.Hosts) != 0 {
		t.Errorf("another check: %v, %v", f, err)
	}
}
