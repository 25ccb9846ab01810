package scheduler

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/access"
	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Options of a scheduler. Conn is required.
type Options struct {
	Conn       *nats.Conn
	Logger     *slog.Logger          // default: discards
	Registerer prometheus.Registerer // default: a registry of its own
	Name       string                // of the process's host, for people
	Version    string
	// Heartbeat is the agents'; a host is offline three of them after it was
	// last heard. Default 10 s.
	Heartbeat time.Duration
	// Renew is how often an idle leader renews its lease, default 5 s; Lease is
	// how long a candidate must see no renewal before it takes over, default
	// 15 s.
	Renew, Lease time.Duration
	// TakeAtOnce takes the lease without waiting: for an embedded broker, whose
	// store's lock proves that the last holder is dead.
	TakeAtOnce bool
	// Signer seals what the scheduler writes, and Keyring knows what it, or
	// another scheduler of the fleet, has written: with identities both are
	// given, without both are nil.
	Signer  *access.Signer
	Keyring *access.Keyring
	// Adopt seals what is stored as it is, where identities are turned on for a
	// bucket that was written without them.
	Adopt bool
	// Authority says whom the fleet knows, as of now: requests for changes have
	// to prove who asks. Nil: there are no identities.
	Authority func() *access.Authority
	// Ready, if set, is told when the scheduler begins to lead or ceases to.
	Ready func(leading bool)
	// Consume reads a stream into a channel, as [bus.Consume] promises, which
	// is the default. Simulations give one that costs nothing while idle.
	Consume func(ctx context.Context, js jetstream.JetStream, stream string, o bus.ConsumeOptions) (<-chan bus.Msg, error)
}

// gone is how long a host may be unseen before it no longer counts.
const gone = 7 * 24 * time.Hour

// scheduler is the state of one Run; only its goroutine touches it.
type scheduler struct {
	o   Options
	js  jetstream.JetStream
	log *slog.Logger
	m   *metrics

	snap      *rollout.Snapshot
	bucket    <-chan bus.Msg
	inventory <-chan bus.Msg
	alive     chan heartbeat
	commands  chan command
	stopServe func()

	holder   string
	leader   subjects.Leader // the newest record
	leaderAt time.Time       // when its revision was seen to change, by our clock
	leading  bool
	renewed  time.Time         // when we last committed
	epoch    time.Time         // the newest epoch that we have written
	ours     map[string][]byte // what we have sealed last, by its seal
	adopting bool              // until records of before identities are sealed
	adopted  []bus.Message     // those that aren't yet
	lost     string            // the step whose answer is awaited
	found    bool              // it was seen in the lease
	unread   error             // a history that couldn't be read
	consumed uint64            // the bucket's sequence that the mirror has reached

	revisions  map[string]uint64 // of the keys that the scheduler writes expecting their own last
	damaged    map[rollout.ID]bool
	touched    map[rollout.Host]time.Time // the newest report's time, by the broker
	heard      map[rollout.Host]time.Time
	ended      map[rollout.Host]time.Time // when it was decommissioned, by the broker
	loaded     bool                       // what was stored at the start is in the mirror
	swept      time.Time
	attended   time.Time // when the operators\' service was last tried
	listening  time.Time // since when heartbeats have been heard without a break
	audit      auditTrail
	view       view              // what was scraped last
	problems   map[string]string // what a person has to see to, by key
	notices    map[string]notice // what a person should know of
	boots      map[rollout.Host]boots
	objectives map[rollout.ID]*slo.Objective
	guard      guardian
	changed    bool      // since the last decision
	due        time.Time // as the last decision said; zero: never
	backoff    time.Duration
	retryAt    time.Time // decide not before, after a failed commit
	complained time.Time // of failed commits, in the log
}

func (o Options) withDefaults() Options {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Heartbeat = cmp.Or(o.Heartbeat, 10*time.Second)
	o.Renew = cmp.Or(o.Renew, 5*time.Second)
	o.Lease = cmp.Or(o.Lease, 15*time.Second)
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Ready == nil {
		o.Ready = func(bool) {}
	}
	if o.Consume == nil {
		o.Consume = bus.Consume
	}
	return o
}

// Run takes the lease when it can, and schedules while it holds it. It returns
// when ctx ends, after giving the lease back, or with the error that ended it.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := open(ctx, o.withDefaults())
	if err != nil {
		return fmt.Errorf("scheduler: %w", err)
	}
	defer s.m.unregister()
	if err = s.load(ctx); err == nil {
		err = s.run(ctx)
	}
	s.quit()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("scheduler: %w", err)
}

