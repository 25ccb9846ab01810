package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// rig is a broker, a scheduler that can be stopped and started, and hosts that
// do as they are told.
type rig struct {
	t      *testing.T
	broker *broker.Broker
	nc     *nats.Conn
	js     jetstream.JetStream
	stop   func()
	hosts  sync.WaitGroup
	// With identities, what the scheduler seals with and believes.
	signer     *access.Signer
	keyring    *access.Keyring
	adopt      bool
	registerer prometheus.Registerer // nil: the scheduler's own
}

const testHeartbeat = 200 * time.Millisecond

func newRig(t *testing.T) *rig {
	t.Helper()
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	r := &rig{t: t, broker: b}
	r.nc = r.connect()
	if r.js, err = jetstream.New(r.nc); err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(t.Context(), r.js, 1); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) connect() *nats.Conn {
	r.t.Helper()
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: r.broker.InProcess()})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

// schedule starts a scheduler and waits until it leads.
func (r *rig) schedule() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	leads := make(chan struct{})
	var once sync.Once
	o := Options{
		Conn: r.connect(), Name: "test", Version: "1.0.0", Heartbeat: testHeartbeat, Renew: 500 * time.Millisecond, Lease: time.Second, TakeAtOnce: true,
		Logger: slog.New(slog.NewTextHandler(testWriter{r.t}, nil)), Signer: r.signer, Keyring: r.keyring, Adopt: r.adopt, Registerer: r.registerer,
		Ready: func(b bool) {
			if b {
				once.Do(func() { close(leads) })
			}
		},
	}
	go func() { done <- Run(ctx, o) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("scheduler: %v", err)
		}
	})
	r.t.Cleanup(func() { r.stop() })
	select {
	case <-leads:
	case <-time.After(10 * time.Second):
		r.t.Fatal("the scheduler doesn't lead")
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Print(string(b))
	}
	return len(b), nil
}

// host runs a host that enacts whatever it is told at once. The function that
// comes back stops it.
func (r *rig) host(name, role, actual string) (stop func()) {
	r.t.Helper()
	nc := r.connect()
	js, err := jetstream.New(nc)
	if err != nil {
		r.t.Fatal(err)
	}
	h := rollout.Host(name)
	report := rollout.Report{Role: rollout.Word(role), Boot: "b1", Actual: rollout.Document{}, Enact: map[rollout.Name]rollout.Enact{}}
	if actual != "" {
		report.Actual["docker_version"] = must(rollout.StringValue(actual))
	}
	publish := func() {
		body, err := subjects.Encode(report)
		if err != nil {
			r.t.Error(err)
			return
		}
		if _, err := js.Publish(r.t.Context(), subjects.HostSubject(h), body); err != nil && r.t.Context().Err() == nil {
			r.t.Error(err)
		}
	}
	echoes := make(chan *nats.Msg, 100)
	if _, err := nc.ChanSubscribe(subjects.KindDesired.Echo(name), echoes); err != nil {
		r.t.Fatal(err)
	}
	publish()
	ctx, stop := context.WithCancel(r.t.Context())
	r.hosts.Go(func() {
		tick := time.NewTicker(testHeartbeat)
		defer tick.Stop()
		for {
			_ = nc.Publish(subjects.Alive(h), nil)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case m := <-echoes:
				c, err := subjects.DecodeChange(h, subjects.Header(m.Header), m.Data)
				if err != nil || c.Decommissioned || c.Desired.Generation <= report.Generation {
					continue
				}
				report.Generation = c.Desired.Generation
				for n, v := range c.Desired.Values {
					report.Actual[n] = v
					report.Enact[n] = rollout.Enact{Status: rollout.Enacted, Generation: c.Desired.Generation}
				}
				publish()
			}
		}
	})
	return stop
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (r *rig) call(verb control.Verb, request, response any) error {
	return must(control.NewClient(r.nc, "alice")).Call(r.t.Context(), verb, request, response)
}

func (r *rig) mustCall(verb control.Verb, request, response any) {
	r.t.Helper()
	if err := r.call(verb, request, response); err != nil {
		r.t.Fatalf("%s: %v", verb, err)
	}
}

