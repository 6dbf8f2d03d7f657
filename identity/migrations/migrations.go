// Package migrations is identity's schema in Postgres, brought up to date by goose.
package migrations

import (
	"context"
	"embed"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
)

//go:embed *.sql
var files embed.FS

// Up brings the schema up to date. Replicas that start together take turns.
func Up(ctx context.Context, pool *pgxpool.Pool) error { return UpTo(ctx, pool, 0) }

// UpTo is Up to a version and no further, as an older release left it; 0: to the newest.
func UpTo(ctx context.Context, pool *pgxpool.Pool, version int64) error {
	return pgconn.Migrations{Files: files, Table: "goose_identity", Upto: version}.Apply(ctx, pool)
}
