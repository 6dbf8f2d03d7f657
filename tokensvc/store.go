package tokensvc

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

// ErrNotReady says that Postgres has not answered yet.
var ErrNotReady = errors.New("token store is not ready")

// StoreConfig says where the service keeps what it knows.
type StoreConfig struct {
	Pool *pgxpool.Pool
	Log  *slog.Logger
}

// Store is the schema of the service's part of Postgres.
type Store struct {
	cfg   StoreConfig
	ready atomic.Bool
}

// NewStore makes a store; Run migrates it.
func NewStore(cfg StoreConfig) (*Store, error) {
	if cfg.Pool == nil || cfg.Log == nil {
		return nil, errors.New("make token store: Pool and Log are needed")
	}
	return &Store{cfg: cfg}, nil
}

// Ready reports whether the schema is in place.
func (s *Store) Ready() bool { return s.ready.Load() }

// Run brings the schema up to date, again and again until Postgres answers.
func (s *Store) Run(ctx context.Context) error {
	policy := retry.Policy{First: 100 * time.Millisecond, Most: 3 * time.Second}
	policy.Forever(ctx, retry.NewTroubles(s.cfg.Log), "migrate token store", s.Migrate)
	return nil
}

// Migrate applies the migrations that are missing, one process at a time.
func (s *Store) Migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := migrations.Up(ctx, s.cfg.Pool); err != nil {
		return err
	}
	s.ready.Store(true)
	return nil
}
