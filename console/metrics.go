package console

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// requestMetrics counts and times requests by handler: few series, whatever
// clients ask for.
type requestMetrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newRequestMetrics(reg prometheus.Registerer) *requestMetrics {
	f := promauto.With(reg)
	return &requestMetrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "tsunami_http_requests_total",
			Help: "HTTP requests answered, by handler and status code.",
		}, []string{"handler", "code"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tsunami_http_request_duration_seconds",
			Help:    "Time to answer an HTTP request, by handler.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
		}, []string{"handler"}),
	}
}

func (m *requestMetrics) instrument(name string, next http.Handler) http.Handler {
	label := prometheus.Labels{"handler": name}
	return promhttp.InstrumentHandlerCounter(m.requests.MustCurryWith(label),
		promhttp.InstrumentHandlerDuration(m.duration.MustCurryWith(label), next))
}

// metricsHandler serves what is gathered. One broken collector doesn't hide
// the others.
func metricsHandler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
		Timeout:             writeTimeout - 5*time.Second,
		EnableOpenMetrics:   true,
	})
}
