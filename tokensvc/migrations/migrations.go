// Package migrations brings the token service's part of the database up to date.
package migrations

import (
	"context"
	"embed"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
)

//go:embed *.sql
var files embed.FS

// Up applies the migrations that are missing, one process at a time.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	return pgconn.Migrations{Files: files, Table: "goose_tokensvc"}.Apply(ctx, pool)
}
