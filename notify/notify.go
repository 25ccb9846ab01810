package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// Options of the part. Conn, Config and Dir are required.
type Options struct {
	// Conn is the connection to the broker, as somebody who may read the bucket. It
	// need not be up yet.
	Conn   *nats.Conn
	Config *Config
	// Dir is where the state file is kept. It is made if need be.
	Dir        string
	Logger     *slog.Logger          // default: discards
	Registerer prometheus.Registerer // default: a registry of its own

	// pause is how long to wait before the attempt after this one, from 0.
	pause func(attempt int) time.Duration
}

func (o Options) withDefaults() Options {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.pause == nil {
		o.pause = backoff
	}
	return o
}

// How often what isn't pressing is done.
const (
	saveEvery = 30 * time.Second // the position, where it made no event
	saveAgain = 10 * time.Second // after the disk refused
	readAgain = 5 * time.Second  // after the broker did
	idle      = time.Hour        // nothing is due
)

// notifier is the state of one Run; only its goroutine touches it.
type notifier struct {
	o         Options
	js        jetstream.JetStream
	log       *slog.Logger
	m         *metrics
	receivers []*receiver
	results   chan result

	fold     *fold
	marks    map[rollout.ID]*marks
	position uint64 // records up to this one have been turned into events
	fresh    bool   // there was no state: what is in the bucket is past

	// cancel ends what reads the bucket. The progress is read first, so that the
	// events of records know how hosts stood; records is nil until it has caught up.
	cancel            context.CancelFunc
	progress, records <-chan bus.Msg
	loaded            bool      // all that was stored has been taken
	readAt            time.Time // when to begin to read; zero: it is being read

	dirty, stale bool // the file lacks an event; only a position
	saveAt       time.Time
	saidSave     string
	saidRead     string
}

// Run tells the receivers what happens until ctx ends. What fails is tried again:
// it returns an error only for a connection that JetStream can't be used over.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	js, err := jetstream.New(o.Conn)
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	n := &notifier{o: o, js: js, log: o.Logger, m: newMetrics(o.Registerer), readAt: time.Now()}
	defer n.m.unregister()
	n.restore(time.Now())
	working, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for _, r := range n.receivers {
		workers.Go(func() { r.work(working, &n.o, n.results) })
	}
	n.run(ctx)
	stop()
	workers.Wait()
	for len(n.results) > 0 { // what was taken at the very end isn't sent again
		n.finish(<-n.results)
	}
	n.save(time.Now())
	return nil
}

// restore takes over what the state file holds. One that can't be read is written
// anew: whoever would rather have it stop stops rollouts with it.
func (n *notifier) restore(now time.Time) {
	s, err := loadState(n.o.Dir)
	if err != nil {
		n.log.Error("the state can't be read; beginning with what happens from now on", "err", err)
	}
	if n.fresh = s == nil; n.fresh {
		s = &state{}
	}
	n.position, n.marks = s.Position, s.Rollouts
	n.results = make(chan result, len(n.o.Config.Receivers))
	for i := range n.o.Config.Receivers {
		r := newReceiver(&n.o.Config.Receivers[i])
		n.receivers = append(n.receivers, r)
		for _, d := range s.Queues[r.Name] {
			n.enqueue(r, d, now)
		}
		delete(s.Queues, r.Name)
		n.m.dropped.WithLabelValues(string(r.Name)) // zero is a value too
	}
	for name, queue := range s.Queues {
		n.log.Warn("a receiver is gone from the file, and what it was to be told with it", "receiver", name, "events", len(queue))
	}
}

// run is the loop of the one goroutine.
func (n *notifier) run(ctx context.Context) {
	defer n.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(max(0, time.Until(n.act(ctx))))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case r := <-n.results:
			n.finish(r)
		case m, ok := <-n.progress:
			n.read(ctx, m, ok, false)
		case m, ok := <-n.records:
			n.read(ctx, m, ok, true)
		}
	}
}

