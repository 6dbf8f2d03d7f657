// Package migrations is identity's schema in Postgres, brought up to date by goose.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// Up brings the schema up to date. Replicas that start together take turns by
// an advisory lock, one per schema.
func Up(ctx context.Context, pool *pgxpool.Pool) error { return UpTo(ctx, pool, goose.MaxVersion) }

// UpTo is Up to a version and no further, as an older release left it.
func UpTo(ctx context.Context, pool *pgxpool.Pool, version int64) error {
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	lockID, err := schemaLock(ctx, db)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID), lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	provider, err := goose.NewProvider(database.DialectPostgres, db, files, goose.WithSessionLocker(locker),
		goose.WithTableName("goose_identity"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if _, err := provider.UpTo(ctx, version); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

func schemaLock(ctx context.Context, db *sql.DB) (id int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT hashtextextended('identity migrations of ' || current_schema(), 0)`).Scan(&id)
	return id, err
}
