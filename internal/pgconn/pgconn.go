// Package pgconn is beside the request path: it is how every part is connected to Postgres, so that
// what holds for one holds for all.
//
// Statements are not prepared by name. A pooler in transaction mode (PgBouncer) gives each
// transaction another connection, on which a statement that was prepared elsewhere is not there; pgx
// caches what Postgres said of a statement instead (cache_describe), which costs a little more of
// Postgres' time and works everywhere. A URL that states default_query_exec_mode has its way. Through
// such a pooler notifications (LISTEN) do not come, so that whoever waits for them polls.
//
// Postgres ends a transaction that stands still. Locks are the claims of replicas on their work, and
// only Postgres can take them from a replica that is frozen or whose host is cut off: its own timers
// stand still, too, and the connection of a lost host stays open for hours. It would hold up what it
// had locked for as long. The setting is made by a statement after the connection is made, since
// PgBouncer refuses it as a parameter of the start. In transaction mode it is then that of whichever
// connection to Postgres ran the statement, which is one of the same role and database.
package pgconn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// standstill is longer than any transaction stands by right: a round of the outbox's relay, which
	// waits for JetStream within its transaction, takes 30 s at most.
	standstill = 40 * time.Second
	// settingWait bounds the statement that sets it.
	settingWait = 10 * time.Second
)

// Config is what Open needs.
type Config struct {
	URL   string // postgres://[user:password@]host:port/database
	Least int32  // connections at least, whatever the machine; 0: as pgx decides
	// Standstill is how long Postgres lets a transaction stand that sends nothing, at least 1 ms; 0: 40 s.
	// One that the role, the database or the URL states (idle_in_transaction_session_timeout) has its way.
	Standstill time.Duration
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
	cfg.ConnConfig.AfterConnect = limitStandstill(cmp.Or(c.Standstill, standstill))
	return pgxpool.NewWithConfig(ctx, cfg)
}

// limitStandstill sets how long a transaction of a new connection may stand, where nobody has.
func limitStandstill(limit time.Duration) pgconn.AfterConnectFunc {
	statement := fmt.Sprintf("SELECT set_config(name, '%d', false) FROM pg_settings "+
		"WHERE name = 'idle_in_transaction_session_timeout' AND setting = '0'", limit.Milliseconds())
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		ctx, cancel := context.WithTimeout(ctx, settingWait)
		defer cancel()
		if _, err := conn.Exec(ctx, statement).ReadAll(); err != nil {
			return fmt.Errorf("limit how long transactions stand: %w", err)
		}
		return nil
	}
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
