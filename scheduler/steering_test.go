package scheduler

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

func (r *rig) callAs(actor rollout.ID, verb control.Verb, request, response any) error {
	return must(control.NewClient(r.nc, actor)).Call(r.t.Context(), verb, request, response)
}

func (r *rig) hostView(name rollout.Host) control.HostView {
	r.t.Helper()
	var v control.HostView
	r.mustCall(control.HostShow, control.HostRequest{Host: name}, &v)
	return v
}

// runs waits until a host was told a value, "" for none, and says so of itself.
func (r *rig) runs(name rollout.Host, want string) {
	r.t.Helper()
	r.until(fmt.Sprintf("%s is at %q", name, want), func() bool {
		var v control.HostView // of a host that may not have been heard of yet
		err := r.call(control.HostShow, control.HostRequest{Host: name}, &v)
		return err == nil && v.Desired["docker_version"].Text() == want && v.Applied == v.Generation
	})
}

// deaf runs a host that reports itself, as held, and takes no document.
func (r *rig) deaf(name, role, actual string) {
	r.t.Helper()
	js := must(jetstream.New(r.connect()))
	report := rollout.Report{Role: rollout.Word(role), Boot: "b1", Held: "observe-only", Actual: rollout.Document{"docker_version": must(rollout.StringValue(actual))}}
	if _, err := js.Publish(r.t.Context(), subjects.HostSubject(rollout.Host(name)), must(subjects.Encode(report))); err != nil {
		r.t.Fatal(err)
	}
	r.hosts.Go(func() {
		for tick := time.Tick(testHeartbeat); ; {
			_ = r.nc.Publish(subjects.Alive(rollout.Host(name)), nil)
			select {
			case <-r.t.Context().Done():
				return
			case <-tick:
			}
		}
	})
}

// wantAccount looks for a revision of a key whose header says who changed it, and
// why.
func (r *rig) wantAccount(kind subjects.Kind, name, actor string, why ...string) {
	r.t.Helper()
	var accounts []string
	for _, m := range must(bus.History(r.t.Context(), r.js, subjects.Stream, kind.Subject(name))) {
		reason := must(subjects.Decode[rollout.Reason]([]byte(m.Header.Get(subjects.HeaderReason))))
		by, text := m.Header.Get(subjects.HeaderActor), reason.String()
		if by == actor && !slices.ContainsFunc(why, func(part string) bool { return !strings.Contains(text, part) }) {
			return
		}
		accounts = append(accounts, by+": "+text)
	}
	r.t.Errorf("%s was never changed by %s because of %q, but %q", kind.Key(name), actor, why, accounts)
}

const h00, h01 rollout.Host = "h00.example.net", "h01.example.net"

// A pinned host is passed by; when the pin is taken away, or comes to its end,
// the rollout that covers the host tells it.
func TestPin(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	var v control.HostView
	r.mustCall(control.HostPin, control.PinRequest{Host: h00, Variable: "docker_version", Why: "under repair"}, &v)
	if v.Pin == nil || v.Pin.Values["docker_version"].Text() != "1.10.3" || v.Pin.By != "alice" || v.Pin.Why != "under repair" {
		t.Errorf("pinned at the value that it has: %+v", v.Pin)
	}
	r.wantAccount(subjects.KindPin, string(h00), "alice", "pinned docker_version at 1.10.3: under repair")
	r.start("up", time.Second)
	if v := r.untilState("up", rollout.StateCompleted); v.Pinned != 1 || r.tells("up") != 5 {
		t.Errorf("%d hosts pinned, %d told", v.Pinned, r.tells("up"))
	}
	v = control.HostView{}
	r.mustCall(control.HostUnpin, control.PinRequest{Host: h00, Why: "repaired"}, &v)
	if v.Pin != nil || !slices.Contains(v.Problems, "no longer pinned: up will tell it 1.12.3 of docker_version at its pace") {
		t.Errorf("unpinned: %+v, %q", v.Pin, v.Problems)
	}
	r.wantAccount(subjects.KindPin, string(h00), "alice", "unpinned docker_version: repaired")
	r.runs(h00, "1.12.3")
	if p := r.hostView(h00).Problems; len(p) != 0 {
		t.Errorf("problems are left: %q", p)
	}

	r.mustCall(control.HostPin, control.PinRequest{Host: h01, Variable: "docker_version", ValueText: "1.10.3", Until: time.Now().Add(2 * time.Second), Why: "compare"}, nil)
	r.runs(h01, "1.10.3")
	r.wantAccount(subjects.KindDesired, string(h01), "alice", "pinned until", "compare")
	r.runs(h01, "1.12.3")
	r.wantAccount(subjects.KindPin, string(h01), "scheduler", "its time has come")
	if p := r.hostView(h01); p.Pin != nil {
		t.Errorf("the pin that has ended is shown: %+v", p.Pin)
	}
}

