// Package analytics is after the request's way: it takes usage events from JetStream
// into ClickHouse, each exactly once, and answers who used what from exact SQL.
package analytics

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Audience is what signed identities for this service name.
const Audience = topology.Analytics

// HeaderPending tells on an export how many events were not stored yet when it began.
const HeaderPending = "X-Leaky-Pending-Events"

// Config is what New needs.
type Config struct {
	Store     *Store
	Lag       Lag
	Members   Members
	Verifier  *principal.Verifier
	KeysReady func() error    // not nil while identities cannot be checked; may be nil
	Providers func() []string // names, lower-case and sorted, as they are now
	Metrics   *Metrics
	Log       *slog.Logger
}

// API answers the analytics routes.
type API struct {
	cfg  Config
	said *retry.Troubles
}

// New makes the API.
func New(cfg Config) (*API, error) {
	if cfg.Store == nil || cfg.Lag == nil || cfg.Members == nil || cfg.Verifier == nil || cfg.Metrics == nil || cfg.Log == nil {
		return nil, errors.New("make analytics api: Store, Lag, Members, Verifier, Metrics and Log are needed")
	}
	return &API{cfg: cfg, said: retry.NewTroubles(cfg.Log)}, nil
}

// Routes are the service's own; httpapi.Common wraps them.
func (a *API) Routes() *httpapi.Mux {
	mux := &httpapi.Mux{}
	mux.Handle("GET /api/v1/analytics/health", httpapi.Handle(a.cfg.Log, func(w http.ResponseWriter, _ *http.Request) error {
		httpapi.WriteJSON(w, http.StatusOK, struct {
			Service   string    `json:"service"`
			Status    string    `json:"status"`
			Timestamp time.Time `json:"timestamp"`
		}{"analytics-service", "ok", time.Now().UTC()})
		return nil
	}))
	m := a.cfg.Metrics
	for path, route := range map[string]struct {
		handle caller
		count  *prometheus.CounterVec
	}{
		"/api/v1/analytics/usage":      {a.usage, m.usageQueries},
		"/api/v1/analytics/report":     {a.report, m.reportQueries},
		"/api/v1/analytics/anomalies":  {a.anomalies, m.anomalyQueries},
		"/api/v1/analytics/export":     {a.export, m.exportQueries},
		"/api/v1/analytics/trends":     {a.trends, m.trendQueries},
		"/api/v1/analytics/purchases":  {a.purchases, m.purchaseQueries},
		"/api/v1/analytics/providers":  {a.byProvider, m.groupQueries},
		"/api/v1/analytics/users/{id}": {a.ofUser, m.groupQueries},
		"/api/v1/me/usage":             {a.ofCaller, m.groupQueries},
	} {
		mux.Handle("GET "+path, a.cfg.Verifier.Middleware(a.refuse, a.guard(route.handle, route.count)))
	}
	return mux
}

// Ready is nil once events can be read and callers told apart.
func (a *API) Ready(context.Context) error {
	if !a.cfg.Store.Ready() {
		return errNotReady
	}
	if a.cfg.KeysReady != nil {
		return a.cfg.KeysReady()
	}
	return nil
}

// caller is a handler that knows who calls.
type caller func(w http.ResponseWriter, r *http.Request, who reader) error

func (a *API) refuse(w http.ResponseWriter, r *http.Request) {
	if a.cfg.KeysReady != nil && a.cfg.KeysReady() != nil {
		httpapi.WriteError(w, r, a.cfg.Log, httpapi.Unavailable("identities cannot be checked now"))
		return
	}
	httpapi.WriteError(w, r, a.cfg.Log, httpapi.Fail(http.StatusUnauthorized, "authentication is required"))
}

// guard asks for the role, counts the outcome, and makes a store that is away a 503.
func (a *API) guard(h caller, count *prometheus.CounterVec) http.Handler {
	return httpapi.Handle(a.cfg.Log, func(w http.ResponseWriter, r *http.Request) error {
		outcome := outcomeFailure
		defer func() { count.WithLabelValues(a.label(r), outcome).Inc() }() // also when an export is cut
		err := a.call(h, w, r)
		if err == nil {
			outcome = outcomeSuccess
		}
		return err
	})
}

func (a *API) call(h caller, w http.ResponseWriter, r *http.Request) error {
	who, _ := principal.From(r.Context())
	if !who.Is(principal.RoleUser) && !who.Is(principal.RoleAdmin) {
		return httpapi.Fail(http.StatusForbidden, "role USER is required")
	}
	err := h(w, r, reader{who, a.cfg.Members, a.cfg.Providers()})
	if err == nil {
		return nil
	}
	_, forCaller := errors.AsType[*httpapi.Error](err)
	_, fromEngine := errors.AsType[*clickhouse.Exception](err)
	if forCaller || fromEngine || r.Context().Err() != nil {
		return err
	}
	a.said.Warn(r.Context(), "event store did not answer", err, slog.String("path", r.URL.Path))
	return httpapi.Unavailable("the event store is not available")
}

// label is the provider for metrics: from the known list, else "unknown".
func (a *API) label(r *http.Request) string {
	values, _ := url.ParseQuery(r.URL.RawQuery)
	if name, err := (params{values}).provider(a.cfg.Providers(), true); err == nil {
		return name
	}
	return unknownProvider
}

// pending is how far behind the store is, nil when NATS does not tell.
func (a *API) pending(ctx context.Context) *int64 {
	n, err := a.cfg.Lag.Pending(ctx)
	if err != nil {
		return nil
	}
	return &n
}
