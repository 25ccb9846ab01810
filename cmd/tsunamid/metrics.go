package main

import (
	"crypto/tls"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"

	"github.com/tsunami-rollouts/tsunami/broker"
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

// registerStore shows how full the embedded broker's store is.
func registerStore(r prometheus.Registerer, b *broker.Broker) {
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tsunami_broker_store_bytes", Help: "What the embedded broker's streams take on its disk.",
		}, func() float64 {
			used, _ := b.Store()
			return float64(used)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tsunami_broker_store_limit_bytes", Help: "What the embedded broker's streams may take on its disk; 0 while it can't write.",
		}, func() float64 {
			_, limit := b.Store()
			return float64(limit)
		}),
	)
}

// registerCertificate shows until when the server's certificate is good: the one
// that is served now, which its files may have replaced since the start.
func registerCertificate(r prometheus.Registerer, c *tls.Config) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tsunami_tls_certificate_expiry_timestamp_seconds", Help: "When the certificate that tsunamid serves with expires; 0 where it can't be read.",
	}, func() float64 {
		served, err := c.GetCertificate(nil)
		if err != nil || served.Leaf == nil {
			return 0
		}
		return float64(served.Leaf.NotAfter.Unix())
	}))
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
