package sloguard

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
)

// metrics are what the guard shows of itself.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector
	leading    prometheus.Gauge
	behind     prometheus.Gauge
	silent     prometheus.Gauge
	unread     prometheus.Counter
	verdicts   *prometheus.CounterVec
	evidence   *prometheus.GaugeVec
	queries    prometheus.Gauge
	asked      *prometheus.CounterVec
	askTime    prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		registerer: r,
		leading:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_leading", Help: "1 while this guard holds the lease."}),
		behind:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_behind_messages", Help: "Messages of the evidence stream that the guard has yet to fold."}),
		silent:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_silent_hosts", Help: "Hosts that are watched and whose heartbeats have stopped."}),
		unread:     prometheus.NewCounter(prometheus.CounterOpts{Name: "tsunami_guard_unread_total", Help: "Messages of the evidence stream that couldn't be read."}),
		verdicts:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tsunami_guard_verdicts_total", Help: "Rollouts against which the evidence sufficed, by what it says; those folded anew after a start included."}, []string{"kind"}),
		evidence:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tsunami_guard_evidence_ratio", Help: "Evidence against a rollout, as a share of what freezes it, by objective."}, []string{"rollout", "objective"}),
	}
	m.queries = prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_queries", Help: "Objectives that this guard asks Prometheus about."})
	m.asked = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tsunami_guard_looks_total", Help: "Looks at what Prometheus says, by what they came to."}, []string{"outcome"})
	m.askTime = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tsunami_guard_look_duration_seconds", Help: "How long Prometheus took to answer.", Buckets: []float64{.005, .02, .1, .5, 2, 10}})
	m.all = []prometheus.Collector{m.leading, m.behind, m.silent, m.unread, m.verdicts, m.evidence, m.queries, m.asked, m.askTime}
	r.MustRegister(m.all...)
	return m
}

func (m *metrics) unregister() {
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

// show shows the evidence against one rollout.
func (m *metrics) show(id rollout.ID, standings []slo.Standing) {
	for _, s := range standings {
		if s.Bar == 0 { // nothing is weighed
			continue
		}
		m.evidence.WithLabelValues(string(id), string(s.Objective)).Set(s.E / s.Bar)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
