package ledger_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// hold locks an organisation's pool, as a session does that somebody left open, until it is let go.
func hold(t *testing.T, db *pgxpool.Pool, org uuid.UUID) (letGo func()) {
	t.Helper()
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	letGo = func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }
	t.Cleanup(letGo)
	if _, err := tx.Exec(t.Context(), `SELECT FROM token_org_pools WHERE org_id = $1 FOR UPDATE`, org); err != nil {
		t.Fatal(err)
	}
	return letGo
}

// soon is a context for what must not wait for a lock that nobody lets go.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// bookers has two replicas book the stream until the test ends.
func bookers(t *testing.T, db *pgxpool.Pool, js jetstream.JetStream) *ledger.Consumer {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var replicas sync.WaitGroup
	t.Cleanup(func() { stop(); replicas.Wait() })
	var last *ledger.Consumer
	for range 2 {
		c := consumer(t, db, js)
		last = c
		replicas.Go(func() { _ = c.Run(ctx) })
	}
	return last
}

// caughtUp waits until the ledger has caught up.
func caughtUp(t *testing.T, c *ledger.Consumer) {
	t.Helper()
	ctx := soon(t)
	for err := c.CatchUp(ctx); err != nil; err = c.CatchUp(ctx) { // it may not be attached yet
		if ctx.Err() != nil {
			t.Fatalf("catch up: %v", err)
		}
	}
}

func number(t *testing.T, db *pgxpool.Pool, sql string) (n int64) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestLockedPoolHoldsUpNoOther: while somebody holds the row of one pool, the charges of all others are
// booked, their balances are known and they can buy. What the held one is charged waits and is not
// lost, and nothing of it is told.
func TestLockedPoolHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	db, user, org := database(t), uuid.New(), uuid.New()
	_, js, _ := stream(t)
	free, held := ledger.Account(user, uuid.Nil), ledger.Account(uuid.Nil, org)
	keys := []ledger.Key{{Account: free, Provider: "openai"}, {Account: held, Provider: "openai"}}
	mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 10_000, Reference: "free"})
	mustCredit(t, db, ledger.Purchase{OrgID: org, Provider: "openai", Tokens: 10_000, Reference: "held"})
	letGo, books := hold(t, db, org), bookers(t, db, js)
	const rounds = 4
	for round := range rounds {
		for range 10 {
			publish(t, js, charge(free, 1))
			publish(t, js, charge(held, 1))
		}
		caughtUp(t, books)
		var got ledger.Reading
		testenv.Eventually(t, "the free pool is known", func() bool { // a lock of a moment may set its charges aside
			var err error
			if got, err = ledger.Read(soon(t), db, keys); err != nil {
				t.Fatal(err)
			}
			return got.Busy[keys[0]] == nil
		})
		if p := got.Pools[keys[0]]; p.Remaining != 10_000-10*int64(round+1) {
			t.Errorf("round %d: want every charge of the free pool booked, got %+v", round, p)
		}
		if _, told := got.Pools[keys[1]]; told || got.Busy[keys[1]] == nil {
			t.Errorf("round %d: want the locked pool not known, got %+v", round, got)
		}
	}
	if err := pgx.BeginFunc(soon(t), db, func(tx pgx.Tx) error {
		return ledger.Credit(soon(t), tx, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 500, Reference: "more"})
	}); err != nil {
		t.Errorf("want the other one's purchase credited, got %v", err)
	}
	testenv.Eventually(t, "what waits is in the lag", func() bool {
		lag, err := books.Lag(t.Context())
		return err == nil && lag == 10*rounds
	})
	letGo()
	testenv.Eventually(t, "what waited is booked", func() bool {
		return number(t, db, `SELECT count(*) FROM token_waiting_charges`) == 0
	})
	got, err := ledger.Read(soon(t), db, keys)
	if p := got.Pools[keys[1]]; err != nil || p.Remaining != 10_000-10*rounds {
		t.Errorf("want every charge of the locked pool booked once, got %+v, %v", got, err)
	}
	if n := number(t, db, `SELECT count(*) FROM token_ledger WHERE kind = 'usage'`); n != 20*rounds {
		t.Errorf("want %d entries, got %d", 20*rounds, n)
	}
	verify(t, db)
}

