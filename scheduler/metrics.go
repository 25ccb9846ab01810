package scheduler

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/bus"
)

// metrics are what the scheduler shows of itself.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector
	leading    prometheus.Gauge
	stopped    prometheus.Gauge
	problems   prometheus.Gauge
	steps      *prometheus.CounterVec
	duration   prometheus.Histogram
	tells      *prometheus.CounterVec
	hosts      *prometheus.GaugeVec
	rollouts   *prometheus.GaugeVec
	held       *prometheus.GaugeVec
	pins       prometheus.Gauge
	observed   time.Time
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		registerer: r,
		leading:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_scheduler_leading", Help: "1 while this scheduler holds the lease."}),
		stopped:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_stopped", Help: "1 while the red button is pressed."}),
		problems:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_scheduler_problems", Help: "Problems that a person has to see to; tsunamictl status lists them."}),
		steps:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tsunami_scheduler_steps_total", Help: "Batches sent to the broker, by outcome."}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tsunami_scheduler_step_duration_seconds", Help: "Time until the broker answered a batch.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 13),
		}),
		tells:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tsunami_scheduler_tells_total", Help: "Hosts told something, by reason."}, []string{"reason"}),
		hosts:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tsunami_hosts", Help: "Hosts of the inventory, by presence."}, []string{"presence"}),
		rollouts: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tsunami_rollout_hosts", Help: "Hosts of live rollouts and layers, by what they are counted as."}, []string{"rollout", "count"}),
		held:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tsunami_rollout_held_seconds", Help: "For how long live rollouts have stood still so far, by reason."}, []string{"rollout", "reason"}),
		pins:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_pinned_hosts", Help: "Hosts of which a variable is pinned."}),
	}
	m.all = []prometheus.Collector{m.leading, m.stopped, m.problems, m.steps, m.duration, m.tells, m.hosts, m.rollouts, m.held, m.pins}
	r.MustRegister(m.all...)
	return m
}

func (m *metrics) unregister() {
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

func (m *metrics) step(messages int, took time.Duration, err error) {
	m.duration.Observe(took.Seconds())
	outcome := "committed"
	switch {
	case err == nil && messages == 0:
		outcome = "renewed"
	case err == nil:
	case errors.Is(err, bus.ErrRefused), errors.Is(err, bus.ErrInFlight):
		outcome = "refused"
	case errors.Is(err, bus.ErrUnknown):
		outcome = "lost"
	default:
		outcome = "failed"
	}
	m.steps.WithLabelValues(outcome).Inc()
}

// observe sets the gauges, at most once a second.
func (m *metrics) observe(s *scheduler, now time.Time) {
	if now.Sub(m.observed) < time.Second {
		return
	}
	m.observed = now
	m.leading.Set(number(s.leading))
	m.stopped.Set(number(s.snap.Stopped()))
	m.problems.Set(float64(len(s.problems)))
	for p, n := range s.snap.Presences() {
		m.hosts.WithLabelValues(p.String()).Set(float64(n))
	}
	m.pins.Set(float64(len(s.snap.Pins())))
	m.rollouts.Reset()
	m.held.Reset()
	if !s.leading {
		return // the leader shows them
	}
	for _, id := range s.snap.Rollouts() {
		st, err := s.snap.Status(id, now)
		if err != nil || !st.Layer && !st.Record.State.Live() {
			continue
		}
		for name, n := range map[string]int{
			"target": st.Target, "told": st.Told, "confirmed": st.Confirmed, "failed": st.Failed, "in_flight": st.InFlight, "planned": st.Planned,
		} {
			m.rollouts.WithLabelValues(string(id), name).Set(float64(n))
		}
		for reason, d := range st.Held {
			m.held.WithLabelValues(string(id), string(reason)).Set(d.Seconds())
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
