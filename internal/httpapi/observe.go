package httpapi

import (
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// observed counts requests by method, route, status and duration, under the name that
// the predecessor's dashboards and alerts ask for, and turns a panic into a 500.
func (c Common) observed(next *http.ServeMux) http.Handler {
	seconds := c.histogram()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen, began := &observer{ResponseWriter: w}, time.Now()
		defer func() {
			exception := "none"
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // recover gives the value itself
					panic(p)
				}
				exception = "panic"
				c.Log.LogAttrs(r.Context(), slog.LevelError, "handler panicked", slog.String("path", r.URL.Path), slog.Any("panic", p),
					slog.String("stack", string(debug.Stack())))
				if seen.status == 0 {
					WriteError(seen, r, c.Log, Fail(http.StatusInternalServerError, "internal error"))
				}
			}
			if operational(r.Pattern) {
				return
			}
			status := seen.status
			if status == 0 {
				status = http.StatusOK
			}
			seconds.WithLabelValues(method(r.Method), template(r.Pattern), strconv.Itoa(status), outcome(status),
				exception).Observe(time.Since(began).Seconds())
		}()
		next.ServeHTTP(seen, r)
	})
}

func (c Common) histogram() *prometheus.HistogramVec {
	vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "http_server_requests_seconds", Help: "Requests served.",
		Buckets: []float64{.005, .01, .025, .05, .1, .2, .5, 1, 5}}, []string{"method", "uri", "status", "outcome", "exception"})
	err := prometheus.WrapRegistererWith(prometheus.Labels{"application": c.Name}, c.Metrics).Register(vec)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if there, ok := already.ExistingCollector.(*prometheus.HistogramVec); ok {
			return there
		}
	}
	return vec
}

// observer remembers the status of an answer.
type observer struct {
	http.ResponseWriter
	status int
}

func (o *observer) WriteHeader(status int) {
	if o.status == 0 && status >= http.StatusOK {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *observer) Write(b []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	return o.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach Flush and the deadlines.
func (o *observer) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// Flush keeps handlers that ask for an http.Flusher working.
func (o *observer) Flush() { _ = http.NewResponseController(o.ResponseWriter).Flush() }

// method bounds what a client can put into a label.
func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "OTHER"
}

// template is the path of the pattern that matched, never the path itself.
func template(pattern string) string {
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	if pattern == "" || pattern == "/" {
		return "UNKNOWN"
	}
	return pattern
}

// operational paths are asked by probes and scrapes; a replica that is not ready yet
// would look like one that fails.
func operational(pattern string) bool {
	path := template(pattern)
	return path == "/healthz" || path == "/readyz" || path == "/metrics" || strings.HasPrefix(path, "/actuator/")
}

func outcome(status int) string {
	switch status / 100 {
	case 1:
		return "INFORMATIONAL"
	case 2:
		return "SUCCESS"
	case 3:
		return "REDIRECTION"
	case 4:
		return "CLIENT_ERROR"
	}
	return "SERVER_ERROR"
}
