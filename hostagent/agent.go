package hostagent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Options are what Run needs.
type Options struct {
	// Connect says how to reach the broker. Without a URL and InProcess the
	// URL is Config.Server. RetryOnFailedConnect is always on, and the
	// callbacks are called beside the agent's own.
	Connect bus.ConnectOptions
	Config  Config
	// Keyring holds the keys that seal desired state, for an agent whose
	// Config.Trust names no file; nil: nothing is verified.
	Keyring *access.Keyring
	Version string // of the agent, for the report
	// ObserveOnly makes an agent that reports and changes nothing, as if there
	// were always a hold file.
	ObserveOnly bool
	Logger      *slog.Logger // nil discards

	// Exec runs programs; nil is [Execute]. It must return when ctx ends, and
	// is called from several goroutines.
	Exec func(ctx context.Context, c Command) Result

	// The periods, all jittered by a tenth. 0 takes the default. The hold file
	// and those of the identity are looked at four times a heartbeat.
	Heartbeat time.Duration // default 10s
	Reread    time.Duration // of the desired state; default 5m
	Observe   time.Duration // of all variables; default 5m
	Republish time.Duration // of the unchanged report; default 12h

	// Grace is how long a running enactor may go on when the agent is
	// stopped; default 30s.
	Grace time.Duration

	// Random gives numbers in [0,1) for jitter; nil is a shared source.
	Random func() float64
}

func (o Options) withDefaults() Options {
	o.Config = o.Config.withDefaults()
	if o.Connect.URL == "" && o.Connect.InProcess == nil {
		o.Connect.URL = o.Config.Server
	}
	o.Connect.Creds = orElse(o.Config.Creds, o.Connect.Creds)
	o.Connect.CA = orElse(o.Config.CA, o.Connect.CA)
	o.Connect.Cert, o.Connect.Key = orElse(o.Config.Cert, o.Connect.Cert), orElse(o.Config.Key, o.Connect.Key)
	o.Connect.Name = orElse(o.Connect.Name, "tsunami-agent "+string(o.Config.Host))
	o.Connect.RetryOnFailedConnect = true
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Connect.Logger == nil {
		o.Connect.Logger = o.Logger
	}
	if o.Exec == nil {
		o.Exec = Execute
	}
	o.Heartbeat = orElse(o.Heartbeat, 10*time.Second)
	o.Reread = orElse(o.Reread, 5*time.Minute)
	o.Observe = orElse(o.Observe, 5*time.Minute)
	o.Republish = orElse(o.Republish, 12*time.Hour)
	o.Grace = orElse(o.Grace, 30*time.Second)
	if o.Random == nil {
		o.Random = mathrand.Float64
	}
	return o
}

const (
	coalesce  = 100 * time.Millisecond // changes of the report that go out together
	putBound  = 10 * time.Second       // of one try to publish
	readBound = 10 * time.Second       // of one read of the desired state
	farewell  = 2 * time.Second        // for the last report of an agent that stops
)

// agent is one host's agent. Its fields belong to the goroutine of Run.
type agent struct {
	Options
	host    rollout.Host
	boot    string
	nc      *nats.Conn
	js      jetstream.JetStream
	outlets []outlet

	work  context.Context // of every goroutine that the agent starts
	tasks sync.WaitGroup

	// Signals to the owning goroutine. Each has room for all that can be under
	// way, so that no sender ever blocks.
	up      chan struct{}
	echoes  chan *nats.Msg
	reads   chan reading
	ran     chan Result
	checked chan checkRun
	sent    chan sending

	state    *state
	damaged  error // state.json can't be used: nothing is taken
	started  bool  // everything was observed once
	stopping bool

	trust
	watching
	intake
	disk
	holding
	enacting
	checking
	reporting
	health

	heartbeatAt time.Time
}

