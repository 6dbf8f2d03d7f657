package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/openapi"
)

// HeaderCorrelation names a call across services, logs and events.
const HeaderCorrelation = "X-Correlation-Id"

var correlation = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// Common is what every service wraps around its own routes.
type Common struct {
	Name    string                      // service name, e.g. "identity"
	Log     *slog.Logger                //
	Metrics *prometheus.Registry        // served at /metrics
	Ready   func(context.Context) error // nil error: ready to serve; may be nil
	Warn    func() error                // what a person should look at though it serves; may be nil
	Info    func() map[string]any       // more members of /actuator/info; may be nil
}

// Wrap adds health, readiness, info and metrics paths (with the predecessor's
// actuator aliases), the API's document with its page, correlation ids and security headers to the service's routes.
func (c Common) Wrap(routes http.Handler) http.Handler {
	mux := c.routes()
	mux.Handle("/", c.unmatched(routes))
	return c.headers(c.observed(&mux.ServeMux))
}

// routes are what every service serves beside its own.
func (c Common) routes() *Mux {
	mux := &Mux{}
	up := func(w http.ResponseWriter, _ *http.Request) {
		WriteJSON(w, http.StatusOK, map[string]string{"status": "UP"})
	}
	ready := func(w http.ResponseWriter, r *http.Request) {
		if c.Ready != nil {
			if err := c.Ready(r.Context()); err != nil {
				WriteJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "DOWN", "reason": err.Error()})
				return
			}
		}
		if c.Warn != nil {
			if err := c.Warn(); err != nil {
				WriteJSON(w, http.StatusOK, map[string]string{"status": "UP", "warning": err.Error()})
				return
			}
		}
		up(w, r)
	}
	for path, h := range map[string]http.HandlerFunc{
		"/healthz": up, "/actuator/health/liveness": up,
		"/readyz": ready, "/actuator/health": ready, "/actuator/health/readiness": ready,
		"/actuator/info": func(w http.ResponseWriter, _ *http.Request) {
			info := map[string]any{}
			if c.Info != nil {
				info = c.Info()
			}
			info["app"] = map[string]string{"name": c.Name, "group": "leaky-tokens"}
			WriteJSON(w, http.StatusOK, info)
		},
	} {
		mux.HandleFunc("GET "+path, h)
	}
	metrics := promhttp.HandlerFor(c.Metrics, promhttp.HandlerOpts{})
	mux.Handle("GET /metrics", metrics)
	mux.Handle("GET /actuator/prometheus", metrics)
	for pattern, h := range openapi.Routes() {
		mux.Handle(pattern, h)
	}
	return mux
}

// Elsewhere answers for paths that are served at another address.
func Elsewhere(log *slog.Logger, where string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		WriteError(w, r, log, Fail(http.StatusNotFound, "%s", where))
	})
}

// unmatched turns the ServeMux's plain-text 404 and 405 into problems.
func (c Common) unmatched(routes http.Handler) http.Handler {
	mux, ok := routes.(interface {
		http.Handler
		Handler(r *http.Request) (h http.Handler, pattern string)
	})
	if !ok {
		return routes
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := probe{header: http.Header{}}
		mux.ServeHTTP(&probe, r)
		err := Fail(http.StatusNotFound, "no such path")
		if probe.status == http.StatusMethodNotAllowed {
			err = Fail(probe.status, "method %s is not allowed here", r.Method)
			err.Header = http.Header{"Allow": probe.header["Allow"]}
		}
		if m, ok := routes.(*Mux); ok && m.Unmatched != nil && m.Unmatched(w, r, err) {
			return
		}
		WriteError(w, r, c.Log, err)
	})
}

// probe remembers the status and headers of an answer and drops its body.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
func (p *probe) WriteHeader(status int)      { p.status = status }

func (c Common) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(HeaderCorrelation)
		if !correlation.MatchString(id) {
			id = uuid.NewString()
			r.Header.Set(HeaderCorrelation, id)
		}
		h := w.Header()
		h.Set(HeaderCorrelation, id)
		for name, value := range SecurityHeaders() {
			h.Set(name, value)
		}
		next.ServeHTTP(w, r)
	})
}

// SecurityHeaders go on every response, whoever makes it.
func SecurityHeaders() map[string]string {
	return map[string]string{
		"X-Content-Type-Options":    "nosniff",
		"X-Frame-Options":           "DENY",
		"Referrer-Policy":           "no-referrer",
		"Permissions-Policy":        "geolocation=(), microphone=(), camera=()",
		"Strict-Transport-Security": "max-age=31536000; includeSubDomains",
	}
}

// Serve answers on the listener until ctx ends, then drains for at most ten seconds.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10}
	var stopping atomic.Bool
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stopping.Store(true)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		done <- srv.Shutdown(grace)
	}()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) || !stopping.Load() {
		return fmt.Errorf("serve http on %s: %w", ln.Addr(), err)
	}
	return <-done
}
