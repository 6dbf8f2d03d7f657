// Package pgconn is beside the request path: it is how every part is connected to Postgres, so that
// what holds for one holds for all.
//
// Statements are not prepared by name. A pooler in transaction mode (PgBouncer) gives each
// transaction another connection, on which a statement that was prepared elsewhere is not there; pgx
// caches what Postgres said of a statement instead (cache_describe), which costs a little more of
// Postgres' time and works everywhere. A URL that states default_query_exec_mode has its way. Through
// such a pooler notifications (LISTEN) do not come, so that whoever waits for them polls.
package pgconn

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config is what Open needs.
type Config struct {
	URL   string // postgres://[user:password@]host:port/database
	Least int32  // connections at least, whatever the machine; 0: as pgx decides
}

// errURL says how it is written; the parser's own error may show the password.
var errURL = errors.New("postgres address: write postgres://user:password@host:port/database, percent-encoded")

// Open makes a pool; it connects when it is used, so it may be made before Postgres is up.
func Open(ctx context.Context, c Config) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, errURL
	}
	if !stated(c.URL) {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	cfg.MaxConns = max(cfg.MaxConns, c.Least)
	return pgxpool.NewWithConfig(ctx, cfg)
}

// stated reports whether a URL or a list of settings says how statements are sent.
func stated(address string) bool {
	const key = "default_query_exec_mode"
	if u, err := url.Parse(address); err == nil && u.Scheme != "" {
		return u.Query().Has(key)
	}
	return strings.Contains(address, key)
}

// Listen hears a channel of Postgres (LISTEN), a name that stands in the code, until ctx ends or the
// connection is lost. heard is called once it listens, as what came before was not heard, and then for
// each notification. The connection is taken out of the pool: one that listens must not go back to it.
func Listen(ctx context.Context, pool *pgxpool.Pool, channel string, heard func()) error {
	pooled, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	own := pooled.Hijack()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = own.Close(closing) // it is given up either way
	}()
	if _, err := own.Exec(ctx, "LISTEN "+channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for {
		heard()
		if _, err := own.WaitForNotification(ctx); err != nil {
			return fmt.Errorf("wait for notification: %w", err)
		}
	}
}