// Run runs the agent of one host until ctx ends, and then stops cleanly: a
// running enactor gets Options.Grace, the last report is sent if the broker is
// there. It returns nil then. It returns an error, at once, for a Config that
// isn't valid, for credentials or keys that can't be used (it wraps ErrIdentity), for a
// state directory that can't be made or that another agent uses, and for a
// connection that can't even be tried. A broker that is away
// isn't an error, nor is a damaged state file: see the package's comment.
func Run(ctx context.Context, o Options) error {
	if err := o.Config.Validate(); err != nil {
		return fmt.Errorf("the agent's configuration: %w", err)
	}
	a := newAgent(o.withDefaults())
	if err := a.readIdentity(); err != nil {
		return err
	}
	if err := os.MkdirAll(a.Config.State, 0o755); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	unlock, err := lockState(a.Config.State)
	if err != nil {
		return err
	}
	defer unlock()
	a.load()

	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.work = work
	defer a.tasks.Wait()
	defer cancel()
	if err := a.connect(); err != nil {
		return err
	}
	defer func() { a.nc.Close() }() // which may be another by then
	a.Logger.Info("the agent has started", "host", a.host, "role", a.Config.Role, "generation", a.state.Generation, "boot", a.boot)
	a.loop(ctx)
	a.Logger.Info("the agent has stopped", "host", a.host, "generation", a.state.Generation)
	return nil
}

func newAgent(o Options) *agent {
	a := &agent{
		Options: o,
		host:    o.Config.Host,
		boot:    newBoot(),
		outlets: o.Config.outlets(),
		up:      make(chan struct{}, 1),
		echoes:  make(chan *nats.Msg, 64),
		reads:   make(chan reading, 1),
		ran:     make(chan Result, 1),
		checked: make(chan checkRun, len(o.Config.Checks)),
		sent:    make(chan sending, 2),
	}
	a.keyring = o.Keyring
	a.variables = make(map[rollout.Name]*variable)
	now := time.Now()
	for _, id := range slices.Sorted(maps.Keys(o.Config.Checks)) {
		a.checks = append(a.checks, &check{Check: o.Config.Checks[id], id: id, status: rollout.Pending, next: now})
	}
	return a
}

func newBoot() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// load reads the state file and prepares the variables and files from it.
func (a *agent) load() {
	var err error
	if a.state, err = loadState(a.Config.State, a.host); err != nil {
		a.damaged = err
		a.state = &state{Format: stateFormat, Host: a.host}
		a.Logger.Error("the state file can't be used", "host", a.host, "err", err)
		a.event(subjects.HealthEvent{Kind: subjects.HealthRefused, Status: string(rollout.EnactFail), Output: printable(err.Error(), maxOutput)})
	}
	a.epoch = a.state.Epoch
	for name := range a.Config.Enact {
		a.variable(name)
	}
	for name := range a.state.Values {
		a.variable(name).begin()
	}
	if now := time.Now(); a.mayChange(now) && a.state.Generation > 0 {
		a.writeOutlets(now)
	}
	a.settled = a.settledAtStart()
	for _, c := range a.checks {
		c.generation = a.settled
	}
	a.sweep = a.observable()
}

func (a *agent) connect() error {
	o := a.Connect
	if a.creds != nil {
		o.Inbox = a.creds.Inbox(false)
	}
	signal := func(also func()) func() {
		return func() {
			select {
			case a.up <- struct{}{}:
			default:
			}
			if also != nil {
				also()
			}
		}
	}
	o.Connected, o.Reconnected = signal(o.Connected), signal(o.Reconnected)
	nc, err := bus.Connect(o)
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return fmt.Errorf("preparing JetStream: %w", err)
	}
	a.nc, a.js = nc, js
	if !nc.IsConnected() {
		a.Logger.Warn("the broker can't be reached; trying on", "host", a.host, "server", o.URL)
	}
	return nil
}

