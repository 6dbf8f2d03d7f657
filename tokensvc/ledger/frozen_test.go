package ledger_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// watch is told of each query before it is sent, by its name, and of how it ended.
type watch struct {
	before func(query string)
	after  func(err error)
}

// TraceQueryStart implements pgx.QueryTracer.
func (w watch) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if name, named := strings.CutPrefix(data.SQL, "-- name: "); named && w.before != nil {
		name, _, _ = strings.Cut(name, " ")
		w.before(name)
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (w watch) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if w.after != nil {
		w.after(data.Err)
	}
}

// replica is the handler of a replica whose queries are watched.
func replica(t *testing.T, db *pgxpool.Pool, js jetstream.JetStream, w watch) usage.Handler {
	t.Helper()
	config := db.Config()
	config.ConnConfig.Tracer = w
	watched, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watched.Close)
	return consumer(t, watched, js).Handler()
}

// deliveries are the charges as the stream has them.
func deliveries(t *testing.T, charges ...ledger.Charge) []usage.Delivery {
	t.Helper()
	batch := make([]usage.Delivery, len(charges))
	for i, c := range charges {
		data, err := usage.Encode(usage.Event{RequestID: c.Request, Account: c.Account, Provider: c.Provider, Charged: c.Tokens,
			Pool: usage.PoolDrawn, Timestamp: c.At}, "/test", "", "")
		if err != nil {
			t.Fatal(err)
		}
		batch[i] = usage.Delivery{Sequence: uint64(i + 1), Data: data}
	}
	return batch
}

// TestFrozenReplicaHoldsUpNoOther: one stands still between the entries of a batch and the locks of its
// pools. Another that was given the same batch waits for those entries, which are no pool's lock.
func TestFrozenReplicaHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	db, user := database(t), uuid.New()
	_, js, _ := stream(t)
	account := ledger.Account(user, uuid.Nil)
	mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 100, Reference: "r"})
	batch := deliveries(t, charge(account, 7))

	stands, thaw := make(chan struct{}), make(chan struct{})
	var once sync.Once
	frozen := replica(t, db, js, watch{before: func(query string) {
		if query == "LockUserPools" {
			once.Do(func() { close(stands) })
			<-thaw
		}
	}})
	var running sync.WaitGroup
	t.Cleanup(func() { close(thaw); running.Wait() })
	running.Go(func() { _, _ = frozen.Store(context.WithoutCancel(t.Context()), batch) })
	<-stands

	ctx, other := soon(t), consumer(t, db, js).Handler()
	for _, err := other.Store(ctx, batch); err != nil; _, err = other.Store(ctx, batch) {
		if ctx.Err() != nil {
			t.Fatalf("want the batch booked while the first replica stands, got %v", err)
		}
	}
	if p := find(t, db, account, "openai"); p.Remaining != 93 {
		t.Errorf("want the charge booked once, got %+v", p)
	}
	verify(t, db)
}
