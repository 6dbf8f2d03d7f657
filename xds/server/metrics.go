package server

import "github.com/prometheus/client_golang/prometheus"

// metrics are what is watched of the delivery.
type metrics struct {
	clients   prometheus.Gauge
	published prometheus.Counter
	answers   *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		clients: prometheus.NewGauge(prometheus.GaugeOpts{Name: "leaky_xds_clients", Help: "Envoys that are connected."}),
		published: prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_xds_snapshots_published_total",
			Help: "Configurations published to all Envoys."}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_xds_answers_total",
			Help: "What Envoys answered to a push: ack, or nack for one that they refuse."},
			[]string{"type", "answer"}),
	}
	if r != nil {
		r.MustRegister(m.clients, m.published, m.answers)
	}
	return m
}
