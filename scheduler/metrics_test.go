package scheduler

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/tsunami-rollouts/tsunami/control"
	"github.com/tsunami-rollouts/tsunami/rollout"
)

// scrape gathers what a registry shows, by series: tsunami_hosts{online}.
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
			key := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			switch {
			case m.Gauge != nil:
				all[key] = m.GetGauge().GetValue()
			case m.Counter != nil:
				all[key] = m.GetCounter().GetValue()
			case m.Histogram != nil:
				all[key] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return all, families
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	registry := prometheus.NewRegistry()
	r.registerer = registry
	r.schedule()
	r.fleet(12)
	r.start("up", time.Hour)
	r.mustCall(control.RolloutAdvance, control.AdvanceRequest{ID: "up", To: 50}, nil)
	r.until("half are confirmed", func() bool { return r.show("up").Confirmed == 6 })
	r.mustCall(control.RolloutPause, control.RolloutRequest{ID: "up", Why: "a test"}, nil)

	var all map[string]float64
	var families []*dto.MetricFamily
	r.until("the pause is shown", func() bool {
		all, families = scrape(t, registry)
		return all["tsunami_rollout_state{up,paused}"] == 1
	})
	now := float64(time.Now().Unix())
	for series, want := range map[string]float64{
		"tsunami_scheduler_leading{}": 1, "tsunami_stopped{}": 0, "tsunami_scheduler_problems{}": 0,
		"tsunami_hosts{online}": 12, "tsunami_hosts{offline}": 0, "tsunami_pinned_hosts{}": 0,
		"tsunami_variable_drifted_hosts{docker_version}": 0, "tsunami_variable_unenacted_hosts{docker_version}": 0,
		"tsunami_rollouts{paused}": 1, "tsunami_rollouts{running}": 0, "tsunami_rollout_info{up,docker_version}": 1,
		"tsunami_rollout_hold{paused,up}": 1, "tsunami_rollout_target_hosts{up}": 12, "tsunami_rollout_told_hosts{up}": 6,
		"tsunami_rollout_confirmed_hosts{up}": 6, "tsunami_rollout_failed_hosts{up}": 0, "tsunami_rollout_in_flight_hosts{up}": 0,
		"tsunami_rollout_in_flight_limit_hosts{up}": 6, "tsunami_rollout_actual_ratio{up}": 0.5, "tsunami_rollout_planned_ratio{up}": 0.5,
		"tsunami_scheduler_steps_total{failed}": 0, "tsunami_scheduler_tells_total{restored}": 0,
	} {
		if got, ok := all[series]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", series, got, ok, want)
		}
	}
	for series, least := range map[string]float64{
		"tsunami_scheduler_lease_renewed_timestamp_seconds{}": now - 10, "tsunami_rollout_planned_end_timestamp_seconds{up}": now,
		"tsunami_scheduler_steps_total{committed}": 1, "tsunami_scheduler_step_duration_seconds{}": 2,
		"tsunami_scheduler_decision_duration_seconds{}": 1, "tsunami_scheduler_tells_total{ramp}": 1,
	} {
		if got := all[series]; got < least {
			t.Errorf("%s is %v, want at least %v", series, got, least)
		}
	}
	if lag, ok := all["tsunami_audit_lag_seconds{}"]; !ok || lag < 0 || lag > 10 {
		t.Errorf("the audit's lag is %v s (%v)", lag, ok)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	// The number of series doesn't depend on that of hosts.
	known := []string{"rollout", "variable", "state", "reason", "presence", "outcome"}
	for _, f := range families {
		if !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("%s: its help isn't a sentence: %q", f.GetName(), f.GetHelp())
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains(known, l.GetName()) {
					t.Errorf("%s has a label %s", f.GetName(), l.GetName())
				}
			}
		}
	}
	r.stop()
	if all, _ := scrape(t, registry); len(all) > 0 {
		t.Errorf("after its end it shows %v", slices.Sorted(maps.Keys(all)))
	}
}

// What has ended is shown for an hour, and of very many rollouts those that
// haven't.
func TestEndedRolloutsAreNoLongerShown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.schedule()
	r.fleet(3)
	r.start("up", time.Hour)
	r.mustCall(control.RolloutCancel, control.RolloutRequest{ID: "up", Why: "a test"}, nil)
	r.start("live", time.Hour)
	r.stop()
	s := r.lead(nil)
	shows := func(at time.Time, id rollout.ID) bool {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(fixed(s.rollouts(at)))
		all, _ := scrape(t, registry)
		for series := range all {
			if strings.Contains(series, "{"+string(id)) {
				return true
			}
		}
		return false
	}
	now := time.Now()
	for _, tt := range []struct {
		after    time.Duration
		up, live bool
	}{{0, true, true}, {keepEnded - time.Minute, true, true}, {keepEnded + time.Minute, false, true}, {24 * time.Hour, false, true}} {
		if up, live := shows(now.Add(tt.after), "up"), shows(now.Add(tt.after), "live"); up != tt.up || live != tt.live {
			t.Errorf("after %s: the cancelled one %v, the live one %v, want %v, %v", tt.after, up, live, tt.up, tt.live)
		}
	}
}

// fixed is a collector of what it is.
type fixed []prometheus.Metric

func (fixed) Describe(chan<- *prometheus.Desc) {}
func (f fixed) Collect(to chan<- prometheus.Metric) {
	for _, m := range f {
		to <- m
	}
}

// A scrape of a scheduler that is busy sees what the one before saw.
func TestScrapeOfABusyScheduler(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.lead(reports(2))
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.m)
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		s.show(t.Context(), <-s.m.scrapes)
	}()
	first, _ := scrape(t, registry)
	<-serving
	start := time.Now()
	second, _ := scrape(t, registry)
	if took := time.Since(start); took < scrapeTime || took > 2*scrapeTime {
		t.Errorf("it waited for %s", took)
	}
	if len(first) == 0 || !maps.Equal(first, second) {
		t.Errorf("%d series, then %d", len(first), len(second))
	}
}

// What a scrape costs the scheduler's goroutine, with a fleet of 10,000.
func BenchmarkShow(b *testing.B) {
	s := &scheduler{snap: rollout.NewSnapshot(time.Minute), leading: true, m: newMetrics(prometheus.NewRegistry())}
	variables := []rollout.Name{"docker_version", "kernel_version", "helios_version", "agent_version"}
	for _, v := range variables {
		s.snap.PutVariable(v, &rollout.Variable{Name: v, Type: rollout.String})
	}
	report := reports(10_000)
	for h := range report {
		s.snap.PutReport(h, &rollout.Report{Role: "web", Actual: rollout.Document{}})
	}
	to := make(chan []prometheus.Metric, 1)
	for b.Loop() {
		s.view.until = time.Time{}
		s.show(b.Context(), to)
		<-to
	}
}
