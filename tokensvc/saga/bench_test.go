package saga

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

// BenchmarkTake is the part of a purchase that the caller waits for, beside a bare INSERT into
// the same Postgres: p95 of the one is to be under three times that of the other.
func BenchmarkTake(b *testing.B) {
	pool := testenv.Postgres(b)
	if err := migrations.Up(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	if _, err := pool.Exec(b.Context(), `CREATE TABLE bare (id uuid PRIMARY KEY, user_id uuid, provider text, tokens bigint, created_at timestamptz)`); err != nil {
		b.Fatal(err)
	}
	service, err := New(Config{Pool: pool, Payments: &fakePayments{}, Members: fakeMembers{}, Providers: func() []string { return []string{"openai"} },
		Enabled: func() bool { return true },
		Price:   func(string) int64 { return 1000 }, QuotaMax: func(string) int64 { return 0 }, Currency: "usd",
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("bare insert", func(b *testing.B) {
		measure(b, func() error {
			_, err := pool.Exec(b.Context(), `INSERT INTO bare VALUES ($1, $2, $3, $4, $5)`, uuid.New(), uuid.New(), "openai", 1000, time.Now())
			return err
		})
	})
	for name, key := range map[string]func() string{"purchase": func() string { return "" }, "purchase with a key": uuid.NewString} {
		b.Run(name, func(b *testing.B) {
			measure(b, func() error {
				_, _, err := service.take(b.Context(), user(alice), order{user: uuid.MustParse(alice), provider: "openai", tokens: 1000, key: key()},
					"bench")
				return err
			})
		})
	}
}

func measure(b *testing.B, do func() error) {
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if err := do(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds()), "p95-µs")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
}
