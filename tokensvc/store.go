package tokensvc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

// DefaultWindow is how long a pool lasts before it is full again.
const DefaultWindow = 24 * time.Hour

var (
	// ErrNoPool says that the owner has no pool for the provider.
	ErrNoPool = errors.New("no such pool")
	// ErrNotReady says that Postgres has not answered yet.
	ErrNotReady = errors.New("token store is not ready")
)

// Owner is who owns a pool.
type Owner int

// Owners of pools.
const (
	OwnerUser Owner = iota
	OwnerOrg
)

// Pool is a prepaid or refilled amount of tokens for one provider.
type Pool struct {
	OwnerID          uuid.UUID
	Provider         string
	Total, Remaining int64
	ResetTime        *time.Time // nil: it never refills
	UpdatedAt        time.Time
}

// StoreConfig says where the pools are kept.
type StoreConfig struct {
	Pool    *pgxpool.Pool
	Window  time.Duration // default DefaultWindow
	Timeout time.Duration // of one query, default 2 s
	Log     *slog.Logger
}

// Store keeps the pools in Postgres.
type Store struct {
	cfg   StoreConfig
	ready atomic.Bool
}

// NewStore makes a store; Run migrates it.
func NewStore(cfg StoreConfig) (*Store, error) {
	if cfg.Pool == nil || cfg.Log == nil {
		return nil, errors.New("make token store: Pool and Log are needed")
	}
	if cfg.Window <= 0 {
		cfg.Window = DefaultWindow
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	return &Store{cfg: cfg}, nil
}

// Ready reports whether the schema is in place.
func (s *Store) Ready() bool { return s.ready.Load() }

// Run brings the schema up to date, again and again until Postgres answers.
func (s *Store) Run(ctx context.Context) error {
	wait := 100 * time.Millisecond
	for attempt := 0; ctx.Err() == nil; attempt++ {
		err := s.Migrate(ctx)
		if err == nil {
			return nil
		}
		if attempt%10 == 0 && ctx.Err() == nil {
			s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "migrate token store failed, trying again", slog.Int("attempt", attempt+1), slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 3*time.Second)
	}
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

// sql writes a query over the owner's kind of pool: {table} and {owner}, which can be no
// parameters in SQL.
func (o Owner) sql(text string) string {
	if o == OwnerOrg {
		return strings.NewReplacer("{table}", "token_org_pools", "{owner}", "org_id").Replace(text)
	}
	return strings.NewReplacer("{table}", "token_pools", "{owner}", "user_id").Replace(text)
}

const (
	isDue    = `refill = 'window' AND (reset_time IS NULL OR reset_time <= now())`
	readPool = `SELECT total_tokens, remaining_tokens, reset_time, updated_at, ` + isDue + ` FROM {table} WHERE {owner} = $1 AND provider = $2`
	// refillPool fills a pool whose window is over. One whose window never began keeps
	// its amount.
	refillPool = `UPDATE {table} SET remaining_tokens = CASE WHEN reset_time IS NULL THEN remaining_tokens ELSE total_tokens END,
			reset_time = now() + $3, updated_at = now()
		WHERE {owner} = $1 AND provider = $2 AND ` + isDue + ` RETURNING total_tokens, remaining_tokens, reset_time, updated_at, false`
)

// Find reads a pool, after ending its window if that is due. Errors are ErrNoPool,
// ErrNotReady, or what Postgres says.
func (s *Store) Find(ctx context.Context, kind Owner, owner uuid.UUID, provider string) (Pool, error) {
	if !s.ready.Load() {
		return Pool{}, ErrNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	// Reading first keeps the common case free of writes. The update repeats the
	// condition under the row's lock, so that of two readers one resets.
	pool, due, err := s.one(ctx, owner, provider, kind.sql(readPool))
	if err != nil || !due {
		return pool, err
	}
	reset, _, err := s.one(ctx, owner, provider, kind.sql(refillPool), s.cfg.Window)
	if errors.Is(err, ErrNoPool) { // another reader was first
		pool, _, err = s.one(ctx, owner, provider, kind.sql(readPool))
		return pool, err
	}
	return reset, err
}

func (s *Store) one(ctx context.Context, owner uuid.UUID, provider, query string, more ...any) (pool Pool, due bool, err error) {
	pool = Pool{OwnerID: owner, Provider: provider}
	err = s.cfg.Pool.QueryRow(ctx, query, append([]any{owner, provider}, more...)...).
		Scan(&pool.Total, &pool.Remaining, &pool.ResetTime, &pool.UpdatedAt, &due)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Pool{}, false, ErrNoPool
	case err != nil:
		return Pool{}, false, fmt.Errorf("read pool: %w", err)
	}
	return pool, due, nil
}
