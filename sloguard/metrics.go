package sloguard

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tsunami-rollouts/tsunami/rollout"
	"github.com/tsunami-rollouts/tsunami/slo"
	"github.com/tsunami-rollouts/tsunami/subjects"
)

// metrics are what the guard shows of itself and, while it holds the lease, of
// the evidence as it last spoke of it.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector
	leading    prometheus.Gauge
	renewed    prometheus.Gauge
	caught     prometheus.Gauge
	behind     prometheus.Gauge
	silent     prometheus.Gauge
	unread     prometheus.Counter
	verdicts   *prometheus.CounterVec
	aborts     prometheus.Counter
	failures   prometheus.Counter
	queries    prometheus.Gauge
	asked      *prometheus.CounterVec
	askTime    prometheus.Histogram

	// A scrape takes all of what was said last, never half of it.
	said atomic.Pointer[[]prometheus.Metric]
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		registerer: r,
		leading:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_leading", Help: "Whether this guard holds the lease (1) or waits for it (0)."}),
		renewed:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_lease_renewed_timestamp_seconds", Help: "When this guard last renewed the lease, or saw another renew it."}),
		caught:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_caught_up_timestamp_seconds", Help: "The time as of which the guard has folded all evidence."}),
		behind:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_behind_messages", Help: "Messages of the evidence stream that the guard has yet to fold."}),
		silent:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_silent_hosts", Help: "Hosts that are watched and whose heartbeats have stopped."}),
		unread:     prometheus.NewCounter(prometheus.CounterOpts{Name: "tsunami_guard_unread_total", Help: "Messages of the evidence stream that couldn't be read, and changed nothing."}),
		verdicts:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tsunami_guard_verdicts_total", Help: "Rollouts against which the evidence sufficed, by what it says: harm, the breach of a budget, or more failures than a limit allows. Those folded anew after a start are counted again."}, []string{"kind"}),
		aborts:     prometheus.NewCounter(prometheus.CounterOpts{Name: "tsunami_guard_aborts_total", Help: "Verdicts whose abort is in the bucket, put by this guard or found there."}),
		failures:   prometheus.NewCounter(prometheus.CounterOpts{Name: "tsunami_guard_abort_failures_total", Help: "Attempts to put an abort that the broker didn't acknowledge. Each is tried again."}),
		queries:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "tsunami_guard_queries", Help: "Objectives that this guard asks Prometheus about."}),
		asked:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tsunami_guard_looks_total", Help: "Looks at what Prometheus says, by what they came to: success, failure, inconclusive, error."}, []string{"outcome"}),
		askTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tsunami_guard_look_duration_seconds", Help: "Time until Prometheus had answered a look.", Buckets: []float64{.005, .02, .1, .5, 2, 10},
		}),
	}
	// A series that appears with its first event hides that event from rate().
	for _, k := range []slo.Kind{slo.Harm, slo.Breach, slo.Limit} {
		m.verdicts.WithLabelValues(string(k))
	}
	for _, o := range []slo.Outcome{slo.Success, slo.Failing, slo.Inconclusive, slo.Errored} {
		m.asked.WithLabelValues(string(o))
	}
	m.all = []prometheus.Collector{m.leading, m.renewed, m.caught, m.behind, m.silent, m.unread, m.verdicts, m.aborts, m.failures, m.queries, m.asked, m.askTime, m}
	r.MustRegister(m.all...)
	return m
}

func (m *metrics) unregister() {
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}

// What the guard that holds the lease shows of each rollout that it watches. The
// number of series depends on rollouts and objectives, never on hosts.
var (
	clearDesc    = prometheus.NewDesc("tsunami_guard_clear", "Whether the evidence on a rollout is fresh and lets it go on (1) or not (0).", []string{"rollout"}, nil)
	evidenceDesc = prometheus.NewDesc("tsunami_guard_evidence_ratio", "The evidence against a rollout, as a share of what freezes it, by objective. The objectives' shares add up, and at 1 they freeze it.", []string{"rollout", "objective"}, nil)
	watchedDesc  = prometheus.NewDesc("tsunami_guard_watched_hosts", "Hosts of a rollout that are watched, by objective and group: treated were told, control weren't yet.", []string{"rollout", "objective", "group"}, nil)
	failedDesc   = prometheus.NewDesc("tsunami_guard_failed_hosts", "Those among the watched hosts that have failed the objective.", []string{"rollout", "objective", "group"}, nil)
	unseenDesc   = prometheus.NewDesc("tsunami_guard_unwatched_hosts", "Hosts of a rollout that aren't watched, for they were never seen to pass the objective's check.", []string{"rollout", "objective"}, nil)
)

// Describe is of prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{clearDesc, evidenceDesc, watchedDesc, failedDesc, unseenDesc} {
		to <- d
	}
}

// Collect is of prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	said := m.said.Load()
	if said == nil {
		return
	}
	for _, metric := range *said {
		to <- metric
	}
}

// lease shows whether the guard holds it. One that doesn't says nothing of
// rollouts: another does.
func (m *metrics) lease(leading bool, renewed time.Time) {
	m.leading.Set(number(leading))
	m.renewed.Set(seconds(renewed))
	if !leading {
		m.said.Store(nil)
	}
}

// show shows what is said of all rollouts, and as of when.
func (m *metrics) show(rollouts map[rollout.ID]*subjects.Clearance, caught time.Time) {
	if !caught.IsZero() {
		m.caught.Set(seconds(caught))
	}
	var all []prometheus.Metric
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	for id, c := range rollouts {
		gauge(clearDesc, number(c.Why == ""), string(id))
		for _, s := range c.Standings {
			of := []string{string(id), string(s.Objective)}
			treated, control := append(of[:2:2], "treated"), append(of[:2:2], "control")
			if s.Bar > 0 { // else nothing is weighed
				gauge(evidenceDesc, s.E/s.Bar, of...)
			}
			gauge(watchedDesc, float64(s.Treated), treated...)
			gauge(watchedDesc, float64(s.Control), control...)
			gauge(failedDesc, float64(s.TreatedFailed), treated...)
			gauge(failedDesc, float64(s.ControlFailed), control...)
			gauge(unseenDesc, float64(s.Unwatched), of...)
		}
	}
	m.said.Store(&all)
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
