package identity

import (
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// metrics are the contract's auth_* series, every one with the same label set.
type metrics struct {
	register  outcomes
	login     outcomes
	refresh   outcomes
	keyCreate outcomes
	keyCheck  *prometheus.CounterVec
}

// outcomes is one counter by outcome and reason.
type outcomes struct{ vec *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, reasons ...string) *prometheus.CounterVec {
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"outcome", "reason"})
		vec.WithLabelValues("success", "none")
		for _, reason := range reasons {
			vec.WithLabelValues("failure", reason)
		}
		reg.MustRegister(vec)
		return vec
	}
	return &metrics{
		register:  outcomes{counter("auth_register_total", "Registrations.", "invalid", "throttled", "unavailable")},
		login:     outcomes{counter("auth_login_total", "Logins by password.", "invalid", "throttled", "unavailable")},
		refresh:   outcomes{counter("auth_refresh_total", "Refresh tokens presented.", "invalid", "unavailable")},
		keyCreate: outcomes{counter("auth_api_key_create_total", "API keys asked for.", "invalid", "unavailable")},
		keyCheck:  counter("auth_api_key_validate_total", "API keys looked up.", "missing", "invalid", "expired", "revoked", "unavailable"),
	}
}

func (o outcomes) count(err error) {
	shown, ok := errors.AsType[*httpapi.Error](err)
	switch {
	case err == nil:
		o.vec.WithLabelValues("success", "none").Inc()
	case ok && shown.Status == http.StatusTooManyRequests:
		o.vec.WithLabelValues("failure", "throttled").Inc()
	case ok && shown.Status < http.StatusInternalServerError:
		o.vec.WithLabelValues("failure", "invalid").Inc()
	default:
		o.vec.WithLabelValues("failure", "unavailable").Inc()
	}
}

func (m *metrics) validate(outcome, reason string) {
	m.keyCheck.WithLabelValues(outcome, reason).Inc()
}
