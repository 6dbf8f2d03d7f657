package ledger_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

// booking runs a consumer; stop waits until it has ended.
func booking(t *testing.T, db *pgxpool.Pool, js jetstream.JetStream, log *slog.Logger) (c *ledger.Consumer, stop func()) {
	t.Helper()
	c, err := ledger.NewConsumer(ledger.ConsumerConfig{JetStream: js, DB: db, Metrics: prometheus.NewRegistry(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return c, stop
}

// booked waits until everything is that was published.
func booked(t *testing.T, c *ledger.Consumer) {
	t.Helper()
	testenv.Eventually(t, "the ledger has caught up", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return c.CatchUp(ctx) == nil
	})
}

// TestAnOlderPostgresIsBookedAgain: what was booked and acknowledged after a copy of the database was
// made is booked again when the copy is put back, whether the service lives on, and then has its
// connections cut, or starts on it.
func TestAnOlderPostgresIsBookedAgain(t *testing.T) {
	t.Parallel()
	for _, livesOn := range []bool{true, false} {
		name := "the service starts on it"
		if livesOn {
			name = "the service lives on"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testenv.PostgresServer(t)
			db, err := pgxpool.New(t.Context(), server.URL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			if err := migrations.Up(t.Context(), db); err != nil {
				t.Fatal(err)
			}
			_, js, _ := stream(t)
			user := uuid.New()
			account := ledger.Account(user, uuid.Nil)
			mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1000, Reference: "r"})
			spend := func(calls int) {
				for range calls {
					publish(t, js, charge(account, 1))
				}
			}
			remain := func(c *ledger.Consumer, want int64) {
				t.Helper()
				booked(t, c)
				if got := find(t, db, account, "openai").Remaining; got != want {
					t.Fatalf("want %d tokens left, got %d", want, got)
				}
				verify(t, db)
			}
			c, stop := booking(t, db, js, slog.New(slog.DiscardHandler))
			spend(30)
			remain(c, 970)
			putBack := server.Copy()
			db.Reset() // the copy was made while the server was stopped
			spend(30)
			remain(c, 940)
			before := find(t, db, account, "openai").Version
			if !livesOn {
				stop()
			}
			putBack()
			db.Reset()
			if !livesOn {
				if got := find(t, db, account, "openai").Remaining; got < 970 {
					t.Fatalf("the copy is not older: %d tokens left", got)
				}
				c, _ = booking(t, db, js, slog.New(slog.DiscardHandler))
			}
			testenv.Eventually(t, "what the copy lacks is booked", func() bool {
				var left int64
				err := db.QueryRow(t.Context(), "SELECT remaining_tokens FROM token_pools").Scan(&left)
				return err == nil && left == 940
			})
			spend(1)
			remain(c, 939)
			// Whoever heard of the pool before takes what it hears now for newer.
			if after := find(t, db, account, "openai").Version; after <= before {
				t.Errorf("version %d came after %d", after, before)
			}
		})
	}
}
