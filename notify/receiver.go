package notify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// maxQueue bounds what waits for one receiver.
const maxQueue = 100

// Between attempts.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// outcome is what came of an event, in a metric's label.
type outcome string

const (
	sent    outcome = "sent"
	failed  outcome = "failed"
	expired outcome = "expired" // too old when it could first be sent
)

// result is what came of one delivery.
type result struct {
	receiver *receiver
	outcome  outcome
}

// sender makes one attempt.
type sender interface {
	send(ctx context.Context, e Event, body []byte, now time.Time) (answer string, err error)
}

// receiver is one of those who are told. All but jobs and what is set at the
// start is the main goroutine's.
type receiver struct {
	*Receiver
	sender   sender
	retryFor time.Duration
	jobs     chan *delivery // at most one is under way
	busy     bool
	queue    []*delivery // the first is under way while busy
}

func newReceiver(r *Receiver) *receiver {
	out := &receiver{Receiver: r, jobs: make(chan *delivery, 1)}
	if w := r.Webhook; w != nil {
		out.sender, out.retryFor = &poster{w, time.Duration(w.Timeout)}, time.Duration(w.RetryFor)
	} else {
		out.sender = &runner{r.Exec, time.Duration(r.Exec.Timeout)}
	}
	return out
}

// add queues an event, and says which event had to go for it, if any.
func (r *receiver) add(d *delivery) (dropped *delivery) {
	if len(r.queue) >= maxQueue {
		oldest := 0
		if r.busy {
			oldest = 1 // the first is on its way
		}
		dropped = r.queue[oldest]
		r.queue = append(r.queue[:oldest:oldest], r.queue[oldest+1:]...)
	}
	r.queue = append(r.queue, d)
	return dropped
}

// next hands the oldest event to the receiver's goroutine, if that is idle.
func (r *receiver) next() {
	if !r.busy && len(r.queue) > 0 {
		r.busy = true
		r.jobs <- r.queue[0]
	}
}

// done takes out the event that was under way.
func (r *receiver) done() {
	r.busy = false
	r.queue = r.queue[1:]
}

// work delivers what it is given until ctx ends. What is under way then has no
// outcome: it is sent after the next start.
func (r *receiver) work(ctx context.Context, o *Options, results chan<- result) {
	begun := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-r.jobs:
			deadline := d.Queued
			if deadline.Before(begun) { // it was queued before a restart
				deadline = begun
			}
			err := r.deliver(ctx, d.Event, deadline.Add(r.retryFor), o)
			if ctx.Err() != nil && err != nil {
				return
			}
			out := sent
			if err != nil {
				out = failed
				o.Logger.Error("a notification is given up", "receiver", r.Name, "event", d.Event.ID, "err", err)
			}
			results <- result{r, out}
		}
	}
}

// deliver tries until the receiver takes the event, refuses it for good, or the
// deadline has passed; at least once.
func (r *receiver) deliver(ctx context.Context, e Event, deadline time.Time, o *Options) error {
	body, err := r.render(e)
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		answer, err := r.sender.send(ctx, e, body, time.Now())
		if err == nil {
			o.Logger.Info("notified", "receiver", r.Name, "event", e.ID, "answer", answer)
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		f, _ := errors.AsType[*failure](err)
		if f != nil && f.final {
			return err
		}
		pause := o.pause(attempt)
		if f != nil {
			pause = max(pause, f.after)
		}
		if time.Now().Add(pause).After(deadline) {
			return fmt.Errorf("attempts: %d, the last: %w", attempt+1, err)
		}
		if attempt == 0 {
			o.Logger.Warn("a notification isn't taken; trying on", "receiver", r.Name, "event", e.ID, "err", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// backoff doubles from firstPause up to maxPause, and takes a random time between
// half of that and all of it: receivers of several fleets don't come back at once.
func backoff(attempt int) time.Duration {
	d := firstPause << min(attempt, 10)
	d = min(d, maxPause)
	return d/2 + rand.N(d/2)
}
