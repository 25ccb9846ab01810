package hostagent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// rig is a real broker, the test's own connection to it, and one host.
type rig struct {
	t      *testing.T
	broker *broker.Broker
	nc     *nats.Conn
	js     jetstream.JetStream
	m      *machine
	o      Options
	log    *lockedBuffer
	beats  *nats.Subscription
}

func newRig(t *testing.T) *rig {
	t.Helper()
	b, err := broker.Start(broker.Options{Dir: t.TempDir(), Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: b.InProcess(), Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Setup(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	return newRigOn(t, b, js)
}

// newRigOn is a rig on a broker with its streams, and the test's own connection.
func newRigOn(t *testing.T, b *broker.Broker, js jetstream.JetStream) *rig {
	t.Helper()
	nc := js.Conn()
	r := &rig{t: t, broker: b, nc: nc, js: js, m: newMachine(), log: new(lockedBuffer)}
	var err error
	if r.beats, err = nc.SubscribeSync(subjects.Alive("h1")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ms := rollout.Duration(time.Millisecond)
	r.o = Options{
		Connect: bus.ConnectOptions{InProcess: b.InProcess()},
		Config: Config{
			Host: "h1", Role: "web", Labels: map[rollout.Word]rollout.Word{"zone": "a"}, State: t.TempDir(),
			Enact: map[rollout.Name]Enactor{
				"docker_version": {
					Exec: []string{"set", "docker_version"}, Observe: []string{"get", "docker_version"},
					Timeout: 5000 * ms, Retry: Retry{First: 20 * ms, Max: 40 * ms, Attempts: 3},
				},
				"flag": {Exec: []string{"set", "flag"}, Retry: Retry{First: 20 * ms, Max: 40 * ms, Attempts: 3}},
			},
		},
		Version: "1.2.3",
		Exec:    r.m.run,
		Logger:  slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observe: 50 * time.Millisecond,
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log:\n%s", r.log)
		}
	})
	return r
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// machine is a host whose programs are "get NAME" and "set NAME VALUE".
type machine struct {
	mu     sync.Mutex
	values map[string]string
	sets   []Command
	fault  func(c Command) error // before anything else; nil: none
	hold   chan struct{}         // set waits for it, where it isn't nil
	begun  chan string           // gets the value of each set that begins
	checks map[string]error
}

func newMachine() *machine {
	return &machine{values: make(map[string]string), begun: make(chan string, 100), checks: make(map[string]error)}
}

func (m *machine) run(ctx context.Context, c Command) Result {
	m.mu.Lock()
	fault, hold := m.fault, m.hold
	m.mu.Unlock()
	if fault != nil {
		if err := fault(c); err != nil {
			return Result{Output: "it said no", Err: err}
		}
	}
	switch c.Args[0] {
	case "get":
		m.mu.Lock()
		defer m.mu.Unlock()
		return Result{Stdout: m.values[c.Args[1]] + "\n"}
	case "set":
		m.begun <- c.Args[2]
		if hold != nil {
			select {
			case <-hold:
			case <-ctx.Done():
				return Result{Err: fmt.Errorf("killed: %w", context.Cause(ctx))}
			}
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.sets = append(m.sets, c)
		m.values[c.Args[1]] = c.Args[2]
		return Result{}
	case "check":
		m.mu.Lock()
		defer m.mu.Unlock()
		return Result{Err: m.checks[c.Args[1]], Output: "what the check says"}
	}
	return Result{Err: errors.New("no such program")}
}

func (m *machine) with(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *machine) setTo() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, c := range m.sets {
		all = append(all, c.Args[1]+"="+c.Args[2])
	}
	return all
}

// start runs the agent; stop stops it and waits.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	o := r.o
	go func() { done <- Run(ctx, o) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			r.t.Error("the agent didn't stop")
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// tell stores a record as the scheduler does.
func (r *rig) tell(c *subjects.Change) {
	r.t.Helper()
	h, body, err := c.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	r.put(subjects.KindDesired.Subject(string(c.Host)), h, body)
}

func (r *rig) put(subject string, h subjects.Header, body []byte) {
	r.t.Helper()
	if _, err := bus.Put(r.t.Context(), r.js, bus.Message{Subject: subject, Header: h, Data: body}); err != nil {
		r.t.Fatal(err)
	}
}

// echo sends something to the agent alone, as a broker might that is confused.
func (r *rig) echo(subject string, c *subjects.Change) {
	r.t.Helper()
	h, body, err := c.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header(h), Data: body}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) report() *rollout.Report {
	m, err := bus.Last(r.t.Context(), r.js, subjects.HostsStream, subjects.HostSubject("h1"))
	if errors.Is(err, bus.ErrNotFound) {
		return &rollout.Report{}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	report, err := subjects.Decode[rollout.Report](m.Data)
	if err != nil {
		r.t.Fatalf("%v: %s", err, m.Data)
	}
	return report
}

// reported waits for a report.
func (r *rig) reported(what string, ok func(*rollout.Report) bool) *rollout.Report {
	r.t.Helper()
	var last *rollout.Report
	defer func() {
		if r.t.Failed() {
			r.t.Logf("the last report: %+v", last)
		}
	}()
	await(r.t, "a report: "+what, func() bool { last = r.report(); return ok(last) })
	return last
}

func (r *rig) enacted(generation uint64, name rollout.Name, value string) *rollout.Report {
	r.t.Helper()
	return r.reported(fmt.Sprintf("%s enacted at %s", name, value), func(p *rollout.Report) bool {
		return p.Generation == generation && p.Enact[name].Status == rollout.Enacted && p.Actual[name].Text() == value
	})
}

// events gives the health events that are stored.
func (r *rig) events() []subjects.HealthEvent {
	r.t.Helper()
	var all []subjects.HealthEvent
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	ch, err := bus.Consume(ctx, r.js, subjects.EvidenceStream, bus.ConsumeOptions{Subjects: []string{subjects.AllHealth}})
	if err != nil {
		r.t.Fatal(err)
	}
	for m := range ch {
		if m.Subject == "" {
			break
		}
		e, err := subjects.Decode[subjects.HealthEvent](m.Data)
		if err != nil {
			r.t.Fatalf("%v: %s", err, m.Data)
		}
		all = append(all, *e)
	}
	return all
}

func (r *rig) event(what string, ok func(subjects.HealthEvent) bool) subjects.HealthEvent {
	r.t.Helper()
	var found subjects.HealthEvent
	await(r.t, "a health event: "+what, func() bool {
		all := r.events()
		i := slices.IndexFunc(all, ok)
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

func docker(version string) rollout.Document {
	return rollout.Document{"docker_version": str(version)}
}

func TestEndToEnd(t *testing.T) {
	r := newRig(t)
	r.m.values["docker_version"] = "1.10.3"
	r.o.Config.Facts = filepath.Join(t.TempDir(), "facts.d", "tsunami.json")
	r.o.Config.Env = filepath.Join(t.TempDir(), "desired.env")
	r.start()

	// Before it is told anything.
	p := r.reported("the first", func(p *rollout.Report) bool { return p.Boot != "" })
	if p.Role != "web" || p.Labels["zone"] != "a" || p.Version != "1.2.3" || p.Generation != 0 || p.Actual["docker_version"] != str("1.10.3") || len(p.Enact) != 0 {
		t.Fatalf("%+v", p)
	}
	beat, err := r.beats.NextMsg(10 * time.Second)
	if err != nil || string(beat.Data) != p.Boot {
		t.Fatalf("a heartbeat %v, %v; the boot is %s", beat, err, p.Boot)
	}

	r.tell(change(1, "", docker("1.10.3"), nil))
	r.enacted(1, "docker_version", "1.10.3")
	if sets := r.m.setTo(); len(sets) != 0 {
		t.Fatalf("what the host runs already was enacted: %v", sets)
	}
	r.tell(change(2, "docker-1-12-3", docker("1.12.3"), nil))
	p = r.enacted(2, "docker_version", "1.12.3")
	if e := p.Enact["docker_version"]; e.Generation != 2 || e.Attempts != 1 || e.Error != "" {
		t.Errorf("%+v", e)
	}
	r.m.with(func() {
		if len(r.m.sets) != 1 || !slices.Equal(r.m.sets[0].Args, []string{"set", "docker_version", "1.12.3"}) {
			t.Errorf("ran %+v", r.m.sets)
		}
		want := []string{"TSUNAMI_HOST=h1", "TSUNAMI_VARIABLE=docker_version", "TSUNAMI_VALUE=1.12.3", "TSUNAMI_PREVIOUS=1.10.3", "TSUNAMI_ROLLOUT=docker-1-12-3"}
		if !slices.Equal(r.m.sets[0].Env, want) {
			t.Errorf("environment %q, want %q", r.m.sets[0].Env, want)
		}
	})
	for _, path := range []string{filepath.Join(r.o.Config.State, desiredFile), r.o.Config.Facts} {
		if b, err := os.ReadFile(path); err != nil || string(b) != `{"docker_version":"1.12.3"}`+"\n" {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if b, err := os.ReadFile(r.o.Config.Env); err != nil || string(b) != "docker_version=\"1.12.3\"\n" {
		t.Errorf("%q, %v", b, err)
	}

	e := r.event("1.12.3 enacted", func(e subjects.HealthEvent) bool { return e.Value == str("1.12.3") })
	if e.Kind != subjects.HealthEnact || e.Status != "enacted" || e.Boot != p.Boot || e.Generation != 2 || e.Rollout != "docker-1-12-3" || e.Variable != "docker_version" {
		t.Errorf("%+v", e)
	}
	for i, e := range r.events() {
		if e.Sequence != uint64(i+1) {
			t.Errorf("event %d has sequence %d", i, e.Sequence)
		}
	}
}

func TestOnlyHigherGenerationsOfThisHost(t *testing.T) {
	r := newRig(t)
	r.start()
	own := subjects.KindDesired.Echo("h1")
	r.tell(change(5, "a", docker("5"), nil))
	r.enacted(5, "docker_version", "5")
	await(t, "the subscription", func() bool { return strings.Contains(r.log.String(), "took a new desired state") })

	// Doubled and late ones are silent.
	r.echo(own, change(5, "a", docker("5"), nil))
	r.echo(own, change(4, "a", docker("4"), nil))
	// The same generation with another document, another host's, and what no
	// scheduler wrote are refused aloud.
	r.echo(own, change(5, "evil", docker("evil"), nil))
	r.echo(own, change(5, "evil", docker("evil"), nil))
	r.event("same generation", func(e subjects.HealthEvent) bool {
		return e.Kind == subjects.HealthRefused && e.Generation == 5 && strings.Contains(e.Output, "another document")
	})
	if err := r.nc.PublishMsg(&nats.Msg{Subject: own, Data: []byte(`{"docker_version":"by hand"}`)}); err != nil {
		t.Fatal(err)
	}
	r.event("by hand", func(e subjects.HealthEvent) bool { return strings.Contains(e.Output, "not written by its owner") })

	// A consumer's delivery keeps its stream subject: the scheduler's record for
	// another host, put into this host's subject by somebody's consumer.
	other := change(9, "a", docker("other"), nil)
	other.Host = "h2"
	r.tell(other)
	body := fmt.Sprintf(`{"stream_name":%q,"config":{"deliver_subject":%q,"filter_subject":%q,"ack_policy":"none","deliver_policy":"all","mem_storage":true,"num_replicas":1}}`,
		subjects.Stream, own, subjects.KindDesired.Subject("h2"))
	if m, err := r.nc.Request("$JS.API.CONSUMER.CREATE."+subjects.Stream, []byte(body), 5*time.Second); err != nil || strings.Contains(string(m.Data), `"error"`) {
		t.Fatalf("%v %s", err, m.Data)
	}
	r.event("another host's", func(e subjects.HealthEvent) bool {
		return e.Kind == subjects.HealthRefused && strings.Contains(e.Output, "desired.h2")
	})

	// Deleted by hand, emptied, decommissioned: the host keeps what it has.
	r.put(subjects.KindDesired.Subject("h1"), subjects.Header{"KV-Operation": {"DEL"}}, nil)
	r.put(subjects.KindDesired.Subject("h1"), nil, nil)
	gone := change(6, "", nil, nil)
	gone.Decommissioned = true
	r.tell(gone)
	// And the next good one is taken, over all of it.
	r.tell(change(7, "b", docker("7"), nil))
	r.enacted(7, "docker_version", "7")
	if sets := r.m.setTo(); !slices.Equal(sets, []string{"docker_version=5", "docker_version=7"}) {
		t.Errorf("enacted %v", sets)
	}
	refused := 0
	for _, e := range r.events() {
		if e.Kind == subjects.HealthRefused {
			refused++
		}
	}
	if refused != 3 {
		t.Errorf("%d refusals, want 3: %+v", refused, r.events())
	}
}

// A record that was stored while nobody listened is read at the start.
func TestReadsWhatItMissed(t *testing.T) {
	r := newRig(t)
	r.tell(change(3, "a", docker("3"), nil))
	r.start()
	r.enacted(3, "docker_version", "3")
}

// An overwritten record is refused once, however often it is read again.
func TestForeignRecord(t *testing.T) {
	r := newRig(t)
	r.o.Reread = 10 * time.Millisecond
	r.put(subjects.KindDesired.Subject("h1"), nil, []byte(`{"docker_version":"by hand"}`))
	r.start()
	r.event("refused", func(e subjects.HealthEvent) bool { return e.Kind == subjects.HealthRefused })
	r.tell(change(1, "a", docker("1"), nil))
	r.enacted(1, "docker_version", "1")
	n := 0
	for _, e := range r.events() {
		if e.Kind == subjects.HealthRefused {
			n++
		}
	}
	if n != 1 {
		t.Errorf("refused %d times", n)
	}
}

// The bucket was restored from a backup: its generation is lower than what the
// host took.
func TestOlderBucket(t *testing.T) {
	r := newRig(t)
	r.o.Reread = 10 * time.Millisecond
	seed := (&state{Format: stateFormat, Host: "h1"}).with(change(9, "a", docker("9"), nil)).withEnacted("docker_version", enactedValue{str("9"), 9})
	if err := (&agent{Options: r.o}).save(seed); err != nil {
		t.Fatal(err)
	}
	r.m.values["docker_version"] = "9"
	r.tell(change(4, "a", docker("4"), nil))
	r.start()
	await(t, "the older record to be noted", func() bool { return strings.Contains(r.log.String(), "older than what this host took") })
	if p := r.enacted(9, "docker_version", "9"); p.Enact["docker_version"].Generation != 9 {
		t.Errorf("%+v", p)
	}
	r.tell(change(10, "a", docker("10"), nil))
	r.enacted(10, "docker_version", "10")
}

func TestBrokerComesLaterAndGoesAway(t *testing.T) {
	r := newRig(t)
	inner := r.broker.InProcess()
	gate := &gatedProvider{inner: inner}
	r.o.Connect.InProcess = gate
	hold := make(chan struct{})
	r.m.hold = hold
	gate.shut(true)
	r.start()
	r.tell(change(1, "a", docker("1"), nil))
	gate.shut(false)
	if v := <-r.m.begun; v != "1" {
		t.Fatal(v)
	}
	// The broker goes while the enactor runs: it is finished nevertheless, and
	// what is told meanwhile is found afterwards.
	gate.shut(true)
	gate.cut()
	close(hold)
	await(t, "the enactor", func() bool { return len(r.m.setTo()) == 1 })
	r.tell(change(2, "b", docker("2"), nil))
	gate.shut(false)
	r.enacted(2, "docker_version", "2")
	r.event("the result from before", func(e subjects.HealthEvent) bool { return e.Value == str("1") && e.Status == "enacted" })
}
