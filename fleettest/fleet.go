package fleettest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/scheduler"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Operator is who asks for things in a fleet.
const Operator rollout.ID = "alice"

// Options of a fleet. The zero Options suit two weeks of 300 light hosts.
type Options struct {
	// Seed is where the fleet's chance comes from: hosts' jitter, the echoes'
	// faults, the salts of rollouts. Everything but what happens at the very
	// same instant is the same with the same seed.
	Seed uint64
	// Heartbeat of hosts and Reread, which is how often they read their
	// document: default a day, jittered.
	Heartbeat, Reread time.Duration
	// Republish is how often a light host reports what it has reported before,
	// jittered; default two days. One that is neither heard nor reports for
	// seven doesn't count.
	Republish time.Duration
	// Renew and Lease are the scheduler's, default 2 h and three times Renew.
	Renew, Lease time.Duration
	// Confirm is how long a host takes to enact, default 10 min. A light
	// host takes half as long to half again as long.
	Confirm time.Duration
	// Exact says that a light host takes Confirm, and no less or more.
	Exact bool
	// At is when simulated time begins; default midnight UTC on 1 January 2000,
	// and not before that.
	At time.Time
	// Agents says that hosts run the real agent, with one connection each.
	Agents bool
	// Consume says that the scheduler reads streams by bus.Consume, as in
	// production. It costs several real seconds a simulated day.
	Consume bool
	// Sealed says that the scheduler seals what it writes, and believes only what
	// is sealed.
	Sealed bool
	// Logger is the scheduler's; default: discards.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	o.Heartbeat = cmp.Or(o.Heartbeat, 24*time.Hour)
	o.Reread = cmp.Or(o.Reread, 24*time.Hour)
	o.Republish = cmp.Or(o.Republish, 2*24*time.Hour)
	o.Renew = cmp.Or(o.Renew, 2*time.Hour)
	o.Lease = cmp.Or(o.Lease, 3*o.Renew)
	o.Confirm = cmp.Or(o.Confirm, 10*time.Minute)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Fleet is a broker, a scheduler, hosts and an operator, in simulated time. Its
// methods are for the goroutine of the test.
type Fleet struct {
	T       *testing.T
	Options Options
	Random  *rand.Rand
	Began   time.Time // when simulated time began

	dir     string
	broker  *embedded
	nc      *nats.Conn
	js      jetstream.JetStream
	client  *control.Client // of the operator who asks now
	sources *sources
	echoes  *link // of the light hosts
	faults  Faults
	model   *model
	reals   map[rollout.Host]*real
	bucket  *recording
	reports *recording
	audit   *recording
	running *process // the scheduler; nil: there is none
	signer  *access.Signer
	keyring *access.Keyring
	Checker *Checker
}

// Run makes a fleet and gives it to f, inside a bubble of simulated time. What the fleet did is checked once
// more at the end. Tests that call Run can't be parallel.
func Run(t *testing.T, o Options, f func(*Fleet)) {
	t.Helper()
	// The client library keeps timers in a global pool, and one of another
	// bubble can't be used in this one. Two collections empty the pool.
	runtime.GC()
	runtime.GC()
	accessUsers.Add(1)
	accessTime.Store(1) // it isn't the real time's
	defer func() {
		accessUsers.Add(-1)
		accessTime.Store(0)
	}()
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(o.At))
		accessTime.Store(time.Now().UnixNano())
		fleet := start(t, dir, o.withDefaults())
		defer fleet.close()
		f(fleet)
		if !t.Failed() {
			fleet.CheckAudit()
		}
	})
}

// memoryDir is a temporary directory, in memory where the system has such a
// place: what the broker syncs to a disk costs more than all else that it does,
// and nobody here pulls a plug.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fleettest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return dir
}

func start(t *testing.T, dir string, o Options) *Fleet {
	t.Helper()
	f := &Fleet{
		T: t, Options: o, Began: time.Now().UTC(), dir: dir, broker: &embedded{dir: filepath.Join(dir, "broker")},
		Random: rand.New(rand.NewPCG(o.Seed, 3)), reals: make(map[rollout.Host]*real), Checker: NewChecker(),
	}
	f.Checker.Renew = o.Renew
	must := func(err error) {
		if err != nil {
			t.Helper()
			f.close()
			t.Fatalf("starting the fleet: %v", err)
		}
	}
	var err error
	if o.Sealed {
		f.signer, _, err = access.NewHostKey() // any user's key
		must(err)
		f.keyring, err = access.ParseKeyring([]byte(f.signer.Public()))
		must(err)
	}
	must(f.broker.up())
	// The operator and the observer share a connection without faults.
	f.nc, err = bus.Connect(bus.ConnectOptions{InProcess: newLink(f.broker, o.Seed), Name: "operator", PingInterval: seldom})
	must(err)
	f.js, err = jetstream.New(f.nc)
	must(err)
	ctx := t.Context()
	f.sources, err = newSources(ctx, f.js)
	must(err)
	must(f.sources.sleep(ctx))
	must(f.sow(ctx))
	f.client, err = control.NewClient(f.nc, Operator)
	must(err)
	f.bucket, err = record(ctx, f.js, subjects.Stream)
	must(err)
	f.reports, err = record(ctx, f.js, subjects.HostsStream)
	must(err)
	f.audit, err = record(ctx, f.js, subjects.AuditStream)
	must(err)
	f.echoes = newLink(f.broker, o.Seed)
	f.model, err = newModel(o, f.echoes, func(err error) { t.Errorf("light hosts: %v", err) })
	must(err)
	return f
}

