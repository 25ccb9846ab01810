package scheduler

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/bus"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// metrics are what the scheduler shows of itself and, while it leads, of the
// fleet. What it counts it counts as it goes. How things stand is asked of its
// one goroutine when somebody scrapes: it costs nothing while nobody does, and a
// scrape sees one moment, never half of it.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector
	steps      *prometheus.CounterVec
	duration   prometheus.Histogram
	decisions  prometheus.Histogram
	tells      *prometheus.CounterVec

	scrapes chan chan<- []prometheus.Metric // to the goroutine; each is answered once
	last    atomic.Pointer[[]prometheus.Metric]
}

// scrapeTime bounds how long a scrape waits for the goroutine, which may be busy
// with a broker that doesn't answer. It then sees what the one before saw: that
// the lease grows old in it says so.
const scrapeTime = 3 * time.Second

// The outcomes of a batch.
const (
	stepCommitted = "committed"
	stepRenewed   = "renewed" // the lease alone was renewed
	stepRefused   = "refused"
	stepLost      = "lost"
	stepFailed    = "failed"
)

func newMetrics(r prometheus.Registerer) *metrics {
	buckets := prometheus.ExponentialBuckets(0.001, 2, 14)
	m := &metrics{
		registerer: r,
		scrapes:    make(chan chan<- []prometheus.Metric),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tsunami_scheduler_steps_total",
			Help: "Batches sent to the broker, by outcome: committed, renewed (the lease alone), refused (somebody wrote in between), lost (the answer was), failed.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tsunami_scheduler_step_duration_seconds", Help: "Time until the broker had answered a batch.", Buckets: buckets,
		}),
		decisions: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tsunami_scheduler_decision_duration_seconds", Help: "Time that it took to decide what is to be told next.", Buckets: buckets,
		}),
		tells: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tsunami_scheduler_tells_total", Help: "Changes that this scheduler told hosts of, by reason.",
		}, []string{"reason"}),
	}
	// A series that appears with its first event hides that event from rate().
	for _, outcome := range []string{stepCommitted, stepRenewed, stepRefused, stepLost, stepFailed} {
		m.steps.WithLabelValues(outcome)
	}
	for _, c := range []rollout.Code{
		rollout.ByRamp, rollout.ByCatchUp, rollout.ByLayer, rollout.ByFirst, rollout.ByAdoption,
		rollout.ByRestore, rollout.ByCanary, rollout.ByPin, rollout.ByRollback,
	} {
		m.tells.WithLabelValues(string(c))
	}
	m.all = []prometheus.Collector{m.steps, m.duration, m.decisions, m.tells, m}
	r.MustRegister(m.all...)
	return m
}

func (m *metrics) unregister() {
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

// Describe is of prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range shown {
		to <- d.desc
	}
}

// Collect is of prometheus.Collector: a scrape's goroutine calls it.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, metric := range m.ask() {
		to <- metric
	}
}

// ask has the goroutine look, or returns what it saw last.
func (m *metrics) ask() []prometheus.Metric {
	answer := make(chan []prometheus.Metric, 1)
	bound, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	select {
	case m.scrapes <- answer:
	case <-bound.Done():
	}
	select {
	case all := <-answer:
		m.last.Store(&all)
		return all
	case <-bound.Done():
	}
	if last := m.last.Load(); last != nil {
		return *last
	}
	return nil
}

func (m *metrics) step(messages int, took time.Duration, err error) {
	m.duration.Observe(took.Seconds())
	outcome := stepCommitted
	switch {
	case err == nil && messages == 0:
		outcome = stepRenewed
	case err == nil:
	case errors.Is(err, bus.ErrRefused), errors.Is(err, bus.ErrInFlight):
		outcome = stepRefused
	case errors.Is(err, bus.ErrUnknown):
		outcome = stepLost
	default:
		outcome = stepFailed
	}
	m.steps.WithLabelValues(outcome).Inc()
}