// A pin is told whatever the host's presence, and survives a restart.
func TestPinOfAnOfflineHost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(2)
	gone := r.host("gone.example.net", "web", "1.10.3")
	r.runs("gone.example.net", "1.10.3")
	gone()
	r.until("it is offline", func() bool { return !r.hostView("gone.example.net").Online })
	r.mustCall(control.HostPin, control.PinRequest{Host: "gone.example.net", Variable: "docker_version", ValueText: "1.12.3", Why: "compare"}, nil)
	r.until("it is told", func() bool { return r.hostView("gone.example.net").Desired["docker_version"].Text() == "1.12.3" })
	r.stop()
	r.schedule()
	if v := r.hostView("gone.example.net"); v.Pin == nil || v.Pin.Values["docker_version"].Text() != "1.12.3" {
		t.Errorf("after a restart: %+v", v.Pin)
	}
	var v control.HostView
	r.mustCall(control.HostUnpin, control.PinRequest{Host: "gone.example.net", Variable: "docker_version", Why: "compared"}, &v)
	if !slices.Contains(v.Problems, "no longer pinned: it keeps 1.12.3 of docker_version until a rollout moves it") {
		t.Errorf("%q", v.Problems)
	}
}

// A second variable joins the host's pin, and leaves it alone.
func TestPinsOfOneHostMerge(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(1)
	r.apply(false, `{"kind":"Variable","name":"workers","type":"integer","max":8}`)
	pin := func(q control.PinRequest) error {
		q.Host, q.Why = h00, cmp.Or(q.Why, "why not")
		return r.call(control.HostPin, q, nil)
	}
	until := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	if err := pin(control.PinRequest{Variable: "docker_version", Until: until, Why: "one"}); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"no value":        pin(control.PinRequest{Variable: "workers"}),
		"not allowed":     pin(control.PinRequest{Variable: "workers", ValueText: "9"}),
		"of another type": pin(control.PinRequest{Variable: "workers", ValueText: "many"}),
		"of the past":     pin(control.PinRequest{Variable: "workers", ValueText: "4", Until: until.AddDate(-1, 0, 0)}),
		"no variable":     pin(control.PinRequest{Variable: "nothing", ValueText: "4"}),
		"no host":         r.call(control.HostPin, control.PinRequest{Host: "no.example.net", Variable: "workers", ValueText: "4", Why: "why not"}, nil),
		"not pinned":      r.call(control.HostUnpin, control.PinRequest{Host: h00, Variable: "workers", Why: "why not"}, nil),
	} {
		if err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if err := pin(control.PinRequest{Variable: "workers", ValueText: "4", Why: "two"}); err != nil {
		t.Fatal(err)
	}
	if p := r.hostView(h00).Pin; len(p.Values) != 2 || !p.Until.Equal(until) || p.Why != "two" {
		t.Errorf("merged: %+v", p)
	}
	r.mustCall(control.HostUnpin, control.PinRequest{Host: h00, Variable: "docker_version", Why: "repaired"}, nil)
	if p := r.hostView(h00).Pin; len(p.Values) != 1 || p.Values["workers"].Text() != "4" {
		t.Errorf("one is left: %+v", p)
	}
	if err := r.call(control.Delete, control.DeleteRequest{Kind: "variable", Name: "workers"}, nil); !errors.Is(err, rollout.ErrRefused) || !strings.Contains(err.Error(), "pinned") {
		t.Errorf("a pinned variable was deleted: %v", err)
	}
}