func (r *rig) show(id rollout.ID) control.RolloutView {
	r.t.Helper()
	var v control.RolloutView
	r.mustCall(control.RolloutShow, control.RolloutRequest{ID: id}, &v)
	return v
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			r.t.Fatalf("never: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (r *rig) untilState(id rollout.ID, want rollout.State) control.RolloutView {
	r.t.Helper()
	var v control.RolloutView
	r.until(fmt.Sprintf("%s %s", id, want), func() bool { v = r.show(id); return v.State == want })
	return v
}

// tells counts the desired-state records of a rollout in the bucket, and
// checks that no host was told twice.
func (r *rig) tells(id rollout.ID) int {
	r.t.Helper()
	all, err := bus.History(r.t.Context(), r.js, subjects.Stream, subjects.KindDesired.Pattern())
	if err != nil {
		r.t.Fatal(err)
	}
	n, seen := 0, map[string]bool{}
	for _, m := range all {
		if m.Header.Get(subjects.HeaderRollout) != string(id) {
			continue
		}
		if seen[m.Subject] {
			r.t.Errorf("%s told twice", m.Subject)
		}
		seen[m.Subject] = true
		n++
	}
	return n
}

func (r *rig) fleet(n int) {
	r.t.Helper()
	for i := range n {
		r.host(fmt.Sprintf("h%02d.example.net", i), []string{"web", "db", "cache"}[i%3], "1.10.3")
	}
	doc := `{"kind":"Variable","name":"docker_version","type":"string","allowed":["1.10.3","1.12.3"],"initial":"1.10.3"}`
	var d control.Document
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		r.t.Fatal(err)
	}
	r.mustCall(control.Apply, control.ApplyRequest{Documents: []control.Document{d}}, nil)
	r.until("every host has its first document", func() bool {
		var vs []control.VariableView
		r.mustCall(control.VariableList, control.Empty{}, &vs)
		return len(vs) == 1 && vs[0].Hosts["1.10.3"] == n
	})
}

func (r *rig) start(id rollout.ID, over time.Duration) {
	r.t.Helper()
	r.mustCall(control.RolloutStart, control.StartRequest{ToText: "1.12.3", Rollout: rollout.Spec{
		Name: id, Variable: "docker_version", Ramp: rollout.Ramp{Over: rollout.Duration(over)},
		InFlight: rollout.InFlight{Max: 50, PerRole: 100},
	}}, nil)
}

func TestRolloutCompletes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(12)
	r.start("up", 2*time.Second)
	v := r.untilState("up", rollout.StateCompleted)
	if v.Told != 12 || v.Confirmed != 12 || r.tells("up") != 12 {
		t.Errorf("told %d, confirmed %d, records %d, want 12 each", v.Told, v.Confirmed, r.tells("up"))
	}
	var vs []control.VariableView
	r.mustCall(control.VariableList, control.Empty{}, &vs)
	if vs[0].Value.Text() != "1.12.3" {
		t.Errorf("the variable's value is %s", vs[0].Value)
	}
	var why control.WhyView
	r.mustCall(control.Why, control.WhyRequest{Host: "h00.example.net", Variable: "docker_version"}, &why)
	if !why.Confirmed || why.Rollout != "up" {
		t.Errorf("why: %+v", why)
	}
}

func TestAbortFreezesAndResumeAcknowledges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(12)
	r.start("up", 4*time.Second)
	r.until("some are told", func() bool { return r.show("up").Told >= 3 })
	seq, err := bus.Put(t.Context(), r.js, bus.Message{Subject: subjects.KindAbort.Subject("up"), Data: []byte("users see errors")})
	if err != nil {
		t.Fatal(err)
	}
	v := r.untilState("up", rollout.StateFrozen)
	if v.Abort == nil || v.Abort.Sequence != seq || v.Abort.Why != "users see errors" {
		t.Errorf("abort: %+v", v.Abort)
	}
	told := r.tells("up")
	time.Sleep(time.Second)
	if n := r.tells("up"); n != told {
		t.Errorf("%d told after the abort", n-told)
	}
	if err := r.call(control.RolloutResume, control.RolloutRequest{ID: "up", Why: "fixed"}, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("resumed without acknowledging: %v", err)
	}
	r.mustCall(control.RolloutResume, control.RolloutRequest{ID: "up", Why: "fixed", Acknowledge: seq}, nil)
	r.untilState("up", rollout.StateCompleted)
	if n := r.tells("up"); n != 12 {
		t.Errorf("%d records", n)
	}
}

func TestStopStopsEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	r.start("up", 3*time.Second)
	seq, err := bus.Put(t.Context(), r.js, bus.Message{Subject: subjects.KindStop.Subject(""), Data: []byte("incident 4711")})
	if err != nil {
		t.Fatal(err)
	}
	r.until("the reason is shown", func() bool { return r.show("up").ReasonCode == rollout.Stopped })
	told := r.tells("up")
	r.host("late.example.net", "web", "1.10.3")
	time.Sleep(time.Second)
	if r.tells("up") != told {
		t.Error("told while stopped")
	}
	if _, err := bus.Last(t.Context(), r.js, subjects.Stream, subjects.KindDesired.Subject("late.example.net")); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a first document while stopped: %v", err)
	}
	if err := r.call(control.Start, control.ReleaseRequest{Why: "over", Acknowledge: seq + 1}, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("released without acknowledging: %v", err)
	}
	r.mustCall(control.Start, control.ReleaseRequest{Why: "over", Acknowledge: seq}, nil)
	r.untilState("up", rollout.StateCompleted)
	if n := r.tells("up"); n != 7 {
		t.Errorf("%d records", n)
	}
}

func TestRestartGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(12)
	r.start("up", 4*time.Second)
	r.until("some are told", func() bool { return r.show("up").Told >= 3 })
	r.stop()
	told := r.tells("up")
	time.Sleep(3 * time.Second)
	r.schedule()
	if n := r.tells("up"); n != told {
		t.Errorf("a burst of %d after the outage", n-told)
	}
	r.untilState("up", rollout.StateCompleted)
	if n := r.tells("up"); n != 12 {
		t.Errorf("%d records", n)
	}
}

func TestOverwrittenByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(6)
	put := func(kind subjects.Kind, name, body string) {
		t.Helper()
		if _, err := bus.Put(t.Context(), r.js, bus.Message{Subject: kind.Subject(name), Data: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	put(subjects.KindDesired, "h00.example.net", `{"docker_version":"6.6.6"}`)
	r.until("the document is put back", func() bool {
		m, err := bus.Last(t.Context(), r.js, subjects.Stream, subjects.KindDesired.Subject("h00.example.net"))
		return err == nil && string(m.Data) == `{"docker_version":"1.10.3"}` && strings.Contains(m.Header.Get(subjects.HeaderReason), "restored")
	})
	r.start("up", 3*time.Second)
	r.stop()
	put(subjects.KindRollout, "up", `{}`)
	put(subjects.KindDesired, "h01.example.net", `rubbish`)
	r.schedule()
	v := r.untilState("up", rollout.StatePaused)
	if !strings.Contains(v.Why, "by hand") {
		t.Errorf("why: %s", v.Why)
	}
	r.mustCall(control.RolloutResume, control.RolloutRequest{ID: "up", Why: "a mistake"}, nil)
	r.untilState("up", rollout.StateCompleted)
	if n := r.tells("up"); n != 6 {
		t.Errorf("%d records", n)
	}
}

func TestDecommission(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(3)
	gone := r.host("gone.example.net", "web", "1.10.3")
	ask := control.HostRequest{Host: "gone.example.net", Why: "sold"}
	r.until("it is in", func() bool { return r.call(control.HostShow, ask, nil) == nil })
	if err := r.call(control.HostDecommission, ask, nil); !errors.Is(err, rollout.ErrRefused) {
		t.Errorf("decommissioned while online: %v", err)
	}
	gone()
	r.until("it is decommissioned", func() bool { return r.call(control.HostDecommission, ask, nil) == nil })
	hosts := func() int {
		var l control.HostListResponse
		r.mustCall(control.HostList, control.HostListRequest{}, &l)
		return len(l.Hosts)
	}
	if n := hosts(); n != 3 {
		t.Errorf("%d hosts are left", n)
	}
	r.stop()
	r.schedule()
	if n := hosts(); n != 3 {
		t.Errorf("%d hosts after a restart", n)
	}
	r.host("gone.example.net", "web", "1.10.3")
	r.until("it is back", func() bool { return hosts() == 4 })
	r.until("it has a document of a higher generation", func() bool {
		var v control.HostView
		r.mustCall(control.HostShow, ask, &v)
		return v.Generation >= 3 && len(v.Problems) == 0
	})
}

// bare is a scheduler that has loaded, without its loop.
func (r *rig) bare(o Options) *scheduler {
	r.t.Helper()
	o.Signer, o.Keyring = r.signer, r.keyring
	o.Conn, o.Logger, o.Registerer = r.connect(), slog.New(slog.NewTextHandler(testWriter{r.t}, nil)), prometheus.NewRegistry()
	s, err := open(r.t.Context(), o.withDefaults())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := s.load(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// A batch whose answer was lost either committed, and settle says so, or never
// can.
func TestLostAnswerIsSettled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.bare(Options{})
	s.take(t.Context())
	if !s.leading {
		t.Fatal("not leading")
	}
	defer s.stopServe()
	before := func() uint64 { return s.revisions[subjects.KindLeader.Subject("")] }
	batch := func() ([]bus.Message, subjects.Leader) {
		l := s.leader
		l.Step = random()
		s.lost, s.found = l.Step, false
		return []bus.Message{
			s.leaderMessage(must(subjects.Encode(l))),
			{Subject: subjects.KindDesired.Subject("h1.example.net"), Data: []byte("{}")},
		}, l
	}
	committed, l := batch()
	expected := before()
	if _, err := bus.Commit(t.Context(), s.js, committed); err != nil {
		t.Fatal(err)
	}
	if err := s.settle(t.Context(), l, expected); err != nil {
		t.Errorf("a batch that committed: %v", err)
	}
	late, l := batch()
	if err := s.settle(t.Context(), l, before()); err == nil {
		t.Error("a batch that never arrived is taken as committed")
	}
	if _, err := bus.Commit(t.Context(), s.js, late); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("the lost batch arrives late: %v, want a refusal", err)
	}
}

// A deposed leader's batches are refused whole, and it notices.
func TestDeposedLeaderWritesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := r.bare(Options{})
	old.take(t.Context())
	next := r.bare(Options{TakeAtOnce: true})
	next.take(t.Context())
	defer next.stopServe()
	if !next.leading {
		t.Fatal("the lease wasn't taken")
	}
	step := rollout.Step{Tells: []rollout.Tell{{Host: "h1.example.net", Desired: rollout.Desired{Generation: 1}, Reason: rollout.Reason{Code: rollout.ByFirst}}}}
	if err := old.commit(t.Context(), step, time.Now()); err == nil {
		t.Error("the deposed leader's batch committed")
	}
	if old.leading {
		t.Error("the deposed leader hasn't noticed")
	}
	if _, err := bus.Last(t.Context(), r.js, subjects.Stream, subjects.KindDesired.Subject("h1.example.net")); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("the host was told: %v", err)
	}
	if err := next.commit(t.Context(), step, time.Now()); err != nil {
		t.Errorf("the new leader: %v", err)
	}
}

