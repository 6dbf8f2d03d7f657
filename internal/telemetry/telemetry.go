// Package telemetry makes the logger and the metrics registry of a service.
package telemetry

import (
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Logger writes JSON lines with the service's name, of a level that may change. Secrets never reach
// it: callers log ids and hashes, not credentials.
func Logger(w io.Writer, service string, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})).With(slog.String("application", service))
}

// Registry is a fresh metrics registry with the Go runtime's series. Every series
// carries application=<service>.
func Registry(service string) (*prometheus.Registry, prometheus.Registerer) {
	r := prometheus.NewRegistry()
	labelled := prometheus.WrapRegistererWith(prometheus.Labels{"application": service}, r)
	labelled.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r, labelled
}