// A blackout stops the ramp's clock, says so, and lets it go on by itself.
func TestBlackout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	r.start("up", 3*time.Second)
	r.until("some are told", func() bool { return r.show("up").Told >= 1 })
	now := time.Now()
	r.apply(false, fmt.Sprintf(`{"kind":"Blackout","name":"audit","from":%q,"until":%q,"why":"auditors are in"}`,
		now.Add(-time.Minute).Format(time.RFC3339Nano), now.Add(3*time.Second).Format(time.RFC3339Nano)))
	r.wantAccount(subjects.KindBlackout, "audit", "alice", "auditors are in")
	r.until("it is held", func() bool { return r.show("up").ReasonCode == rollout.InBlackout })
	if v := r.show("up"); !strings.Contains(v.Reason, "auditors are in") {
		t.Errorf("the reason is %q", v.Reason)
	}
	told := r.tells("up")
	var list []control.BlackoutView
	r.mustCall(control.BlackoutList, control.Empty{}, &list)
	if len(list) != 1 || !list[0].InForce || !slices.Equal(list[0].Holds, []rollout.ID{"up"}) || list[0].Next.Before(now) {
		t.Errorf("blackouts: %+v", list)
	}
	time.Sleep(time.Second)
	if n := r.tells("up"); n != told {
		t.Errorf("%d told in the blackout", n-told)
	}
	v := r.untilState("up", rollout.StateCompleted)
	if len(v.Held) == 0 || v.Held[0].Reason != rollout.InBlackout || v.Held[0].For < rollout.Duration(time.Second) || v.Late < rollout.Duration(time.Second) {
		t.Errorf("held %+v, late %s", v.Held, v.Late)
	}
	r.mustCall(control.Delete, control.DeleteRequest{Kind: "Blackout", Name: "audit"}, nil)
	r.wantAccount(subjects.KindBlackout, "audit", "alice", "deleted")
	r.mustCall(control.BlackoutList, control.Empty{}, &list)
	if len(list) != 0 {
		t.Errorf("after it was deleted: %+v", list)
	}
}

// Another operator approves, and advances it from wave to wave.
func TestApproveAndAdvance(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	hour := rollout.Duration(time.Hour)
	r.mustCall(control.RolloutStart, control.StartRequest{ToText: "1.12.3", Rollout: rollout.Spec{
		Variable: "docker_version", Approvals: 1, InFlight: rollout.InFlight{Max: 100, PerRole: 100},
		Ramp: rollout.Ramp{Shape: rollout.Waves, Waves: []rollout.Wave{{Percent: 50, Hold: hour}, {Percent: 100, Approval: true}}},
	}}, nil)
	const id = "docker-version-1-12-3"
	if v := r.show(id); v.State != rollout.StatePending || v.ReasonCode != rollout.AwaitingApproval || v.ApprovalsNeeded != 2 {
		t.Errorf("%s, %s, %d approvals needed", v.State, v.ReasonCode, v.ApprovalsNeeded)
	}
	approve := control.RolloutRequest{ID: id, Why: "looks good"}
	if err := r.call(control.RolloutApprove, approve, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("the author approved: %v", err)
	}
	if err := r.callAs("bob", control.RolloutApprove, approve, nil); err != nil {
		t.Fatal(err)
	}
	r.until("the first wave is told", func() bool { return r.show(id).Confirmed == 3 })
	r.wantAccount(subjects.KindRollout, id, "alice", "running: started")
	advance := control.AdvanceRequest{ID: id, Why: "quiet"}
	var v control.RolloutView
	r.mustCall(control.RolloutAdvance, advance, &v)
	r.wantAccount(subjects.KindRollout, id, "alice", "advanced to 100%: quiet")
	r.until("the second wave waits", func() bool { return r.show(id).ReasonCode == rollout.AwaitingApproval })
	if err := r.callAs("bob", control.RolloutApprove, approve, &v); err != nil || len(v.Approvals) != 2 {
		t.Fatal(err, v.Approvals)
	}
	r.wantAccount(subjects.KindRollout, id, "bob", "approved: looks good")
	r.untilState(id, rollout.StateCompleted)
	if n := r.tells(id); n != 6 {
		t.Errorf("%d told", n)
	}
	if err := r.call(control.RolloutAdvance, advance, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("advanced after its end: %v", err)
	}
}