// act does whatever is to be done now, and says when to act again.
func (n *notifier) act(ctx context.Context) time.Time {
	now := time.Now()
	next := now.Add(idle)
	if !n.readAt.IsZero() {
		if !now.Before(n.readAt) {
			n.open(ctx)
		}
		if !n.readAt.IsZero() {
			next = earliest(next, n.readAt)
		}
	}
	if n.loaded {
		events, due := n.fold.tick(now)
		for _, e := range events {
			if n.fresh && e.Kind == WaveDone {
				continue // it was done before anybody asked
			}
			n.publish(e, now)
		}
		if n.fresh {
			n.fresh, n.dirty = false, true
		}
		if !due.IsZero() {
			next = earliest(next, due)
		}
	}
	if (n.dirty || n.stale) && !n.fresh { // where to begin is known
		if !now.Before(n.saveAt) {
			n.save(now)
		}
		if n.dirty || n.stale {
			next = earliest(next, n.saveAt)
		}
	}
	// After it is on the disk, so that nothing is sent that a restart forgets.
	for _, r := range n.receivers {
		r.next()
	}
	return next
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// open begins to read the bucket.
func (n *notifier) open(ctx context.Context) {
	n.close()
	reading, cancel := context.WithCancel(ctx)
	n.cancel = cancel
	last, err := bus.LastSequence(reading, n.js, subjects.Stream)
	if err == nil {
		n.progress, err = bus.Consume(reading, n.js, subjects.Stream, bus.ConsumeOptions{
			Subjects: []string{subjects.KindProgress.Pattern()}, LastPerSubject: true, Logger: n.log,
		})
	}
	if err != nil {
		n.again(err)
		return
	}
	n.readAt = time.Time{}
	if !n.fresh && last < n.position {
		n.log.Warn("the bucket was set back; beginning with what happens from now on", "sequence", last, "position", n.position)
		n.fresh, n.marks = true, nil
	}
	if n.fresh {
		n.position = last
	}
	n.fold = newFold(time.Duration(n.o.Config.HeldAfter), n.marks)
	n.marks = n.fold.marks
}

// close ends the reading.
func (n *notifier) close() {
	if n.cancel != nil {
		n.cancel()
	}
	n.cancel, n.progress, n.records, n.loaded = nil, nil, nil, false
}

// again begins to read after a while.
func (n *notifier) again(err error) {
	n.close()
	if said := err.Error(); said != n.saidRead {
		n.saidRead = said
		n.log.Warn("the bucket can't be read; trying on", "err", err)
	}
	n.readAt = time.Now().Add(readAgain)
}

var errClosed = errors.New("the connection was closed, or the bucket was set back")

// read takes one message.
func (n *notifier) read(ctx context.Context, m bus.Msg, ok, records bool) {
	switch {
	case !ok:
		n.again(errClosed)
	case m.Subject != "":
		n.take(m, records)
	case records:
		n.loaded, n.saidRead = true, ""
		n.log.Info("telling what happens to rollouts", "receivers", len(n.receivers), "after", n.position)
	default:
		reading, cancel := context.WithCancel(ctx)
		before := n.cancel
		n.cancel = func() { before(); cancel() }
		var err error
		n.records, err = bus.Consume(reading, n.js, subjects.Stream, bus.ConsumeOptions{
			Subjects: []string{subjects.KindRollout.Pattern(), subjects.KindAbort.Pattern(), subjects.KindStop.Pattern()}, Logger: n.log,
		})
		if err != nil {
			n.again(err)
		}
	}
}

func (n *notifier) take(m bus.Msg, record bool) {
	e, ok := n.fold.take(m)
	if !record {
		n.stale = true // what it means, tick says
		return
	}
	if m.Sequence <= n.position {
		return
	}
	n.position, n.stale = m.Sequence, true
	if ok {
		n.publish(e, time.Now())
	}
}

// publish queues an event for everybody who wants it.
func (n *notifier) publish(e Event, now time.Time) {
	for _, r := range n.receivers {
		if r.wants(&e) {
			n.enqueue(r, &delivery{e, now.UTC()}, now)
		}
	}
}

func (n *notifier) enqueue(r *receiver, d *delivery, now time.Time) {
	n.dirty, n.saveAt = true, time.Time{}
	if age := now.Sub(d.Event.Time); age > time.Duration(n.o.Config.MaxAge) {
		n.log.Warn("an event is too old to be told", "receiver", r.Name, "event", d.Event.ID, "age", age.Round(time.Second))
		n.count(r, d, expired)
		return
	}
	if dropped := r.add(d); dropped != nil {
		n.log.Error("a receiver's queue is full; its oldest event is dropped", "receiver", r.Name, "event", dropped.Event.ID)
		n.m.dropped.WithLabelValues(string(r.Name)).Inc()
	}
	n.measure(r)
}

// finish takes what came of a delivery.
func (n *notifier) finish(r result) {
	n.count(r.receiver, r.receiver.queue[0], r.outcome)
	r.receiver.done()
	n.measure(r.receiver)
	n.dirty, n.saveAt = true, time.Time{}
}

func (n *notifier) count(r *receiver, d *delivery, o outcome) {
	n.m.notifications.WithLabelValues(string(r.Name), string(d.Event.Kind), string(o)).Inc()
}

func (n *notifier) measure(r *receiver) {
	n.m.queue.WithLabelValues(string(r.Name)).Set(float64(len(r.queue)))
}

// save puts the state on disk. Where that fails nothing else does: a restart might
// then tell some events twice.
func (n *notifier) save(now time.Time) {
	if n.fresh {
		return
	}
	s := state{Position: n.position, Rollouts: n.marks, Queues: make(map[rollout.ID][]*delivery)}
	for _, r := range n.receivers {
		if len(r.queue) > 0 {
			s.Queues[r.Name] = r.queue
		}
	}
	if err := s.save(n.o.Dir); err != nil {
		if said := err.Error(); said != n.saidSave {
			n.saidSave = said
			n.log.Error("the state can't be put on disk; a restart might tell some events twice, or not at all", "err", err)
		}
		n.saveAt = now.Add(saveAgain)
		return
	}
	n.saidSave, n.dirty, n.stale, n.saveAt = "", false, false, now.Add(saveEvery)
}
