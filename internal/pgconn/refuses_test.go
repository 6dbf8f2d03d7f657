package pgconn_test

import (
	"errors"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestPostgresSaysWhyItDoesNotServe: each way has its word, and one without an answer has none.
func TestPostgresSaysWhyItDoesNotServe(t *testing.T) {
	t.Parallel()
	whole := testenv.PostgresURL(t)
	admin := testenv.Postgres(t)
	if _, err := admin.Exec(t.Context(), "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := admin.Exec(t.Context(), "DROP ROLE crowded"); err != nil {
			t.Error(err)
		}
	}()
	for name, tc := range map[string]struct {
		change func(*url.URL)
		reason string // empty: it does not answer
		serves bool
	}{
		"it serves":          {change: func(*url.URL) {}, serves: true},
		"read-only":          {change: query("default_transaction_read_only", "on"), reason: "read_only"},
		"out of connections": {change: func(u *url.URL) { u.User = url.User("crowded") }, reason: "too_many_connections"},
		"no such database":   {change: func(u *url.URL) { u.Path = "/nowhere" }, reason: "no_database"},
		"gone":               {change: query("host", t.TempDir())},
	} {
		t.Run(name, func(t *testing.T) {
			at, err := url.Parse(whole)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(at)
			pool, err := pgconn.Open(t.Context(), pgconn.Config{URL: at.String()})
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			err = pgconn.Writable(t.Context(), pool)
			if gone := !tc.serves && tc.reason == ""; pgconn.Gone(err) != gone {
				t.Errorf("want it gone: %t, got %v", gone, err)
			}
			var refuses *pgconn.Refuses
			switch {
			case tc.serves && err != nil:
				t.Errorf("want none, got %v", err)
			case !tc.serves && err == nil, errors.As(err, &refuses) != (tc.reason != ""):
				t.Errorf("want %q, got %v", tc.reason, err)
			case refuses != nil && refuses.Reason() != tc.reason:
				t.Errorf("want %q, got %q: %v", tc.reason, refuses.Reason(), err)
			}
		})
	}
}

// TestAPoolerThatLosesStatementsIsToldOf: a statement that was prepared is not there, as behind a pooler that
// gives each transaction another connection.
func TestAPoolerThatLosesStatementsIsToldOf(t *testing.T) {
	t.Parallel()
	at, err := url.Parse(testenv.PostgresURL(t))
	if err != nil {
		t.Fatal(err)
	}
	query("default_query_exec_mode", "cache_statement")(at)
	query("pool_max_conns", "1")(at)
	pool, err := pgconn.Open(t.Context(), pgconn.Config{URL: at.String()})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pgconn.Writable(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "DEALLOCATE ALL", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	var refuses *pgconn.Refuses
	if err := pgconn.Writable(t.Context(), pool); !errors.As(err, &refuses) || refuses.Reason() != "pooler" {
		t.Errorf("want pooler, got %v", err)
	}
}

func query(name, value string) func(*url.URL) {
	return func(u *url.URL) {
		q := u.Query()
		q.Set(name, value)
		u.RawQuery = q.Encode()
	}
}