func TestAdvanceToAPercentage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	r.start("up", time.Hour)
	r.untilState("up", rollout.StateRunning)
	r.mustCall(control.RolloutAdvance, control.AdvanceRequest{ID: "up", To: 50}, nil)
	r.until("half are told", func() bool { return r.show("up").Confirmed == 3 })
	if err := r.call(control.RolloutAdvance, control.AdvanceRequest{ID: "up", To: 20}, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("it went back: %v", err)
	}
	time.Sleep(500 * time.Millisecond)
	if n := r.tells("up"); n != 3 {
		t.Errorf("%d told, want 3", n)
	}
}

// A host that never confirms is released; the rollout completes, and is rolled
// back as a whole.
func TestReleaseAndRollback(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(5)
	r.deaf("deaf.example.net", "web", "1.10.3")
	r.until("the deaf host is in", func() bool {
		var v control.HostView
		return r.call(control.HostShow, control.HostRequest{Host: "deaf.example.net"}, &v) == nil && v.Generation > 0
	})
	if p := r.hostView("deaf.example.net").Problems; !slices.Equal(p, []string{"held: observe-only"}) {
		t.Errorf("problems of a host that is held: %q", p)
	}
	r.start("up", time.Second)
	r.until("all are told", func() bool { v := r.show("up"); return v.Told == 6 && v.Confirmed == 5 })
	release := control.HostReleaseRequest{ID: "up", Host: "deaf.example.net", Why: "its disk is broken"}
	if err := r.call(control.RolloutRelease, control.HostReleaseRequest{ID: "up", Host: h00, Why: "why not"}, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("a host that has confirmed was released: %v", err)
	}
	r.mustCall(control.RolloutRelease, release, nil)
	r.wantAccount(subjects.KindDesired, "deaf.example.net", "alice", "its disk is broken")
	r.untilState("up", rollout.StateCompleted)

	var back control.RolloutView
	r.mustCall(control.RolloutRollback, control.RollbackRequest{ID: "up", Why: "slower"}, &back)
	if back.ID != "up-rollback" || back.RollbackOf != "up" || !back.To.IsZero() {
		t.Errorf("the rollback is %+v", back)
	}
	r.wantAccount(subjects.KindVariable, "docker_version", "alice", "up-rollback takes it back")
	r.until("the deaf host is told", func() bool { return r.hostView("deaf.example.net").Desired["docker_version"].Text() == "1.10.3" })
	release.ID = "up-rollback"
	r.mustCall(control.RolloutRelease, release, nil)
	r.untilState("up-rollback", rollout.StateCompleted)
	for i := range 5 {
		r.runs(rollout.Host(fmt.Sprintf("h%02d.example.net", i)), "1.10.3")
	}
	if v := r.show("up"); v.Rollback != "up-rollback" || v.Layer {
		t.Errorf("the original: rolled back by %q, layer: %v", v.Rollback, v.Layer)
	}
	var got control.GetResponse
	r.mustCall(control.Get, control.GetRequest{Kind: "Rollout"}, &got)
	if len(got.Documents) != 1 {
		t.Errorf("%d documents: a rollback is nobody's", len(got.Documents))
	}
	// Whoever joins now is given the value that the fleet is back on.
	r.host("late.example.net", "web", "")
	r.runs("late.example.net", "1.10.3")
}

