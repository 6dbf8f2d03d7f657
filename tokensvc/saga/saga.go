// Package saga sells tokens. A purchase is a saga: reserve the money, allocate the tokens,
// take the money; each step is committed on its own, may be repeated, and can be undone. A
// request only writes the purchase down and is answered at once; workers in any replica
// carry it on, and another one takes over when theirs dies. docs/purchases.md draws the states.
package saga

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// Payments is a payment provider; package payment has two. Calls may be repeated; an error
// means that nobody knows.
type Payments interface {
	Authorize(ctx context.Context, o payment.Order) (payment.State, error)
	Capture(ctx context.Context, o payment.Order) (payment.State, error)
	Void(ctx context.Context, o payment.Order) (payment.State, error)
	Find(ctx context.Context, o payment.Order) (payment.State, error)
}

// errRefused is why a credit is refused for good: the account cannot or may not hold so much.
var errRefused = errors.New("credit refused")

// Members tells what a user is in an organisation.
type Members interface {
	Ask(ctx context.Context, org, user string) (membership.Answer, error)
}

// Saga is one purchase as it stands in the database.
type Saga = tokensdb.TokenPurchaseSaga

// Timing is how long things take; zero values take the defaults.
type Timing struct {
	Step       time.Duration // of one call to the payment or the database, default 10 s
	Lease      time.Duration // a worker that says nothing for so long is dead, default 30 s; longer than two Steps
	Poll       time.Duration // without a notification, default 1 s
	Backoff    time.Duration // after a failed try, doubled each time, default 500 ms
	BackoffMax time.Duration // default 1 min
	Recover    time.Duration // between runs of the recovery job, default 1 min
	Stale      time.Duration // an unfinished purchase that stood still for so long is driven on or back, default 10 min
	KeepKeys   time.Duration // idempotency keys, default 24 h
}

func (t *Timing) fill() {
	for field, value := range map[*time.Duration]time.Duration{&t.Step: 10 * time.Second, &t.Lease: 30 * time.Second, &t.Poll: time.Second,
		&t.Backoff:    500 * time.Millisecond,
		&t.BackoffMax: time.Minute, &t.Recover: time.Minute, &t.Stale: 10 * time.Minute, &t.KeepKeys: 24 * time.Hour} {
		if *field <= 0 {
			*field = value
		}
	}
}

// Config is what New needs.
type Config struct {
	Pool      *pgxpool.Pool
	Payments  Payments
	Members   Members
	Providers func() []string             // names, lower-case, as they are now
	Enabled   func() bool                 // false: purchases are refused (flags.token_service.saga_purchases)
	Price     func(provider string) int64 // minor units per million tokens, at least 1
	QuotaMax  func(tier string) int64     // most tokens that a buyer's pool may hold; 0: no bound
	Policy    func() ledger.Policy        // of a pool that a purchase makes; nil: prepaid
	Currency  string                      // ISO 4217, lower-case
	Owner     string                      // names this replica in leases; default host and process
	Workers   int                         // purchases carried on at once, default 8
	Attempts  int                         // tries of one step before a person is asked, default 20
	Timing    Timing                      //
	Boundary  func(at string)             // called between what a crash could part, for tests; may be nil
	NewID     func() uuid.UUID            // default uuid.New
	Log       *slog.Logger                //
	Metrics   prometheus.Registerer       //
}

// Service sells tokens: its handlers take orders, Run carries them out.
type Service struct {
	cfg     Config
	metrics metrics
	wake    chan struct{}
	said    *retry.Troubles
	open    atomic.Int64 // purchases when last counted
}

// New makes the service; Run starts its work.
func New(cfg Config) (*Service, error) {
	if cfg.Pool == nil || cfg.Payments == nil || cfg.Members == nil || cfg.Enabled == nil || cfg.Price == nil || cfg.QuotaMax == nil ||
		cfg.Currency == "" || cfg.Log == nil || cfg.Metrics == nil {
		return nil, errors.New("make purchases: every part of their configuration is needed")
	}
	cfg.Timing.fill()
	if cfg.Timing.Lease < 2*cfg.Timing.Step {
		return nil, fmt.Errorf("make purchases: the lease of %v must be at least twice a step's %v", cfg.Timing.Lease, cfg.Timing.Step)
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 8
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = 20
	}
	if cfg.Owner == "" {
		host, _ := os.Hostname() // the process's number is enough to tell replicas of one machine apart
		cfg.Owner = fmt.Sprintf("%.60s:%d", host, os.Getpid())
	}
	if cfg.Boundary == nil {
		cfg.Boundary = func(string) {}
	}
	if cfg.Policy == nil {
		cfg.Policy = func() ledger.Policy { return ledger.Policy{Prepaid: true} }
	}
	if cfg.NewID == nil {
		cfg.NewID = uuid.New
	}
	s := &Service{cfg: cfg, said: retry.NewTroubles(cfg.Log), wake: make(chan struct{}, 1)}
	s.metrics = newMetrics(cfg.Metrics, cfg.Providers())
	return s, nil
}

// Routes are the handlers by pattern, for callers whose identity is known and in the
// request's context.
func (s *Service) Routes() map[string]httpapi.HandlerFunc {
	return map[string]httpapi.HandlerFunc{
		"POST /api/v1/tokens/purchase":             s.Purchase,
		"GET /api/v1/tokens/purchase/{sagaId}":     s.Read,
		"GET /api/v1/admin/sagas":                  s.List,
		"GET /api/v1/admin/sagas/{sagaId}":         s.Show,
		"POST /api/v1/admin/sagas/{sagaId}/retry":  s.Retry,
		"POST /api/v1/admin/sagas/{sagaId}/cancel": s.Cancel,
	}
}

// amount is what tokens cost in minor units, rounded up: nothing is sold for nothing.
// Neither factor is large enough to overflow (contract: at most a million tokens).
func amount(tokens, pricePerMillion int64) int64 {
	return (tokens*pricePerMillion + 999_999) / 1_000_000
}
