package pgconn_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
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