// A candidate takes over only when the lease has not been renewed for a whole
// lease, and the ramp's clock doesn't run in between.
func TestCandidateWaitsForTheLease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := r.bare(Options{})
	old.take(t.Context())
	old.stopServe()
	const lease = 600 * time.Millisecond
	candidate := r.bare(Options{Lease: lease})
	start := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	leads := make(chan time.Duration, 1)
	candidate.o.Ready = func(bool) {
		select {
		case leads <- time.Since(start):
		default:
		}
	}
	go func() { done <- candidate.run(ctx) }()
	took := <-leads
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	candidate.stopServe()
	if took < lease {
		t.Errorf("took over after %s, before the lease of %s was out", took, lease)
	}
	if candidate.leader.Led >= lease {
		t.Errorf("the leaders' clock shows %s: it ran while nobody led", candidate.leader.Led)
	}
}

// Nothing is told while a key has too many revisions that the audit log lacks.
func TestAuditTrailCounts(t *testing.T) {
	t.Parallel()
	var a auditTrail
	a.wrote(subjects.KindVariable, "x", 1, time.Time{})
	a.loaded()
	if !a.behind() {
		t.Error("at the start the log has to reach what is stored")
	}
	a.audited(1)
	if a.behind() || a.hot {
		t.Error("caught up, but behind or hot")
	}
	for i := range uint64(auditMost) {
		if a.behind() {
			t.Fatalf("behind with %d revisions", i)
		}
		a.wrote(subjects.KindDesired, "h1", 2+i, time.Time{})
		a.wrote(subjects.KindProgress, "r", 1000+i, time.Time{})
	}
	if !a.behind() || !a.hot {
		t.Errorf("%d revisions of a key are not behind", auditMost)
	}
	a.audited(2)
	if a.behind() || !a.hot {
		t.Error("one audited: not behind, but still hot")
	}
	a.audited(40)
	if a.behind() || a.hot || len(a.pending) != 0 || len(a.counts) != 0 {
		t.Errorf("all audited: %+v", a)
	}
}
