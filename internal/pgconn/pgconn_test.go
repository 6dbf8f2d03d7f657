package pgconn_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestHowStatementsAreSent(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]pgx.QueryExecMode{
		"postgres://u@h/d": pgx.QueryExecModeCacheDescribe, "host=h dbname=d": pgx.QueryExecModeCacheDescribe,
		"postgres://u@h/d?default_query_exec_mode=exec": pgx.QueryExecModeExec, "host=h default_query_exec_mode=simple_protocol": pgx.QueryExecModeSimpleProtocol,
	} {
		pool, err := pgconn.Open(t.Context(), pgconn.Config{URL: url, Least: 40})
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		if got := pool.Config(); got.ConnConfig.DefaultQueryExecMode != want || got.MaxConns < 40 {
			t.Errorf("%s: want %v, got %v with %d connections", url, want, got.ConnConfig.DefaultQueryExecMode, got.MaxConns)
		}
		pool.Close()
	}
	if _, err := pgconn.Open(t.Context(), pgconn.Config{URL: "postgres://u:secret@h:port/d"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("want an error without the password, got %v", err)
	}
}

// TestPostgresEndsTransactionsThatStand: each connection has a limit, also behind a pooler, which takes no
// such parameter at the start. What somebody has stated stays.
func TestPostgresEndsTransactionsThatStand(t *testing.T) {
	t.Parallel()
	direct := testenv.PostgresURL(t)
	for name, tc := range map[string]struct {
		config pgconn.Config
		want   string
	}{
		"by default":      {pgconn.Config{URL: direct}, "40s"},
		"asked for":       {pgconn.Config{URL: direct, Standstill: 300 * time.Millisecond}, "300ms"},
		"the URL's":       {pgconn.Config{URL: direct + "&idle_in_transaction_session_timeout=7s"}, "7s"},
		"behind a pooler": {pgconn.Config{URL: testenv.PgBouncer(t)}, "40s"},
	} {
		t.Run(name, func(t *testing.T) {
			pool, err := pgconn.Open(t.Context(), tc.config)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			var got string
			if err := pool.QueryRow(t.Context(), "SHOW idle_in_transaction_session_timeout").Scan(&got); err != nil || got != tc.want {
				t.Errorf("want %s, got %q, %v", tc.want, got, err)
			}
		})
	}
}