// TestChargeThatWaitedAndCannotBeBooked is kept with the reason, and holds up none of its pool.
func TestChargeThatWaitedAndCannotBeBooked(t *testing.T) {
	t.Parallel()
	db, user, org := database(t), uuid.New(), uuid.New()
	_, js, _ := stream(t)
	held := ledger.Account(uuid.Nil, org)
	mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 100, Reference: "free"})
	mustCredit(t, db, ledger.Purchase{OrgID: org, Provider: "openai", Tokens: 100, Reference: "held"})
	other := charge(ledger.Account(user, uuid.Nil), 7)
	apply(t, db, other)
	letGo, books := hold(t, db, org), bookers(t, db, js)
	data, err := usage.Encode(usage.Event{RequestID: other.Request, Version: 1, Account: held, Provider: "openai", Charged: 9,
		Pool: usage.PoolDrawn, Timestamp: other.At}, "/test", "", "")
	if err != nil {
		t.Fatal(err)
	}
	publish(t, js, charge(held, 1))
	send(t, js, "another's", data) // corrects a call of another account
	publish(t, js, charge(held, 2))
	caughtUp(t, books)
	letGo()
	testenv.Eventually(t, "the others are booked", func() bool { return find(t, db, held, "openai").Remaining == 97 })
	testenv.Eventually(t, "one is kept with its reason", func() bool {
		return number(t, db, `SELECT count(*) FROM token_waiting_charges WHERE refused <> ''`) == 1 &&
			number(t, db, `SELECT count(*) FROM token_waiting_charges`) == 1
	})
	got, err := ledger.Read(soon(t), db, []ledger.Key{{Account: held, Provider: "openai"}})
	if err != nil || len(got.Busy) > 0 || len(got.Pools) != 1 {
		t.Errorf("want the pool known, got %+v, %v", got, err)
	}
	verify(t, db)
}

// TestJobsLeaveLockedPools to their next run.
func TestJobsLeaveLockedPools(t *testing.T) {
	t.Parallel()
	db, org := database(t), uuid.New()
	at := time.Now().Add(-time.Hour)
	over := at.Add(time.Minute)
	for i := range 3 {
		user := uuid.New()
		mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 100, Reference: fmt.Sprint("r", i), ExpiresAt: &over, At: at})
		mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "qwen", Tokens: 100, Reference: fmt.Sprint("q", i)})
		apply(t, db, ledger.Charge{Request: uuid.NewString(), Account: ledger.Account(user, uuid.Nil), Provider: "qwen", Tokens: 1,
			Drawn: true, At: time.Now()})
	}
	mustCredit(t, db, ledger.Purchase{OrgID: org, Provider: "openai", Tokens: 100, Reference: "held", ExpiresAt: &over, At: at})
	mustCredit(t, db, ledger.Purchase{OrgID: org, Provider: "qwen", Tokens: 100, Reference: "held-q"})
	apply(t, db, ledger.Charge{Request: uuid.NewString(), Account: ledger.Account(uuid.Nil, org), Provider: "qwen", Tokens: 1,
		Drawn: true, At: time.Now()})
	letGo := hold(t, db, org)
	for _, want := range []int{3, 1} {
		if n, err := ledger.Expire(soon(t), db, time.Time{}); err != nil || n != want {
			t.Errorf("expire: want %d pools, got %d, %v", want, n, err)
		}
		if n, err := ledger.Announce(soon(t), db); err != nil || n != want {
			t.Errorf("announce: want %d pools, got %d, %v", want, n, err)
		}
		letGo()
	}
	verify(t, db)
}
