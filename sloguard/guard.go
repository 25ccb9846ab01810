package sloguard

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

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/evidence"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Options of a guard. Conn is required.
type Options struct {
	Conn       *nats.Conn
	Logger     *slog.Logger          // default: discards
	Registerer prometheus.Registerer // default: a registry of its own
	Name       string                // of the process's host, for people
	// Heartbeat is the agents'; a host is silent when three of them were missed.
	// Default 10 s.
	Heartbeat time.Duration
	// Renew is how often the lease is renewed at the least, default 5 s; Lease is
	// how long another guard must see no renewal before it takes over, default
	// 15 s.
	Renew, Lease time.Duration
	// TakeAtOnce takes the lease without waiting: for an embedded broker, whose
	// store's lock proves that the last holder is dead.
	TakeAtOnce bool
	// Prometheus is asked what objectives with a query want to know; nil: nobody
	// can say, and their rollouts hold.
	Prometheus Asker
}

func (o Options) withDefaults() Options {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Heartbeat = cmp.Or(o.Heartbeat, 10*time.Second)
	o.Renew = cmp.Or(o.Renew, 5*time.Second)
	o.Lease = cmp.Or(o.Lease, 15*time.Second)
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	return o
}

// guard is the state of one Run; only its goroutine touches it.
type guard struct {
	o   Options
	js  jetstream.JetStream
	log *slog.Logger
	m   *metrics

	fold     *evidence.Fold
	stream   <-chan bus.Msg
	loaded   bool      // what was stored at the start is folded
	received time.Time // when the newest message was, by our clock

	ears
	lease
	asking
	// put are the verdicts whose abort was acknowledged, by rollout: the stream
	// says so a moment later.
	put     map[rollout.ID]uint64
	retryAt time.Time // an abort wasn't acknowledged: not again before
	backoff time.Duration
}

// Run guards until ctx ends, and gives the lease back, or returns the error that
// ended it.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, err := open(ctx, o.withDefaults())
	if err != nil {
		return fmt.Errorf("sloguard: %w", err)
	}
	defer g.m.unregister()
	if err = g.load(ctx); err == nil {
		err = g.run(ctx)
	}
	g.quit()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("sloguard: %w", err)
}

func open(ctx context.Context, o Options) (*guard, error) {
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return nil, err
	}
	g := &guard{
		o: o, js: js, log: o.Logger, m: newMetrics(o.Registerer),
		fold: evidence.New(), put: make(map[rollout.ID]uint64),
		lease: newLease(), asking: newAsking(),
	}
	if g.ears, err = listen(ctx, o.Conn); err != nil {
		g.m.unregister()
		return nil, fmt.Errorf("listening for heartbeats: %w", err)
	}
	return g, nil
}

func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// slack is by how much the clocks of a scheduler and of the broker, or the times
// at which streams took one record, may differ where one tells where to begin.
const slack = time.Hour

// load finds where to begin, and begins to read.
func (g *guard) load(ctx context.Context) error {
	begin, err := g.begin(ctx)
	if err != nil {
		return err
	}
	if err := g.seed(ctx, begin); err != nil {
		return err
	}
	start, err := bus.SequenceSince(ctx, g.js, subjects.EvidenceStream, begin)
	if err != nil {
		return fmt.Errorf("finding the evidence since %s: %w", begin.Format(time.RFC3339), err)
	}
	g.stream, err = bus.Consume(ctx, g.js, subjects.EvidenceStream, bus.ConsumeOptions{Start: start, Buffer: 4096, Logger: g.log})
	if err != nil {
		return err
	}
	g.leases, err = bus.Consume(ctx, g.js, subjects.Stream, bus.ConsumeOptions{Subjects: []string{subjects.KindGuard.Pattern()}, LastPerSubject: true, Logger: g.log})
	g.log.Info("folding the evidence", "since", begin, "sequence", start)
	return err
}

// begin is the time from which the evidence has to be folded: before the oldest
// rollout that is watched, by as much as is looked back.
func (g *guard) begin(ctx context.Context) (time.Time, error) {
	oldest := time.Now()
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	records, err := bus.Consume(reading, g.js, subjects.Stream, bus.ConsumeOptions{Subjects: []string{subjects.KindRollout.Pattern()}, LastPerSubject: true})
	if err != nil {
		return oldest, err
	}
	for m := range records {
		if m.Subject == "" {
			return oldest.Add(-evidence.Lookback - slack), nil
		}
		r, err := evidence.DecodeRecord(m.Header, m.Data)
		if err != nil || !evidence.Watched(r) {
			continue
		}
		created := m.Time
		if all, err := bus.History(ctx, g.js, subjects.Stream, m.Subject); err != nil {
			return oldest, err
		} else if len(all) > 0 {
			created = all[0].Time
		}
		for _, t := range []time.Time{created, r.Created} {
			if t.Before(oldest) {
				oldest = t
			}
		}
	}
	return oldest, cmp.Or(ctx.Err(), errClosed)
}

// seed gives the fold the objectives as they stood at a time.
func (g *guard) seed(ctx context.Context, at time.Time) error {
	all, err := bus.History(ctx, g.js, subjects.Stream, subjects.KindObjective.Pattern())
	for _, m := range all {
		g.fold.Recall(evidence.Message(m), at)
	}
	return err
}

var errClosed = errors.New("the connection was closed, or the evidence was set back")

// run is the loop of the one goroutine.
func (g *guard) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(max(0, time.Until(g.act(ctx))))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case m, ok := <-g.stream:
			if !ok {
				return errClosed
			}
			g.take(ctx, m)
		case m, ok := <-g.leases:
			if !ok {
				return errClosed
			}
			g.renewed(m)
		case b := <-g.alive:
			g.beat(b)
		}
		g.drain(ctx)
	}
}