// sow gives the bucket a seed for rollouts' salts, which the first scheduler
// would draw, so that a script always tells the same hosts.
func (f *Fleet) sow(ctx context.Context) error {
	body, err := subjects.Encode(subjects.Leader{Step: "sown", Seed: fmt.Sprintf("fleettest %d", f.Options.Seed)})
	if err != nil {
		return err
	}
	_, err = bus.Put(ctx, f.js, bus.Message{Subject: subjects.KindLeader.Subject(""), Data: body})
	return err
}

// close ends everything: the bubble outlives none of it.
func (f *Fleet) close() {
	f.SchedulerDown()
	for _, r := range f.reals {
		r.off()
	}
	if f.model != nil {
		f.model.close()
	}
	for _, r := range []*recording{f.bucket, f.reports, f.audit} {
		if r != nil {
			r.close()
		}
	}
	if f.nc != nil {
		f.nc.Close()
	}
	f.broker.down()
	time.Sleep(time.Minute) // some of the broker's goroutines end a moment later
}

// process is a running scheduler.
type process struct {
	link *link
	nc   *nats.Conn
	stop context.CancelFunc
	done chan error
}

// SchedulerUp starts a scheduler and waits until it leads, which after a kill
// takes a whole lease.
func (f *Fleet) SchedulerUp() {
	f.T.Helper()
	if f.running != nil {
		f.T.Fatal("the scheduler is up already")
	}
	// It waits at its start until the audit log has everything.
	f.awaitAudit()
	l := newLink(f.broker, f.Options.Seed+uint64(f.bucket.taken)) // every scheduler's own
	nc, err := bus.Connect(bus.ConnectOptions{InProcess: l, Name: "scheduler", PingInterval: seldom})
	if err != nil {
		f.T.Fatalf("scheduler: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{link: l, nc: nc, stop: cancel, done: make(chan error, 1)}
	f.running = p
	o := scheduler.Options{
		Conn: nc, Logger: f.Options.Logger, Name: "fleettest", Version: "1.0.0",
		Heartbeat: f.Options.Heartbeat, Renew: f.Options.Renew, Lease: f.Options.Lease,
		Signer: f.signer, Keyring: f.keyring,
	}
	if !f.Options.Consume {
		o.Consume = consume
	}
	led := make(chan struct{})
	once := sync.OnceFunc(func() { close(led) })
	o.Ready = func(leading bool) {
		if leading {
			once()
		}
	}
	go func() { p.done <- scheduler.Run(ctx, o) }()
	select {
	case <-led:
	case err := <-p.done:
		p.done <- err // for SchedulerDown
		f.T.Fatalf("scheduler: it ended: %v", err)
	case <-time.After(3 * f.Options.Lease):
		f.T.Fatal("the scheduler doesn't lead")
	}
}

// SchedulerDown stops the scheduler as SIGTERM does: it gives the lease back.
func (f *Fleet) SchedulerDown() {
	p := f.running
	if p == nil {
		return
	}
	f.running = nil
	p.stop()
	if err := <-p.done; err != nil {
		f.T.Errorf("scheduler: %v", err)
	}
	p.nc.Close()
}

// SchedulerKill ends the scheduler as kill -9 does: whatever it is doing,
// nothing that it says any more arrives.
func (f *Fleet) SchedulerKill() {
	p := f.running
	if p == nil {
		return
	}
	f.running = nil
	p.link.setCut(true)
	p.stop()
	<-p.done // whatever it made of that
	p.nc.Close()
}

// SchedulerKillInStep kills the scheduler while it writes its next step: the
// broker gets nothing of that, a part, or all of it, and its answer is lost. It
// says whether there was a step before so long had passed.
func (f *Fleet) SchedulerKillInStep(within time.Duration) bool {
	f.T.Helper()
	if f.running == nil {
		f.T.Fatal("the scheduler is down")
	}
	cut := f.running.link.cutInStep()
	select {
	case <-cut:
		f.SchedulerKill()
		return true
	case <-time.After(within):
		return false
	}
}

// SchedulerBlind has the scheduler see nothing of what is written to the bucket,
// while everything else works, or lets it see.
func (f *Fleet) SchedulerBlind(blind bool) {
	f.T.Helper()
	if f.running == nil {
		f.T.Fatal("the scheduler is down")
	}
	f.running.link.setBlind(blind)
}

// BrokerDown stops the broker, BrokerUp starts it on what it has stored.
func (f *Fleet) BrokerDown() { f.broker.down() }

// BrokerUp starts the broker and waits until the operator's connection stands.
func (f *Fleet) BrokerUp() {
	f.T.Helper()
	if err := f.broker.up(); err != nil {
		f.T.Fatal(err)
	}
	for range 1000 {
		if f.nc.IsConnected() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	f.T.Fatal("nobody comes back to the broker")
}

// AddHost switches a new host on. It runs what actual says.
func (f *Fleet) AddHost(name rollout.Host, role rollout.Word, labels map[rollout.Word]rollout.Word, actual rollout.Document) {
	if !f.Options.Agents {
		f.model.add(name, role, labels, actual)
		return
	}
	l := newLink(f.broker, f.Options.Seed+uint64(len(f.reals)))
	l.setFaults(f.faults)
	f.reals[name] = newReal(f.Options, l, filepath.Join(f.dir, "hosts"), name, role, labels, actual, func(err error) { f.T.Error(err) })
}

// Cut cuts a host off from the broker, or mends that.
func (f *Fleet) Cut(name rollout.Host, cut bool) error {
	if r := f.reals[name]; r != nil {
		r.link.setCut(cut)
	} else if !f.model.setCut(name, cut) {
		return fmt.Errorf("there is no host %s", name)
	}
	return nil
}

// Hang makes a host's enactors hang from now on, or lets them go on.
func (f *Fleet) Hang(name rollout.Host, hang bool) error {
	if r := f.reals[name]; r != nil {
		r.setHung(hang)
	} else if !f.model.setHung(name, hang) {
		return fmt.Errorf("there is no host %s", name)
	}
	return nil
}

// SwitchOff takes a host's machine away at once; SwitchOn brings it back.
func (f *Fleet) SwitchOff(name rollout.Host) error {
	if r := f.reals[name]; r != nil {
		r.off()
	} else if !f.model.switchOff(name) {
		return fmt.Errorf("there is no host %s", name)
	}
	f.Checker.Unseen(name, time.Now())
	return nil
}

// SwitchOn brings a host back that was switched off, with its disk.
func (f *Fleet) SwitchOn(name rollout.Host) error {
	f.Checker.Seen(name)
	if r := f.reals[name]; r != nil {
		r.on()
	} else if !f.model.switchOn(name) {
		return fmt.Errorf("there is no host %s", name)
	}
	return nil
}

// Echoes sets the faults of the way to all hosts.
func (f *Fleet) Echoes(x Faults) {
	f.faults = x
	f.echoes.setFaults(x)
	for _, r := range f.reals {
		r.link.setFaults(x)
	}
}

// As has f make its requests as another operator, until it returns.
func (f *Fleet) As(actor rollout.ID, do func() error) error {
	was := f.client
	defer func() { f.client = was }()
	var err error
	if f.client, err = control.NewClient(f.nc, actor); err != nil {
		return err
	}
	return do()
}

// Call makes a request of the operator's.
func (f *Fleet) Call(verb control.Verb, request, response any) error {
	return f.client.Call(f.T.Context(), verb, request, response)
}

// Put writes a key by hand, as `nats kv put` does, and returns its sequence.
func (f *Fleet) Put(kind subjects.Kind, name, value string) (uint64, error) {
	ctx, cancel := context.WithTimeout(f.T.Context(), time.Minute)
	defer cancel()
	return bus.Put(ctx, f.js, bus.Message{Subject: kind.Subject(name), Data: []byte(value)})
}

// Actual lists what the machines that are on run of a variable.
func (f *Fleet) Actual(variable rollout.Name) map[rollout.Host]string {
	out := f.model.actual(variable)
	for name, r := range f.reals {
		if r.stop != nil {
			out[name] = r.actual()[variable]
		}
	}
	return out
}

// Check checks what has been written so far. It returns what is wrong, which
// stays so: a violation is reported once.
func (f *Fleet) Check() []Violation {
	synctest.Wait() // until all that is under way has arrived
	return f.Checker.Take(f.bucket.since(&f.bucket.taken), f.reports.since(&f.reports.taken), time.Now())
}

// CheckAudit checks, beyond what Check does, that the audit log has every
// change once.
func (f *Fleet) CheckAudit() []Violation {
	f.T.Helper()
	f.awaitAudit()
	v := f.Check()
	return append(v, f.Checker.TakeAudit(f.audit.since(&f.audit.taken))...)
}

// awaitAudit lets the audit log catch up.
func (f *Fleet) awaitAudit() {
	f.T.Helper()
	ctx := f.T.Context()
	if err := f.sources.wake(ctx); err != nil {
		f.T.Fatal(err)
	}
	synctest.Wait()
	want := f.bucket.lastAudited()
	for end := time.Now().Add(5 * time.Minute); f.audit.origin() < want; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			f.T.Fatalf("the audit log has come to %d of %d", f.audit.origin(), want)
		}
	}
	if err := f.sources.sleep(ctx); err != nil && !errors.Is(err, context.Canceled) {
		f.T.Fatal(err)
	}
}
