package oauth

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what was granted and refused.
type metrics struct {
	grants   *prometheus.CounterVec
	refusals *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		grants: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "auth_oauth_grants_total",
			Help: "OAuth2 tokens issued, by grant type."}, []string{"grant"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "auth_oauth_errors_total",
			Help: "OAuth2 requests refused, by endpoint and error code."}, []string{"endpoint", "error"}),
	}
	for _, grant := range grantTypes() {
		m.grants.WithLabelValues(grantLabel(grant))
	}
	if reg != nil {
		reg.MustRegister(m.grants, m.refusals)
	}
	return m
}

// refused counts by the pattern that matched, never by the path itself.
func (m *metrics) refused(r *http.Request, e *protocolError) {
	m.refusals.WithLabelValues(r.Pattern, e.code).Inc()
}

func (m *metrics) granted(grant string) { m.grants.WithLabelValues(grantLabel(grant)).Inc() }

func grantLabel(grant string) string {
	if grant == grantDevice {
		return "device_code"
	}
	return grant
}
