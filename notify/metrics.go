package notify

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics have a few series a receiver, whatever happens.
type metrics struct {
	registerer    prometheus.Registerer
	notifications *prometheus.CounterVec
	dropped       *prometheus.CounterVec
	queue         *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		registerer: r,
		notifications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tsunami_notifications_total",
			Help: "Notifications that came to an end, by receiver, event and outcome: sent, failed, or expired before they could be sent.",
		}, []string{"receiver", "event", "outcome"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tsunami_notifications_dropped_total",
			Help: "Notifications that fell out of a receiver's full queue.",
		}, []string{"receiver"}),
		queue: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tsunami_notification_queue_length",
			Help: "Notifications that wait for a receiver, the one under way included.",
		}, []string{"receiver"}),
	}
	r.MustRegister(m.notifications, m.dropped, m.queue)
	return m
}

func (m *metrics) unregister() {
	m.registerer.Unregister(m.notifications)
	m.registerer.Unregister(m.dropped)
	m.registerer.Unregister(m.queue)
}