// open makes a scheduler that hears heartbeats, until ctx ends.
func open(ctx context.Context, o Options) (*scheduler, error) {
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return nil, err
	}
	s := &scheduler{
		o: o, js: js, log: o.Logger, m: newMetrics(o.Registerer),
		// Two renewals' time is charged at most: one may come late.
		snap:  rollout.NewSnapshot(2 * o.Renew),
		alive: make(chan heartbeat, 1<<14), commands: make(chan command),
		holder: random(), listening: time.Now(),
		ours:      map[string][]byte{},
		revisions: map[string]uint64{}, damaged: map[rollout.ID]bool{},
		touched: map[rollout.Host]time.Time{}, heard: map[rollout.Host]time.Time{}, ended: map[rollout.Host]time.Time{},
		problems: map[string]string{}, notices: map[string]notice{}, boots: map[rollout.Host]boots{},
		objectives: map[rollout.ID]*slo.Objective{}, guard: guardian{verdicts: map[rollout.ID]*slo.Verdict{}},
	}
	sub, err := o.Conn.Subscribe(subjects.AllAlive, s.hear)
	if err != nil {
		s.m.unregister()
		return nil, fmt.Errorf("listening for heartbeats: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = sub.Unsubscribe() }) // a closed connection has no subscriptions
	return s, nil
}

func random() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// heartbeat is one sign of life, and which start of the host's agent gave it.
type heartbeat struct {
	host rollout.Host
	boot string
}

// hear runs in a NATS callback: it only sends. A heartbeat that finds the
// channel full is dropped, as any heartbeat may be.
func (s *scheduler) hear(m *nats.Msg) {
	h, err := subjects.HostOf(m.Subject)
	if err != nil {
		return
	}
	select {
	case s.alive <- heartbeat{h, string(m.Data[:min(len(m.Data), 64)])}:
	default:
	}
}

var errClosed = errors.New("the connection was closed")

// run is the loop of the one goroutine.
func (s *scheduler) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, err := s.act(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		timer.Reset(max(0, time.Until(next)))
		var commands chan command
		if s.leading {
			commands = s.commands
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case c := <-commands:
			s.answer(ctx, c)
		case m, ok := <-s.bucket:
			if !ok {
				return errClosed
			}
			s.apply(ctx, m)
		case m, ok := <-s.inventory:
			if !ok {
				return errClosed
			}
			s.report(m)
		case h := <-s.alive:
			s.beat(h)
		case to := <-s.m.scrapes:
			s.show(ctx, to)
		}
		s.drain(ctx)
	}
}

// drain takes in whatever has arrived already, so that one decision answers
// many changes.
func (s *scheduler) drain(ctx context.Context) {
	for range 4096 {
		select {
		case m, ok := <-s.bucket:
			if !ok {
				return
			}
			s.apply(ctx, m)
		case m, ok := <-s.inventory:
			if !ok {
				return
			}
			s.report(m)
		case h := <-s.alive:
			s.beat(h)
		default:
			return
		}
	}
}

// act does whatever is to be done now and says when to act again.
func (s *scheduler) act(ctx context.Context) (time.Time, error) {
	now := time.Now()
	s.sweep(now)
	s.watchAudit(ctx, now)
	next := now.Add(s.o.Heartbeat)
	if !s.leading {
		at := s.leaderAt.Add(s.o.Lease)
		if s.leader.Holder == "" || s.leader.Holder == s.holder || s.o.TakeAtOnce {
			at = now
		}
		if at.Before(s.retryAt) {
			at = s.retryAt
		}
		if now.Before(at) {
			return earliest(next, at), nil
		}
		s.take(ctx)
		return now, ctx.Err()
	}
	if now.Before(s.retryAt) {
		return s.retryAt, nil
	}
	if s.adopting {
		if err := s.adopt(ctx, now); err != nil {
			s.hindered("sealing records of before", err)
			return s.retryAt, nil
		}
		return now, nil
	}
	if !now.Before(s.renewed.Add(s.o.Renew)) {
		if err := s.commit(ctx, rollout.Step{}, now); err != nil {
			s.hindered("renewing the lease", err)
			return s.retryAt, nil
		}
	}
	if s.stopServe == nil && !s.attend(ctx, now) {
		next = earliest(next, now.Add(time.Second))
	}
	if s.restoreRollouts(ctx, now) {
		return now, nil
	}
	if s.changed || !s.due.IsZero() && !now.Before(s.due) {
		begun := time.Now()
		d := rollout.Decide(s.snap, now)
		s.m.decisions.Observe(time.Since(begun).Seconds())
		s.changed, s.due = len(d.Steps) > 0, d.Next
		for _, step := range d.Steps {
			if time.Since(now) > s.o.Renew { // an answer took long: decide anew, windows may have closed
				return time.Now(), nil
			}
			err := s.commit(ctx, step, now)
			if unfit, ok := errors.AsType[*unfitError](err); ok {
				s.snap.PutUnfit(unfit.host)
				s.problem(subjects.KindDesired.Key(string(unfit.host)), "the host is left alone: "+err.Error())
				return now, nil
			}
			if err != nil {
				s.hindered("committing a step", err)
				return s.retryAt, nil
			}
		}
		if len(d.Steps) > 0 {
			return now, nil
		}
	}
	if !s.due.IsZero() {
		next = earliest(next, s.due)
	}
	if s.audit.hot {
		next = earliest(next, s.audit.next)
	}
	return earliest(next, s.renewed.Add(s.o.Renew)), nil
}