// loop owns the agent's state. Whatever happens, it first takes note, then
// does all that is due, then waits for the next.
func (a *agent) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := ctx.Done()
	var deadline time.Time
	for {
		now := time.Now()
		a.act(now)
		next := a.due()
		if a.stopping {
			if a.attempt != nil && !now.Before(deadline) {
				a.Logger.Warn("the running enactor is killed: the agent stops", "host", a.host, "variable", a.attempt.v.name)
				return
			}
			if a.attempt == nil {
				deadline = earliest(deadline, now.Add(farewell))
				if a.delivered() || !now.Before(deadline) || !a.nc.IsConnected() {
					return
				}
			}
			next = earliest(next, deadline)
		}
		timer.Reset(time.Until(next))
		select {
		case <-done:
			done = nil
			a.stopping = true
			deadline = time.Now().Add(a.Grace)
			a.abandon()
		case <-timer.C:
		case <-a.up:
			a.connected(time.Now())
		case m := <-a.echoes:
			a.heard(m)
		case r := <-a.reads:
			a.read(r)
		case r := <-a.ran:
			a.finished(r)
		case r := <-a.checked:
			a.judge(r)
		case s := <-a.sent:
			a.delivery(s)
		}
	}
}

// act does what is due.
func (a *agent) act(now time.Time) {
	if !now.Before(a.holdAt) {
		a.lookAtIdentity(now)
		a.mayChange(now)
	}
	a.retryDisk(now)
	a.enact(now)
	if !a.stopping {
		if a.started {
			a.startRead(now)
		}
		a.startChecks(now)
		if !now.Before(a.heartbeatAt) {
			a.beat(now)
		}
	}
	a.startReport(now)
	a.startEvent(now)
}

// due is when act has something to do if nothing happens until then.
func (a *agent) due() time.Time {
	next := earliest(a.heartbeatAt, a.holdAt)
	if a.stopping {
		next = never
	}
	for _, t := range []time.Time{a.diskDue(), a.enactDue(), a.readDue(), a.checkDue(), a.reportDue(), a.eventDue()} {
		next = earliest(next, t)
	}
	return next
}

// connected takes note that the connection stands, for the first time or
// again.
func (a *agent) connected(now time.Time) {
	a.Logger.Debug("the broker is there", "host", a.host)
	a.beat(now)
	a.readAt = now
	a.readFailures, a.staleReads = 0, 0
	a.reportRetry, a.eventRetry = backoff{}, backoff{}
}

// beat sends a heartbeat. One that can't be sent is lost: the next follows the
// reconnect at once.
func (a *agent) beat(now time.Time) {
	a.heartbeatAt = now.Add(a.jittered(a.Heartbeat))
	if a.nc.IsConnected() {
		if err := a.nc.Publish(subjects.Alive(a.host), []byte(a.boot)); err != nil {
			a.Logger.Debug("a heartbeat wasn't sent", "host", a.host, "err", err)
		}
	}
}

// begin starts a goroutine that ends with the agent.
func (a *agent) begin(f func(ctx context.Context)) {
	a.tasks.Go(func() { f(a.work) })
}

// jittered gives d, up to a tenth more or less.
func (a *agent) jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*a.Random()))
}

// never is a time to wait for in vain.
var never = time.Time{}

// earliest gives the earlier of two times, where the zero time is never.
func earliest(a, b time.Time) time.Time {
	switch {
	case a.IsZero():
		return b
	case b.IsZero() || a.Before(b):
		return a
	}
	return b
}

// backoff is when to try again, after so many failures.
type backoff struct {
	failures int
	at       time.Time
}

// failed sets the next try: after first, doubling to most, drawn from the
// upper half.
func (b *backoff) failed(now time.Time, first, most time.Duration, random func() float64) {
	b.at = now.Add(wait(b.failures, first, most, random))
	b.failures++
}

func wait(failures int, first, most time.Duration, random func() float64) time.Duration {
	d := most
	if failures < 32 && first<<failures > 0 {
		d = min(most, first<<failures)
	}
	return d/2 + time.Duration(float64(d/2)*random())
}

func (b *backoff) ready(now time.Time) bool { return !now.Before(b.at) }

// byOrder sorts variables by the age of their order.
func (a *agent) byOrder(x, y *variable) int {
	return cmp.Or(cmp.Compare(a.state.Orders[x.name].Generation, a.state.Orders[y.name].Generation), cmp.Compare(x.name, y.name))
}
