package testenv

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Queries is told of each query of a pool: of those with a name before they are sent, and how each ended. It
// may stand still as long as it likes, as a process that is frozen does. Either may be nil.
type Queries struct {
	Before func(name string)
	After  func(err error)
}

// TraceQueryStart implements pgx.QueryTracer.
func (q Queries) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if name, named := strings.CutPrefix(data.SQL, "-- name: "); named && q.Before != nil {
		name, _, _ = strings.Cut(name, " ")
		q.Before(name)
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (q Queries) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if q.After != nil {
		q.After(data.Err)
	}
}

// Watched is another pool that is as pool, and whose queries are watched.
func (q Queries) Watched(tb testing.TB, pool *pgxpool.Pool) *pgxpool.Pool {
	tb.Helper()
	config := pool.Config()
	config.ConnConfig.Tracer = q
	watched, err := pgxpool.NewWithConfig(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(watched.Close)
	return watched
}
