package hostagent

import (
	"context"
	"time"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// reporting is the way of the report to the inventory.
type reporting struct {
	reportAt    time.Time // when the report is to be sent
	reportSent  bool      // one is under way
	reportRetry backoff
}

// health is the queue of health events.
type health struct {
	events     []subjects.HealthEvent // the oldest first; the first may be under way
	sequence   uint64                 // of the newest
	eventSent  bool                   // the first is under way
	eventRetry backoff
	overflow   bool
}

const (
	maxEvents     = 256
	firstPutRetry = 500 * time.Millisecond
	maxPutRetry   = 30 * time.Second
)

// sending is the outcome of one publish.
type sending struct {
	event bool // else the report
	err   error
}

// changed asks for a report, soon: what changes in the meantime goes with it.
func (a *agent) changed(now time.Time) {
	if a.started {
		a.reportAt = earliest(a.reportAt, now.Add(coalesce))
	}
}

// report is the full truth about this host.
func (a *agent) report() *rollout.Report {
	r := &rollout.Report{
		Role:       a.Config.Role,
		Labels:     a.Config.Labels,
		Actual:     make(rollout.Document),
		Enact:      a.enactStatuses(),
		Checks:     a.checkStatuses(),
		Generation: a.state.Generation,
		Version:    a.Version,
		Boot:       a.boot,
		Event:      a.sequence,
		Held:       a.held,
	}
	for name, v := range a.variables {
		if w := a.actual(v); v.enactor != nil && !w.IsZero() {
			r.Actual[name] = w
		}
	}
	return r
}

// startReport sends the report if it is due and none is under way. A lost
// connection makes it wait; connecting again sends it.
func (a *agent) startReport(now time.Time) {
	if !a.reportReady() || now.Before(a.reportDueAt()) {
		return
	}
	body, err := encodeReport(a.report())
	if err != nil {
		// Every part of a report encodes; a fault here is the agent's own.
		a.Logger.Error("the report can't be encoded", "host", a.host, "err", err)
		a.reportAt = now.Add(a.jittered(a.Republish))
		return
	}
	a.reportSent = true
	a.reportAt = now.Add(a.jittered(a.Republish))
	a.put(bus.Message{Subject: subjects.HostSubject(a.host), Data: body}, false)
}

// maxReport is well within what the inventory takes: bus.MaxHeader.
const maxReport = 48 << 10

// encodeReport encodes a report, shortening what programs said until it fits.
func encodeReport(r *rollout.Report) ([]byte, error) {
	body, err := subjects.Encode(r)
	for keep := maxError / 4; err == nil && len(body) > maxReport && keep > 0; keep /= 4 {
		for name, e := range r.Enact {
			e.Error = printable(e.Error, keep)
			r.Enact[name] = e
		}
		for id, c := range r.Checks {
			c.Output = printable(c.Output, keep)
			r.Checks[id] = c
		}
		body, err = subjects.Encode(r)
	}
	return body, err
}

func (a *agent) reportReady() bool { return a.started && !a.reportSent && a.nc.IsConnected() }

// reportDueAt is when the report is to be sent, after a failure not at once.
func (a *agent) reportDueAt() time.Time {
	if a.reportAt.Before(a.reportRetry.at) {
		return a.reportRetry.at
	}
	return a.reportAt
}

func (a *agent) reportDue() time.Time {
	if !a.reportReady() {
		return never
	}
	return a.reportDueAt()
}

// event queues a health event.
func (a *agent) event(e subjects.HealthEvent) {
	a.sequence++
	e.Boot, e.Sequence, e.Time = a.boot, a.sequence, time.Now().UTC()
	if len(a.events) >= maxEvents {
		if !a.overflow {
			a.overflow = true
			a.Logger.Warn("health events are dropped: too many wait for the broker", "host", a.host, "waiting", len(a.events))
		}
		oldest := 0
		if a.eventSent {
			oldest = 1
		}
		a.events = append(a.events[:oldest], a.events[oldest+1:]...)
	}
	a.events = append(a.events, e)
}

func (a *agent) startEvent(now time.Time) {
	if !a.eventReady() || !a.eventRetry.ready(now) {
		return
	}
	body, err := subjects.Encode(a.events[0])
	if err != nil {
		a.Logger.Error("a health event can't be encoded", "host", a.host, "err", err)
		a.events = a.events[1:]
		return
	}
	a.eventSent = true
	a.put(bus.Message{Subject: subjects.Health(a.host), Data: body}, true)
}

func (a *agent) eventReady() bool {
	return a.started && len(a.events) > 0 && !a.eventSent && a.nc.IsConnected()
}

func (a *agent) eventDue() time.Time {
	if !a.eventReady() {
		return never
	}
	return a.eventRetry.at
}

// put publishes once, with retries within a bound. Beyond it the report is
// made anew, so that an old one isn't sent for ever.
func (a *agent) put(m bus.Message, event bool) {
	js := a.js
	a.begin(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, putBound)
		defer cancel()
		_, err := bus.Put(ctx, js, m)
		a.sent <- sending{event, err}
	})
}

// delivery takes the outcome of a publish.
func (a *agent) delivery(s sending) {
	now := time.Now()
	retry, what := &a.reportRetry, "report"
	if s.event {
		retry, what = &a.eventRetry, "health event"
		a.eventSent = false
	} else {
		a.reportSent = false
	}
	if s.err != nil {
		if retry.failures == 0 {
			a.Logger.Warn("the broker didn't store what the agent sent; trying on", "host", a.host, "what", what, "err", s.err)
		}
		retry.failed(now, firstPutRetry, maxPutRetry, a.Random)
		if !s.event {
			a.reportAt = now
		}
		return
	}
	*retry = backoff{}
	if s.event {
		a.events = a.events[1:]
		if len(a.events) == 0 {
			a.events, a.overflow = nil, false
		}
	}
}

// delivered says whether nothing waits to be sent.
func (a *agent) delivered() bool {
	return !a.reportSent && len(a.events) == 0 && (!a.started || a.reportAt.After(time.Now().Add(coalesce)))
}
