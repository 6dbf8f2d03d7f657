package ledger_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

func database(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	pool := testenv.Postgres(tb)
	if err := migrations.Up(tb.Context(), pool); err != nil {
		tb.Fatal(err)
	}
	return pool
}

// do runs f in a transaction.
func do(tb testing.TB, db *pgxpool.Pool, f func(tx pgx.Tx) error) error {
	tb.Helper()
	return pgx.BeginFunc(tb.Context(), db, f)
}

func credit(tb testing.TB, db *pgxpool.Pool, c ledger.Purchase) error {
	tb.Helper()
	return do(tb, db, func(tx pgx.Tx) error { return ledger.Credit(context.WithoutCancel(tb.Context()), tx, c) })
}

func mustCredit(tb testing.TB, db *pgxpool.Pool, c ledger.Purchase) {
	tb.Helper()
	if err := credit(tb, db, c); err != nil {
		tb.Fatal(err)
	}
}

func find(tb testing.TB, db *pgxpool.Pool, account, provider string) ledger.Pool {
	tb.Helper()
	p, err := ledger.Find(tb.Context(), db, ledger.Key{Account: account, Provider: provider})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// verify fails the test if the books contradict themselves.
func verify(tb testing.TB, db *pgxpool.Pool) {
	tb.Helper()
	differences, err := ledger.Verify(tb.Context(), db)
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range differences {
		tb.Errorf("books: %s", d)
	}
}

func TestCreditHappensOnce(t *testing.T) {
	t.Parallel()
	db, user := database(t), uuid.New()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if err := credit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 100, Reference: "saga-1"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	account := ledger.Account(user, uuid.Nil)
	if p := find(t, db, account, "openai"); p.Total != 100 || p.Remaining != 100 || p.Window != 24*time.Hour {
		t.Errorf("want one credit of 100 in windows of a day, got %+v", p)
	}
	for range 2 {
		if err := do(t, db, func(tx pgx.Tx) error { return ledger.Reverse(t.Context(), tx, "saga-1", "payment failed") }); err != nil {
			t.Fatal(err)
		}
	}
	if p := find(t, db, account, "openai"); p.Total != 0 || p.Remaining != 0 {
		t.Errorf("want nothing left after one reversal, got %+v", p)
	}
	verify(t, db)
}

func TestCreditRefusals(t *testing.T) {
	t.Parallel()
	db, user := database(t), uuid.New()
	mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 100, Reference: "taken"})
	before := find(t, db, ledger.Account(user, uuid.Nil), "openai")
	for name, tc := range map[string]struct {
		order ledger.Purchase
		want  error
	}{
		"zero":              {ledger.Purchase{UserID: user, Provider: "openai", Tokens: 0, Reference: "r"}, ledger.ErrInvalid},
		"negative":          {ledger.Purchase{UserID: user, Provider: "openai", Tokens: math.MinInt64, Reference: "r"}, ledger.ErrInvalid},
		"overflow":          {ledger.Purchase{UserID: user, Provider: "openai", Tokens: math.MaxInt64, Reference: "r"}, ledger.ErrOverflow},
		"overflow by one":   {ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1<<62 - 99, Reference: "r"}, ledger.ErrOverflow},
		"over the cap":      {ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1, Reference: "r", Most: 100}, ledger.ErrOverCap},
		"no reference":      {ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1, Reference: " "}, ledger.ErrInvalid},
		"NUL in reason":     {ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1, Reference: "r", Reason: "\x00"}, ledger.ErrInvalid},
		"unknown kind":      {ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1, Reference: "r", Kind: "gift"}, ledger.ErrInvalid},
		"upper case":        {ledger.Purchase{UserID: user, Provider: "OpenAI", Tokens: 1, Reference: "r"}, ledger.ErrInvalid},
		"no account":        {ledger.Purchase{Account: "user:x", Provider: "openai", Tokens: 1, Reference: "r"}, ledger.ErrInvalid},
		"other amount":      {ledger.Purchase{UserID: user, Provider: "openai", Tokens: 99, Reference: "taken"}, ledger.ErrReferenceTaken},
		"other pool":        {ledger.Purchase{UserID: user, Provider: "gemini", Tokens: 100, Reference: "taken"}, ledger.ErrReferenceTaken},
		"other account":     {ledger.Purchase{OrgID: user, Provider: "openai", Tokens: 100, Reference: "taken"}, ledger.ErrReferenceTaken},
		"a reference of us": {ledger.Purchase{UserID: user, Provider: "openai", Tokens: 100, Reference: "reverse:x"}, ledger.ErrInvalid},
	} {
		if err := credit(t, db, tc.order); !errors.Is(err, tc.want) {
			t.Errorf("%s: want %v, got %v", name, tc.want, err)
		}
	}
	if p := find(t, db, ledger.Account(user, uuid.Nil), "openai"); p.Total != 100 || p.Remaining != 100 || p.Version != before.Version {
		t.Errorf("want the pool unchanged, got %+v", p)
	}
	if _, err := ledger.Find(t.Context(), db, ledger.Key{Account: ledger.Account(uuid.Nil, user), Provider: "openai"}); !errors.Is(err,
		ledger.ErrNoPool) {
		t.Errorf("want no pool made by what was refused, got %v", err)
	}
	err := do(t, db, func(tx pgx.Tx) error { return ledger.Reverse(t.Context(), tx, "nobody", "x") })
	if !errors.Is(err, ledger.ErrUnknownReference) {
		t.Errorf("reverse: want ErrUnknownReference, got %v", err)
	}
	verify(t, db)
}

func TestEntriesCannotBeChanged(t *testing.T) {
	t.Parallel()
	db := database(t)
	mustCredit(t, db, ledger.Purchase{UserID: uuid.New(), Provider: "openai", Tokens: 100, Reference: "r"})
	for _, sql := range []string{`UPDATE token_ledger SET amount = 1`, `DELETE FROM token_ledger`, `TRUNCATE token_ledger`} {
		if _, err := db.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s: want it refused, got no error", sql)
		}
	}
	verify(t, db)
}

// TestOldestOfEqualLotsIsSpentFirst: the spelling of a reference must not decide. With the
// later lot spent first, there would be nothing of the first one to take back.
func TestOldestOfEqualLotsIsSpentFirst(t *testing.T) {
	t.Parallel()
	db, user := database(t), uuid.New()
	account, expires := ledger.Account(user, uuid.Nil), time.Now().Add(time.Hour)
	for _, reference := range []string{"z-first", "a-second"} {
		mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 10, Reference: reference, ExpiresAt: &expires,
			Policy: ledger.Policy{Prepaid: true}})
	}
	if _, err := ledger.Apply(t.Context(), db, []ledger.Charge{{Request: "r", Account: account, Provider: "openai", Tokens: 10, Drawn: true,
		At: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	if err := ledger.Touch(t.Context(), db, []ledger.Key{{Account: account, Provider: "openai"}}, expires.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if p := find(t, db, account, "openai"); p.Total != 10 || p.Remaining != 0 {
		t.Errorf("want the second lot expired and the first one spent, got %+v", p)
	}
	if err := do(t, db, func(tx pgx.Tx) error { return ledger.Reverse(t.Context(), tx, "a-second", "x") }); err != nil {
		t.Fatal(err)
	}
	if p := find(t, db, account, "openai"); p.Total != 10 {
		t.Errorf("want nothing to take back of the lot that expired unspent, got %+v", p)
	}
	verify(t, db)
}
