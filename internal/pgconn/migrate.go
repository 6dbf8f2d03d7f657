package pgconn

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

// What bounds the lock around migrations: a process that dies with it is taken for dead after the
// lease, and another waits up to five minutes for one that works.
const (
	migrationLease  = 5 * time.Second
	migrationBeat   = time.Second
	migrationLook   = time.Second
	migrationLooks  = 300
	migrationUnlock = 30
)

// Migrations bring one room's schema up to date by goose. All rooms share a database, so each has a
// version table of its own.
type Migrations struct {
	Files fs.FS
	Table string // of versions
	Upto  int64  // the last version to apply, as an older release left it; 0: all
}

// Apply applies the migrations that are missing. Processes that start together take turns, by a row
// in a table and not by an advisory lock: a session's lock, taken through a pooler in transaction
// mode, stays on a connection that is another's by then. Where nothing is missing nothing is locked.
func (m Migrations) Apply(ctx context.Context, pool *pgxpool.Pool) error {
	locker, err := lock.NewPostgresTableLocker(lock.WithTableName(m.Table+"_lock"), lock.WithTableLeaseDuration(migrationLease),
		lock.WithTableHeartbeatInterval(migrationBeat), lock.WithTableLockTimeout(migrationLook, migrationLooks),
		lock.WithTableUnlockTimeout(migrationLook, migrationUnlock))
	if err != nil {
		return fmt.Errorf("make migration lock: %w", err)
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := goose.NewProvider(database.DialectPostgres, db, m.Files, goose.WithTableName(m.Table), goose.WithLocker(locker),
		goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	if pending, err := provider.HasPending(ctx); err == nil && !pending {
		return nil
	}
	upto := m.Upto
	if upto == 0 {
		upto = math.MaxInt64
	}
	if _, err := provider.UpTo(ctx, upto); err != nil {
		return fmt.Errorf("apply migrations: %w", err)
	}
	return nil
}
