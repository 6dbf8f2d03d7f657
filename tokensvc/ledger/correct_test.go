package ledger_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// TestAHigherVersionReplacesWhatWasCharged, in whatever order versions come, in one batch or several,
// once or often.
func TestAHigherVersionReplacesWhatWasCharged(t *testing.T) {
	t.Parallel()
	db := database(t)
	defer func() { verify(t, db) }()
	for name, tc := range map[string]struct {
		batches [][][2]int64 // of versions and tokens
		spent   int64
		back    int64 // given back
	}{
		"a correction":                    {[][][2]int64{{{0, 10_080}}, {{1, 690}}}, 690, 9_390},
		"before what it corrects":         {[][][2]int64{{{1, 690}}, {{0, 10_080}}}, 690, 0},
		"to nothing":                      {[][][2]int64{{{0, 10_080}}, {{1, 0}}}, 0, 10_080},
		"to nothing, before":              {[][][2]int64{{{1, 0}}, {{0, 10_080}}}, 0, 0},
		"upwards":                         {[][][2]int64{{{0, 0}}, {{1, 690}}}, 690, 0},
		"all at once":                     {[][][2]int64{{{0, 10_080}, {2, 700}, {1, 690}, {0, 10_080}}}, 700, 0},
		"one that comes after a later":    {[][][2]int64{{{0, 10_080}}, {{2, 690}}, {{1, 20_000}}}, 690, 9_390},
		"each twice":                      {[][][2]int64{{{0, 10_080}}, {{0, 10_080}}, {{1, 690}}, {{1, 690}}, {{0, 10_080}}}, 690, 9_390},
		"down and up":                     {[][][2]int64{{{0, 10_080}}, {{1, 690}}, {{2, 1_000}}}, 1_000, 9_390},
		"a version that says the same":    {[][][2]int64{{{0, 690}}, {{2, 690}}, {{1, 10_080}}}, 690, 0},
		"a correction that says the same": {[][][2]int64{{{0, 690}}, {{1, 690}}}, 690, 0},
	} {
		t.Run(name, func(t *testing.T) {
			user := uuid.New()
			account := ledger.Account(user, uuid.Nil)
			mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 50_000, Reference: uuid.NewString()})
			one, last := charge(account, 0), int64(0)
			for _, batch := range tc.batches {
				var charges []ledger.Charge
				for _, w := range batch {
					c := one
					c.Version, c.Tokens = w[0], w[1]
					c.Cost = ledger.Cost{Micros: 3 * c.Tokens, Currency: "USD", Version: fmt.Sprint("list-", c.Version)}
					last = max(last, c.Version)
					if c.Version > 0 || c.Tokens > 0 { // else the event is no charge
						charges = append(charges, c)
					}
				}
				apply(t, db, charges...)
			}
			p := find(t, db, account, "openai")
			if s := p.State(time.Now()); s.Spent != tc.spent || s.Returned != tc.back || p.Total != 50_000 {
				t.Errorf("want %d spent and %d given back, got %+v", tc.spent, tc.back, s)
			}
			booked, err := ledger.Book{DB: db}.Entries(t.Context(), ledgerbook.Span{From: one.At.Add(-time.Hour), To: time.Now().Add(time.Hour)}, 1000)
			if err != nil {
				t.Fatal(err)
			}
			at := slices.IndexFunc(booked, func(e ledgerbook.Entry) bool { return e.RequestID == one.Request })
			want := ledgerbook.Entry{RequestID: one.Request, Account: account, Provider: "openai", Tokens: tc.spent, CostMicros: 3 * tc.spent,
				Currency: "USD", PriceVersion: fmt.Sprint("list-", last), Costed: true}
			if at < 0 || booked[at] != want {
				t.Errorf("want the cost of the last version, %+v, got %+v", want, booked)
			}
		})
	}
}

// TestCorrectionsFromSeveralReplicas: words on the same calls come to eight consumers at once.
func TestCorrectionsFromSeveralReplicas(t *testing.T) {
	t.Parallel()
	db, user := database(t), uuid.New()
	account := ledger.Account(user, uuid.Nil)
	mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1_000_000, Reference: "r"})
	var words []ledger.Charge
	var want int64
	for range 40 {
		c := charge(account, 0)
		for version := range int64(4) {
			c.Version, c.Tokens = version, 1+rand.Int64N(900)
			words = append(words, c, c)
		}
		want += c.Tokens
	}
	rand.Shuffle(len(words), func(i, j int) { words[i], words[j] = words[j], words[i] })
	var replicas sync.WaitGroup
	for batch := range slices.Chunk(words, len(words)/8) {
		replicas.Go(func() {
			for some := range slices.Chunk(batch, 7) {
				for _, err := ledger.Apply(t.Context(), db, some); err != nil; _, err = ledger.Apply(t.Context(), db, some) {
					if t.Context().Err() != nil || errors.Is(err, ledger.ErrReferenceTaken) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	replicas.Wait()
	if p := find(t, db, account, "openai"); p.Total-p.Remaining != want {
		t.Errorf("want %d spent, got %+v", want, p)
	}
	verify(t, db)
}

// TestACorrectionOfAnotherAccountIsRefused: it would move a charge.
func TestACorrectionOfAnotherAccountIsRefused(t *testing.T) {
	t.Parallel()
	db := database(t)
	var accounts []string
	for range 2 {
		user := uuid.New()
		mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1000, Reference: uuid.NewString()})
		accounts = append(accounts, ledger.Account(user, uuid.Nil))
	}
	one := charge(accounts[0], 100)
	apply(t, db, one)
	one.Account, one.Version, one.Tokens = accounts[1], 1, 50
	if _, err := ledger.Apply(t.Context(), db, []ledger.Charge{one}); !errors.Is(err, ledger.ErrReferenceTaken) {
		t.Errorf("want %v, got %v", ledger.ErrReferenceTaken, err)
	}
	verify(t, db)
}
