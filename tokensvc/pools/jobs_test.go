package pools_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/pools"
)

// caughtUp is a ledger that lags behind nothing.
type caughtUp struct{}

func (caughtUp) Lag(context.Context) (int64, error) { return 0, nil }

func TestTheBooksAreProvenAllTheTime(t *testing.T) {
	t.Parallel()
	db := testenv.Postgres(t)
	if err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	jobs, err := pools.NewJobs(pools.JobsConfig{DB: db, Ledger: caughtUp{}, ExpireEvery: time.Hour, AnnounceEvery: time.Hour,
		VerifyEvery: 10 * time.Millisecond, Metrics: registry, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- jobs.Run(ctx) }()
	testenv.Eventually(t, "a proof of the books", func() bool { return gauge(t, registry, "token_ledger_verified_timestamp_seconds") > 0 })
	if got := gauge(t, registry, "token_ledger_drift"); got != 0 {
		t.Errorf("want no drift of empty books, got %v", got)
	}
	// A pool that no entry explains.
	if _, err := db.Exec(t.Context(), `INSERT INTO token_pools (id, user_id, provider, total_tokens, remaining_tokens)
		VALUES (gen_random_uuid(), gen_random_uuid(), 'openai', 7, 7)`); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the drift told", func() bool { return gauge(t, registry, "token_ledger_drift") == 1 })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func gauge(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("%s is not exposed", name)
	return 0
}
