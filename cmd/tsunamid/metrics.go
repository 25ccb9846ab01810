package main

import (
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
)

// newRegistry makes a registry with what every process shows of itself.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("tsunamid"),
	)
	return r
}

// registerConnection shows the state of a part's connection to the broker.
func registerConnection(r prometheus.Registerer, part string, nc *nats.Conn) {
	labels := prometheus.Labels{"part": part}
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tsunami_broker_connected", ConstLabels: labels,
			Help: "Whether the part's connection to the broker stands (1) or not (0).",
		}, func() float64 {
			if nc.IsConnected() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "tsunami_broker_reconnects_total", ConstLabels: labels,
			Help: "How often the part's connection to the broker was lost and made again.",
		}, func() float64 { return float64(nc.Stats().Reconnects) }),
	)
}

// redacted hides passwords in broker URLs.
func redacted(urls string) string {
	all := strings.Split(urls, ",")
	for i, s := range all {
		if u, err := url.Parse(strings.TrimSpace(s)); err == nil && u.User != nil {
			all[i] = u.Redacted()
		}
	}
	return strings.Join(all, ",")
}