// attend starts the operators' service, if a second has passed since it
// couldn't.
func (s *scheduler) attend(ctx context.Context, now time.Time) bool {
	if now.Before(s.attended.Add(time.Second)) {
		return false
	}
	s.attended = now
	stop, err := control.Serve(ctx, s.o.Conn, s.o.Version, s.serve, control.Authorize(s.o.Authority))
	if err != nil {
		s.problem("control", "the operators' service couldn't start: "+err.Error())
		return false
	}
	delete(s.problems, "control")
	s.stopServe = stop
	return true
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// hindered notes that the broker didn't take a batch, and waits before the
// next attempt, a little longer each time. The log has a line for the first
// failure of a row and then one a minute.
func (s *scheduler) hindered(what string, err error) {
	now := time.Now()
	s.backoff = min(max(2*s.backoff, 20*time.Millisecond), 2*time.Second)
	s.retryAt = now.Add(s.backoff)
	switch {
	case errors.Is(err, context.Canceled):
	case errors.Is(err, bus.ErrRefused), errors.Is(err, bus.ErrInFlight), errors.Is(err, errDeposed):
		// Somebody wrote in between: decided anew.
		s.log.Info("batch refused", "doing", what, "err", err)
	default:
		s.problems["commit"] = what + " failed, nothing is told: " + err.Error()
		if now.Sub(s.complained) > time.Minute {
			s.complained = now
			s.log.Error("batch not committed; trying on", "doing", what, "err", err)
		}
	}
}

// take tries to become the leader.
func (s *scheduler) take(ctx context.Context) {
	now := time.Now()
	l := s.leader
	l.Holder, l.Name, l.Since = s.holder, s.o.Name, now.UTC()
	s.epoch = time.Time{} // hosts have waited for one
	if l.Seed == "" {
		l.Seed = random()
	}
	if err := s.renew(ctx, l, nil, now); err != nil {
		s.leaderAt = now
		s.hindered("taking the lease", err)
		return
	}
	s.leading, s.changed = true, true
	s.attend(ctx, now)
	s.log.Info("leading", "name", s.o.Name, "led", s.leader.Led.String(), "hosts", len(s.snap.Hosts()))
	s.o.Ready(true)
}

// deposed notes that another scheduler leads.
func (s *scheduler) deposed() {
	s.leading = false
	if s.stopServe != nil {
		s.stopServe()
		s.stopServe = nil
	}
	s.log.Warn("no longer leading", "leader", s.leader.Name)
	s.o.Ready(false)
}

// quit gives the lease back, so that another scheduler can take it at once.
func (s *scheduler) quit() {
	if !s.leading {
		return
	}
	if s.stopServe != nil {
		s.stopServe()
	}
	s.o.Ready(false)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	now := time.Now()
	l := s.leader
	l.Holder, l.Led, l.Renewed = "", s.snap.Led(now), now.UTC()
	s.epoch = time.Time{}
	epoch, err := s.dueEpoch(l.Led, now)
	var body []byte
	if err == nil {
		body, err = subjects.Encode(l)
	}
	if err == nil {
		_, err = bus.Commit(ctx, s.js, append([]bus.Message{s.leaderMessage(body)}, s.seal(epoch)...))
	}
	if err != nil {
		s.log.Info("lease not given back; it runs out by itself", "err", err)
	}
}
