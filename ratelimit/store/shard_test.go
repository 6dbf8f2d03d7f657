package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestAServerOfAClusterThatIsAwayIsMissedByItsAccountsAlone: however many of theirs fail in a row, the
// others are held and settled at once, and theirs are settled when it is back.
func TestAServerOfAClusterThatIsAwayIsMissedByItsAccountsAlone(t *testing.T) {
	t.Parallel()
	url, servers := testenv.RedisOfThree(t)
	for _, server := range servers {
		if err := server.Client().ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := store.New(store.Config{URL: url, Lifetime: time.Minute, SettledKept: time.Hour, DialTimeout: time.Second, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	const accounts = 60
	takeOf := func(account int, id string) store.Take {
		take := takes(account, 1)[0]
		take.ID = id
		return take
	}
	var first []store.Take
	for i := range accounts {
		first = append(first, takeOf(i, fmt.Sprint("first-", i)))
	}
	holdAll(t, s, first)
	servers[2].Kill()
	gone := map[int]bool{}
	for i := range accounts { // each alone, as failures in a row come
		for n := range 3 {
			taken, err := s.Hold(t.Context(), takeOf(i, fmt.Sprint("then-", i, "-", n)))
			switch {
			case errors.Is(err, store.ErrUnavailable):
				gone[i] = true
			case err != nil || taken.Outcome != store.Admitted:
				t.Errorf("account %d: want it held or told later, got %+v, %v", i, taken, err)
			}
		}
	}
	if len(gone) == 0 || len(gone) > accounts/2 {
		t.Errorf("want about a third of %d accounts without a server, got %d", accounts, len(gone))
	}
	var all []store.Take
	for i := range accounts {
		all = append(all, takeOf(i, fmt.Sprint("together-", i)))
	}
	taken, err := s.HoldAll(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i := range taken {
		if got := taken[i]; gone[i] != errors.Is(got.Err, store.ErrUnavailable) || !gone[i] && got.Outcome != store.Admitted {
			t.Errorf("together, account %d (gone %t): got %+v", i, gone[i], got)
		}
	}
	settlements := make([]store.Settlement, accounts)
	for i, take := range first {
		settlements[i] = store.Settlement{Account: take.Account, ID: take.ID, Charged: 7}
	}
	if _, err := s.Settle(t.Context(), settlements); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("want the settlements told to come again, got %v", err)
	}
	servers[2].Restart()
	testenv.Eventually(t, "all are settled, once", func() bool {
		done, err := s.Settle(t.Context(), settlements)
		for i := range done {
			if done[i].Charged != 7 || done[i].Status != store.Settled && done[i].Status != store.Duplicate {
				t.Fatalf("settlement %d: %+v", i, done[i])
			}
		}
		return err == nil
	})
}
