package hostagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tsunami-rollouts/tsunami/slo"
)

// maxExposition bounds what an exporter may answer.
const maxExposition = 16 << 20

// Exporter is a check of a metric, as an exporter on the host shows it or a file
// holds it: node_exporter's textfile collector reads such files.
type Exporter struct {
	// From is the page, such as http://127.0.0.1:9100/metrics, or a file by its
	// absolute path.
	From string `json:"from"`
	// Metric is the name of a counter, a gauge or an untyped metric, or of a
	// histogram's or a summary's _sum or _count.
	Metric string `json:"metric"`
	// Labels are those that a sample has to have; others it may have.
	Labels map[string]string `json:"labels,omitempty"`
	// Success is what holds for every such sample while the host is well.
	Success slo.Condition `json:"success"`
	// Rate judges by how much a sample grows in a second, from one run to the
	// next, rather than by itself. The first run passes.
	Rate bool `json:"rate,omitempty"`
}

// scraped is what the run before has seen, for rates: a value for each sample.
type scraped struct {
	at     time.Time
	values map[string]float64
}

// faults says what is wrong with it.
func (e *Exporter) faults(add func(field, format string, args ...any)) {
	page := strings.HasPrefix(e.From, "http://") || strings.HasPrefix(e.From, "https://")
	if !page && !strings.HasPrefix(e.From, "/") {
		add(".exporter.from", "%q is neither a page nor a file: want one such as http://127.0.0.1:9100/metrics or /var/lib/app/metrics.prom", e.From)
	}
	if !model.UTF8Validation.IsValidMetricName(e.Metric) {
		add(".exporter.metric", "%q isn't the name of a metric", e.Metric)
	}
	if e.Success == "" {
		add(".exporter.success", "is missing: what holds while the host is well, such as \"< 0.05\"")
	} else if err := e.Success.Check(); err != nil {
		add(".exporter.success", "%v", err)
	}
}

// probe judges the metric as it is now. before is the run before, and becomes this
// one.
func (e *Exporter) probe(ctx context.Context, before *scraped, now time.Time) Result {
	families, err := e.read(ctx)
	if err != nil {
		return Result{Err: err}
	}
	samples := e.samples(families)
	if len(samples) == 0 {
		return Result{Err: fmt.Errorf("%s shows no sample of %s", e.From, e.describe())}
	}
	was := *before
	*before = scraped{now, make(map[string]float64, len(samples))}
	var bad []string
	for _, s := range samples {
		before.values[s.labels] = s.value
		value, what := s.value, e.Metric+s.labels+" is"
		if e.Rate {
			old, known := was.values[s.labels]
			if !known || s.value < old { // it was started anew
				continue
			}
			value, what = (s.value-old)/now.Sub(was.at).Seconds(), e.Metric+s.labels+" grows in a second by"
		}
		if math.IsNaN(value) || !e.Success.Holds(value) {
			bad = append(bad, fmt.Sprintf("%s %.6g, want %s", what, value, e.Success))
		}
	}
	if len(bad) > 0 {
		return Result{Err: errors.New(strings.Join(bad[:min(len(bad), 5)], "; "))}
	}
	return Result{}
}

// read reads the exposition: nothing of one that has a fault.
func (e *Exporter) read(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	var in io.ReadCloser
	if strings.HasPrefix(e.From, "/") {
		f, err := os.Open(e.From)
		if err != nil {
			return nil, err
		}
		in = f
	} else {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.From, nil)
		if err != nil {
			return nil, err
		}
		request.Header.Set("User-Agent", "tsunami-agent")
		request.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
		transport := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader}
		defer transport.CloseIdleConnections()
		answer, err := transport.RoundTrip(request) // redirects aren't followed: an exporter has none
		if err != nil {
			return nil, err
		}
		if answer.StatusCode != http.StatusOK {
			answer.Body.Close()
			return nil, fmt.Errorf("%s answers %s", request.URL.Redacted(), answer.Status)
		}
		in = answer.Body
	}
	defer in.Close()
	limited := &io.LimitedReader{R: in, N: maxExposition + 1}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(limited)
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("%s shows more than %d MiB", e.From, maxExposition>>20)
	case err != nil:
		return nil, fmt.Errorf("%s doesn't show metrics: %w", e.From, err)
	}
	return families, nil
}

// exported is one sample of the metric.
type exported struct {
	labels string // as a text, all of them
	value  float64
}

// samples are those that the check is about, in the order of their labels.
func (e *Exporter) samples(families map[string]*dto.MetricFamily) (out []exported) {
	take := func(m *dto.Metric, value float64) {
		has := map[string]string{}
		var text []string
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
			text = append(text, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
		}
		for name, value := range e.Labels {
			if has[name] != value {
				return
			}
		}
		slices.Sort(text)
		labels := ""
		if len(text) > 0 {
			labels = "{" + strings.Join(text, ",") + "}"
		}
		out = append(out, exported{labels, value})
	}
	for _, m := range families[e.Metric].GetMetric() {
		switch {
		case m.Counter != nil:
			take(m, m.Counter.GetValue())
		case m.Gauge != nil:
			take(m, m.Gauge.GetValue())
		case m.Untyped != nil:
			take(m, m.Untyped.GetValue())
		}
	}
	base, sum := strings.CutSuffix(e.Metric, "_sum")
	if !sum {
		base, _ = strings.CutSuffix(e.Metric, "_count")
	}
	if base != e.Metric {
		for _, m := range families[base].GetMetric() {
			switch h, s := m.Histogram, m.Summary; {
			case h != nil && sum:
				take(m, h.GetSampleSum())
			case h != nil:
				take(m, float64(h.GetSampleCount()))
			case s != nil && sum:
				take(m, s.GetSampleSum())
			case s != nil:
				take(m, float64(s.GetSampleCount()))
			}
		}
	}
	slices.SortFunc(out, func(a, b exported) int { return strings.Compare(a.labels, b.labels) })
	return out
}

func (e *Exporter) describe() string {
	var all []string
	for name, value := range e.Labels {
		all = append(all, fmt.Sprintf("%s=%q", name, value))
	}
	slices.Sort(all)
	if len(all) == 0 {
		return e.Metric
	}
	return e.Metric + "{" + strings.Join(all, ",") + "}"
}