// drain takes in what has arrived already. The evidence goes first: all else
// rests on it.
func (g *guard) drain(ctx context.Context) {
	for range 4096 {
		select {
		case m, ok := <-g.stream:
			if !ok {
				return
			}
			g.take(ctx, m)
			continue
		default:
		}
		select {
		case m, ok := <-g.leases:
			if !ok {
				return
			}
			g.renewed(m)
		case b := <-g.alive:
			g.beat(b)
		default:
			return
		}
	}
}

// take folds one message, and acts upon a verdict at once.
func (g *guard) take(ctx context.Context, m bus.Msg) {
	if m.Subject == "" {
		if !g.loaded {
			g.loaded = true
			g.log.Info("caught up with the evidence", "sequence", g.fold.Sequence(), "rollouts", len(g.fold.Rollouts()))
		}
		return
	}
	g.received = time.Now()
	verdicts, err := g.fold.Take(evidence.Message(m))
	if err != nil {
		g.m.unread.Inc()
		g.log.Debug("evidence that can't be read changes nothing", "err", err)
	}
	for _, v := range verdicts {
		g.m.verdicts.WithLabelValues(string(v.Kind)).Inc()
		if g.loaded {
			g.log.Warn("the evidence against a rollout suffices", "rollout", v.Rollout, "kind", v.Kind, "objective", v.Objective, "sequence", v.Sequence, "why", sentence(&v))
		}
	}
	if g.loaded && len(verdicts) > 0 {
		g.freeze(ctx)
	}
}

// act does whatever is to be done now, and says when to act again.
func (g *guard) act(ctx context.Context) time.Time {
	now := time.Now()
	next := now.Add(g.o.Heartbeat / 2)
	if !g.loaded {
		return next
	}
	g.attend(now)
	g.ask(ctx)
	if !g.leading {
		return earliest(next, g.candidate(ctx, now))
	}
	if !now.Before(g.retryAt) {
		g.freeze(ctx)
	}
	if !g.retryAt.IsZero() {
		next = earliest(next, g.retryAt)
	}
	g.speak(now)
	next = earliest(next, g.tick(now))
	return earliest(next, g.renew(ctx, now))
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// freeze puts the aborts of the verdicts that have none yet.
func (g *guard) freeze(ctx context.Context) {
	if !g.leading {
		return
	}
	g.retryAt = time.Time{}
	for _, v := range g.fold.Pending() {
		if g.put[v.Rollout] == v.Sequence {
			continue
		}
		sequence, err := g.abort(ctx, &v)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			g.m.failures.Inc()
			g.backoff = min(max(2*g.backoff, 50*time.Millisecond), 2*time.Second)
			g.retryAt = time.Now().Add(g.backoff)
			g.log.Error("the abort of a rollout isn't acknowledged; trying on", "rollout", v.Rollout, "err", err)
			continue
		}
		g.m.aborts.Inc()
		g.backoff = 0
		g.put[v.Rollout] = v.Sequence
		g.log.Warn("rollout aborted", "rollout", v.Rollout, "abort", sequence, "evidence", v.Sequence)
	}
}

// abortTime bounds one attempt: what else there is to do goes on beside it.
const abortTime = 5 * time.Second

// abort puts one, unless the bucket has it: another guard may have put it, when this
// one was held up or not there yet, and an operator may have acknowledged it since.
func (g *guard) abort(ctx context.Context, v *slo.Verdict) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, abortTime)
	defer cancel()
	subject := subjects.KindAbort.Subject(string(v.Rollout))
	switch last, err := bus.Last(ctx, g.js, subjects.Stream, subject); {
	case err == nil && evidence.Carries(last.Header, last.Data, v):
		return last.Sequence, nil
	case err != nil && !errors.Is(err, bus.ErrNotFound):
		g.log.Warn("whether a rollout is aborted already can't be read; it is aborted", "rollout", v.Rollout, "err", err)
	}
	why, err := subjects.Encode(v)
	if err != nil {
		return 0, err
	}
	body, err := subjects.Encode(subjects.Abort{Why: sentence(v), Actor: string(subjects.SloGuard), Time: time.Now().UTC(), Evidence: why})
	if err != nil {
		return 0, err
	}
	return bus.Put(ctx, g.js, bus.Message{Subject: subject, Data: body})
}

// sentence says what a verdict means, in a line.
func sentence(v *slo.Verdict) string {
	var s slo.Standing
	for _, each := range v.Standings {
		if each.Objective == v.Objective {
			s = each
		}
	}
	of := func(failed, all int, what string) string { return fmt.Sprintf("%d of %d %s", failed, all, what) }
	numbers := fmt.Sprintf("%s failed, and %s; the evidence is %.4g, and %.4g freezes",
		of(s.TreatedFailed, s.Treated, "changed hosts"), of(s.ControlFailed, s.Control, "not yet changed"), s.E, s.Bar)
	switch {
	case v.Kind == slo.Limit && s.Bar == 0:
		return fmt.Sprintf("%s: it failed %d times, and %d are tolerated: %s", v.Objective, s.Gate.Failures, s.Gate.Limit, s.Gate.Why)
	case v.Kind == slo.Limit:
		return fmt.Sprintf("%s: more hosts failed than its failureLimit: %s", v.Objective, numbers)
	case v.Kind == slo.Harm:
		return fmt.Sprintf("%s: the change does harm: %s", v.Objective, numbers)
	}
	return fmt.Sprintf("%s is breached, whatever the cause: %s", v.Objective, numbers)
}
