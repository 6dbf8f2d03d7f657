package extauthz

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

// metrics hold their series ready, so that counting on the hot path looks nothing up.
type metrics struct {
	allowed, anonymous, refused, unavailable prometheus.Counter
	keySuccess, keyFailure                   prometheus.Counter
	keyHit, keyMiss                          prometheus.Counter
	linked                                   prometheus.Gauge
	announced                                map[revocation.Kind]prometheus.Counter
	spread                                   prometheus.Histogram
}

// revoked counts an announcement.
func (m *metrics) revoked(kind revocation.Kind) prometheus.Counter { return m.announced[kind] }

func newMetrics(reg prometheus.Registerer, f *freshness, d *denylist) *metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"outcome"})
		reg.MustRegister(vec)
		return vec
	}
	checks := counter("gateway_authorization_total", "Requests that Envoy asked about.")
	validations := counter("gateway_api_key_validation_total", "API keys checked; cached ones count as success.")
	cached := counter("gateway_api_key_cache_total", "API keys found in the cache or not.")
	linked := prometheus.NewGauge(prometheus.GaugeOpts{Name: "gateway_revocation_link",
		Help: "1 while revocations arrive by NATS and none was missed since the link began."})
	spread := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "gateway_revocation_latency_seconds",
		Help:    "From a revocation's announcement by identity to its effect here, by both clocks.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}})
	reg.MustRegister(linked, spread,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gateway_revocation_staleness_seconds",
			Help: "Since every revocation was known; above 5 nothing remembered counts, unless identity is down."}, f.staleness),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gateway_revocations_kept", Help: "Revocations that have not expired."},
			func() float64 { return float64(d.size()) }))
	kinds := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_revocations_total", Help: "Revocations announced by NATS."},
		[]string{"kind"})
	reg.MustRegister(kinds)
	announced := map[revocation.Kind]prometheus.Counter{}
	for _, kind := range revocation.Kinds() {
		announced[kind] = kinds.WithLabelValues(string(kind))
	}
	return &metrics{
		allowed: checks.WithLabelValues("allowed"), anonymous: checks.WithLabelValues("anonymous"),
		refused: checks.WithLabelValues("refused"), unavailable: checks.WithLabelValues("unavailable"),
		keySuccess: validations.WithLabelValues("success"), keyFailure: validations.WithLabelValues("failure"),
		keyHit: cached.WithLabelValues("hit"), keyMiss: cached.WithLabelValues("miss"),
		linked: linked, spread: spread, announced: announced,
	}
}