// A rollback of a running rollout pauses it, may go to another value, and the
// original can't go on.
func TestRollbackOfARunningRollout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	r.start("up", time.Hour)
	r.mustAdvance("up", 50)
	var back control.RolloutView
	r.mustCall(control.RolloutRollback, control.RollbackRequest{ID: "up", ToText: "1.10.3", Over: rollout.Duration(time.Second), Why: "slower"}, &back)
	if back.State != rollout.StateRunning {
		t.Errorf("the rollback is %s by the time that it is answered", back.State)
	}
	if v := r.show("up"); v.State != rollout.StatePaused || !strings.Contains(v.Why, "up-rollback") {
		t.Errorf("the original is %s: %s", v.State, v.Why)
	}
	r.untilState("up-rollback", rollout.StateCompleted)
	if n := r.tells("up-rollback"); n != 3 {
		t.Errorf("%d taken back, want 3", n)
	}
	if err := r.call(control.RolloutResume, control.RolloutRequest{ID: "up"}, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("the original was resumed: %v", err)
	}
	if err := r.call(control.RolloutRollback, control.RollbackRequest{ID: "up-rollback", Why: "slower"}, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("a rollback was rolled back: %v", err)
	}
	if err := r.call(control.RolloutRollback, control.RollbackRequest{ID: "nothing", Why: "slower"}, nil); !errors.Is(err, rollout.ErrNotFound) {
		t.Errorf("nothing was rolled back: %v", err)
	}
}

func (r *rig) mustAdvance(id rollout.ID, to rollout.Percent) {
	r.t.Helper()
	r.untilState(id, rollout.StateRunning)
	r.mustCall(control.RolloutAdvance, control.AdvanceRequest{ID: id, To: to}, nil)
	r.until("it has advanced", func() bool { return r.show(id).Confirmed == 6*int(to)/100 })
}

// A variable that hosts carry is ramped out, and then deleted.
func TestRemove(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(4)
	gone := control.DeleteRequest{Kind: "Variable", Name: "docker_version"}
	if err := r.call(control.Delete, gone, nil); !errors.Is(err, rollout.ErrRefused) || !strings.Contains(err.Error(), "--remove") {
		t.Errorf("deleted while it is carried: %v", err)
	}
	var v control.RolloutView
	r.mustCall(control.RolloutStart, control.StartRequest{Rollout: rollout.Spec{
		Variable: "docker_version", Remove: true, Ramp: rollout.Ramp{Over: rollout.Duration(time.Second)}, InFlight: rollout.InFlight{Max: 50, PerRole: 100},
	}}, &v)
	if v.ID != "docker-version-remove" || !v.Remove {
		t.Errorf("started %s, which removes: %v", v.ID, v.Remove)
	}
	r.apply(false, `{"kind":"Variable","name":"docker_version","type":"string","allowed":["1.10.3","1.12.3","2.0"],"initial":"1.10.3"}`)
	r.untilState("docker-version-remove", rollout.StateCompleted)
	r.runs(h00, "")
	m := must(bus.Last(t.Context(), r.js, subjects.Stream, subjects.KindDesired.Subject(string(h00))))
	if string(m.Data) != "{}" || m.Header.Get(subjects.HeaderPrevious) != `"1.10.3"` {
		t.Errorf("the document is %s, before %s", m.Data, m.Header.Get(subjects.HeaderPrevious))
	}
	r.mustCall(control.Delete, gone, nil)
	r.stop()
	r.schedule()
	var vs []control.VariableView
	r.mustCall(control.VariableList, control.Empty{}, &vs)
	if len(vs) != 0 {
		t.Errorf("variables: %+v", vs)
	}
}
