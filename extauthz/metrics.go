package extauthz

import "github.com/prometheus/client_golang/prometheus"

// metrics hold their series ready, so that counting on the hot path looks nothing up.
type metrics struct {
	allowed, anonymous, refused, unavailable prometheus.Counter
	keySuccess, keyFailure                   prometheus.Counter
	keyHit, keyMiss                          prometheus.Counter
	linked                                   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"outcome"})
		reg.MustRegister(vec)
		return vec
	}
	checks := counter("gateway_authorization_total", "Requests that Envoy asked about.")
	validations := counter("gateway_api_key_validation_total", "API keys checked; cached ones count as success.")
	cached := counter("gateway_api_key_cache_total", "API keys found in the cache or not.")
	linked := prometheus.NewGauge(prometheus.GaugeOpts{Name: "gateway_revocation_link", Help: "1 while revocations can arrive by NATS."})
	reg.MustRegister(linked)
	return &metrics{
		allowed: checks.WithLabelValues("allowed"), anonymous: checks.WithLabelValues("anonymous"),
		refused: checks.WithLabelValues("refused"), unavailable: checks.WithLabelValues("unavailable"),
		keySuccess: validations.WithLabelValues("success"), keyFailure: validations.WithLabelValues("failure"),
		keyHit: cached.WithLabelValues("hit"), keyMiss: cached.WithLabelValues("miss"),
		linked: linked,
	}
}
