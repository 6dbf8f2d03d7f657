package saga

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	started, completed, failed *prometheus.CounterVec
	parked, open, oldest       prometheus.Gauge
	seconds                    prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer, providers []string) metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"provider"})
		for _, provider := range providers {
			c.WithLabelValues(provider)
		}
		registry.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		registry.MustRegister(g)
		return g
	}
	m := metrics{
		started:   counter("token_purchase_saga_started_total", "Purchases taken."),
		completed: counter("token_purchase_saga_completed_total", "Purchases paid and credited."),
		failed:    counter("token_purchase_saga_failed_total", "Purchases that were undone."),
		parked:    gauge("token_purchase_saga_parked", "Purchases that wait for a person, in all replicas."),
		open:      gauge("token_purchase_saga_open", "Purchases under way, in all replicas."),
		oldest:    gauge("token_purchase_saga_oldest_seconds", "Age of the oldest purchase under way; 0 without one."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "token_purchase_saga_seconds", Help: "From the order to its end.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 5, 30, 300}}),
	}
	registry.MustRegister(m.seconds)
	return m
}
