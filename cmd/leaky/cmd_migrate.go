package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	identityschema "github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	tokenschema "github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

type migrateCommand struct {
	Wait time.Duration `default:"5m" help:"How long the stores may take to answer, and the migrations to run."`
}

// Help shows where it is used.
func (migrateCommand) Help() string {
	return `Every service does this for itself when it starts. Here it is a step of its own, before an upgrade: a wrong leaky.yaml or a migration that fails stops the upgrade while the old parts still serve. What is there already is left alone, and several at once take turns. Where each part is a user of its own in Postgres, LEAKY_IDENTITY_POSTGRES_URL and LEAKY_TOKENSVC_POSTGRES_URL are theirs.

Examples:

    leaky migrate
    LEAKY_POSTGRES_URL=postgres://... LEAKY_CLICKHOUSE_URL=http://... leaky migrate --wait 30s`
}

// Run brings the schemas of Postgres and ClickHouse up to date.
func (m migrateCommand) Run(ctx context.Context, c *cli) error {
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return err
	}
	if cfg.Stores.Postgres == "" || cfg.Stores.ClickHouse == "" {
		return errors.New("state both stores: LEAKY_POSTGRES_URL and LEAKY_CLICKHOUSE_URL, or stores in leaky.yaml")
	}
	ctx, cancel := context.WithTimeout(ctx, m.Wait)
	defer cancel()
	users, err := schemaOf(ctx, topology.Identity, cfg.Stores.Postgres)
	if err != nil {
		return err
	}
	defer users.Close()
	books, err := schemaOf(ctx, topology.TokenSvc, cfg.Stores.Postgres)
	if err != nil {
		return err
	}
	defer books.Close()
	events, err := analytics.NewStore(analytics.StoreConfig{URL: cfg.Stores.ClickHouse, KeepDays: cfg.Analytics.KeepDays,
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer events.Close()
	for _, schema := range []struct {
		of string
		up func(context.Context) error
	}{
		{"identity in Postgres", of(users, identityschema.Up)},
		{"tokensvc in Postgres", of(books, tokenschema.Up)},
		{"analytics in ClickHouse", events.Migrate},
	} {
		fmt.Fprintf(os.Stderr, "%s ...\n", schema.of)
		if err := retry.Away().Do(ctx, schema.up, waits(schema.of)); err != nil {
			return fmt.Errorf("migrate %s: %w", schema.of, err)
		}
	}
	fmt.Println("The schemas are up to date.")
	return nil
}

// schemaOf connects as the part whose schema it is: by LEAKY_<PART>_POSTGRES_URL, where each part is a
// user of its own.
func schemaOf(ctx context.Context, name, shared string) (*pgxpool.Pool, error) {
	part, _ := topology.Find(name)
	return pgconn.Open(ctx, pgconn.Config{URL: cmp.Or(os.Getenv(part.Variable("POSTGRES_URL")), shared)})
}

func of(pool *pgxpool.Pool, up func(context.Context, *pgxpool.Pool) error) func(context.Context) error {
	return func(ctx context.Context) error { return up(ctx, pool) }
}

// waits tells of the first failure and of every tenth after it.
func waits(of string) func(int, error) {
	return func(before int, err error) {
		if before%10 == 0 {
			fmt.Fprintf(os.Stderr, "%s: %v, trying again\n", of, err)
		}
	}
}
