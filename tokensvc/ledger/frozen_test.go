package ledger_test

import (
	"context"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// replica is the handler of a replica whose queries are watched.
func replica(t *testing.T, db *pgxpool.Pool, js jetstream.JetStream, w testenv.Queries) usage.Handler {
	t.Helper()
	return consumer(t, w.Watched(t, db), js).Handler()
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
	frozen := replica(t, db, js, testenv.Queries{Before: func(query string) {
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

// TestLockOfAMomentSetsNothingAside: a replica that looks for locked pools, since it met one, finds
// another that somebody has just then. It looks again, and holds no lock while it writes down the charges
// of the one that is held.
func TestLockOfAMomentSetsNothingAside(t *testing.T) {
	t.Parallel()
	db, user, org := database(t), uuid.New(), uuid.New()
	_, js, _ := stream(t)
	free, held := ledger.Account(user, uuid.Nil), ledger.Account(uuid.Nil, org)
	mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 100, Reference: "free"})
	mustCredit(t, db, ledger.Purchase{OrgID: org, Provider: "openai", Tokens: 100, Reference: "held"})
	hold(t, db, org)

	var moment pgx.Tx // has the free pool for the first look of the second batch
	var looks, waited int
	books := replica(t, db, js, testenv.Queries{
		Before: func(query string) {
			switch query {
			case "FreeUserPools":
				if looks++; looks > 1 && moment != nil {
					_ = moment.Rollback(t.Context())
					moment = nil
				}
			case "KeepWaiting":
				if _, err := db.Exec(t.Context(), `SELECT FROM token_pools WHERE user_id = $1 FOR UPDATE NOWAIT`, user); err != nil {
					t.Errorf("want no lock held while charges are written down, got %v", err)
				}
			}
		},
		After: func(err error) {
			if ledger.Busy(err) {
				waited++
			}
		}})
	store := func(charges ...ledger.Charge) {
		t.Helper()
		if refused, err := books.Store(soon(t), deliveries(t, charges...)); err != nil || len(refused) > 0 {
			t.Fatalf("want the batch taken, got %v, %v", refused, err)
		}
	}
	store(charge(held, 1), charge(free, 1))
	store(charge(free, 1)) // meets no lock

	looks = 0
	var err error
	if moment, err = db.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	begun := moment
	t.Cleanup(func() { _ = begun.Rollback(context.WithoutCancel(t.Context())) })
	if _, err := moment.Exec(t.Context(), `SELECT FROM token_pools WHERE user_id = $1 FOR UPDATE`, user); err != nil {
		t.Fatal(err)
	}
	store(charge(held, 1), charge(free, 1))
	if p := find(t, db, free, "openai"); p.Remaining != 97 {
		t.Errorf("want every charge of the free pool booked, got %+v", p)
	}
	if n := number(t, db, `SELECT count(*) FROM token_waiting_charges`); n != 2 {
		t.Errorf("want the two charges of the held pool set aside, got %d", n)
	}
	if waited != 1 {
		t.Errorf("want the lock waited for once in all, got %d times", waited)
	}
	verify(t, db)
}
