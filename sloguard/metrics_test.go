package sloguard

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/tsunami-rollouts/tsunami/broker"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// scrape gathers what a registry shows, by series: tsunami_guard_clear{up}.
func scrape(t *testing.T, from prometheus.Gatherer) (map[string]float64, []*dto.MetricFamily) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			all[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all, families
}

func TestMetrics(t *testing.T) {
	r := newRig(t, broker.Options{Unsynced: true})
	registry := prometheus.NewRegistry()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	o := Options{
		Conn: r.connect(), Registerer: registry, Name: "test", TakeAtOnce: true,
		Heartbeat: testHeartbeat, Renew: 200 * time.Millisecond, Lease: time.Second,
	}
	go func() { done <- Run(ctx, o) }()
	defer cancel()
	hosts := r.hosts("web", 30)
	r.objective("healthy", nil)
	r.rollout("up", nil)
	r.clear("up")

	var all map[string]float64
	var families []*dto.MetricFamily
	shows := func(what string, want map[string]float64) {
		t.Helper()
		r.eventually(what, func() bool {
			all, families = scrape(t, registry)
			for series, v := range want {
				if got, ok := all[series]; !ok || got != v {
					return false
				}
			}
			return true
		})
	}
	shows("a rollout that may go on is shown", map[string]float64{
		"tsunami_guard_leading{}": 1, "tsunami_guard_clear{up}": 1, "tsunami_guard_behind_messages{}": 0, "tsunami_guard_aborts_total{}": 0,
		"tsunami_guard_verdicts_total{harm}": 0, "tsunami_guard_watched_hosts{treated,healthy,up}": 0, "tsunami_guard_watched_hosts{control,healthy,up}": 30,
	})
	if e := all["tsunami_guard_evidence_ratio{healthy,up}"]; e <= 0 || e >= 1 {
		t.Errorf("the evidence stands at %v", e)
	}
	now := float64(time.Now().Unix())
	for _, series := range []string{"tsunami_guard_lease_renewed_timestamp_seconds{}", "tsunami_guard_caught_up_timestamp_seconds{}"} {
		if all[series] < now-10 {
			t.Errorf("%s is %v", series, all[series])
		}
	}
	for _, h := range hosts[:5] {
		r.tell("up", h, 2)
		r.fail("up", h, 2)
	}
	r.aborted("up")
	shows("the freeze is shown", map[string]float64{
		"tsunami_guard_clear{up}": 0, "tsunami_guard_aborts_total{}": 1, "tsunami_guard_abort_failures_total{}": 0,
	})
	if e := all["tsunami_guard_evidence_ratio{healthy,up}"]; e < 1 {
		t.Errorf("the evidence that froze it stands at %v", e)
	}
	if n := all["tsunami_guard_failed_hosts{treated,healthy,up}"]; n < 2 {
		t.Errorf("%v treated hosts have failed", n)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}

	r.rollout("up", func(record *rollout.Record) { record.State = rollout.StateCancelled })
	r.eventually("a rollout that has ended isn't shown", func() bool {
		all, _ = scrape(t, registry)
		_, shown := all["tsunami_guard_clear{up}"]
		return !shown
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if all, _ := scrape(t, registry); len(all) > 0 {
		t.Errorf("after its end it shows %v", all)
	}
}
