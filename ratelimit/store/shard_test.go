package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// ofThree is a store on a cluster of three, which answers for what it has while one of them is away.
func ofThree(t *testing.T, life time.Duration) (*store.Store, []*testenv.RedisProcess) {
	t.Helper()
	url, servers := testenv.RedisOfThree(t)
	for _, server := range servers {
		if err := server.Client().ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := store.New(store.Config{URL: url, Lifetime: life, SettledKept: time.Hour, DialTimeout: time.Second, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, servers
}

// serverOf is which of three servers has a key.
func serverOf(t *testing.T, servers []*testenv.RedisProcess, key string) int {
	t.Helper()
	return int(servers[0].Client().ClusterKeySlot(t.Context(), key).Val()) * len(servers) / 16384
}

// TestAServerOfAClusterThatIsAwayIsMissedByItsAccountsAlone: however many of theirs fail in a row, the
// others are held and settled at once, and theirs are settled when it is back.
func TestAServerOfAClusterThatIsAwayIsMissedByItsAccountsAlone(t *testing.T) {
	t.Parallel()
	s, servers := ofThree(t, time.Minute)
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
	done, err := s.SettleEach(t.Context(), settlements)
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range done {
		if gone[i] != (one.Status == store.Away) || gone[i] != errors.Is(one.Err, store.ErrUnavailable) || !gone[i] && one.Charged != 7 {
			t.Errorf("settlement %d (gone %t): got %+v", i, gone[i], one)
		}
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

// TestTheServerOfSharedBucketsIsMissedByWhatIsHeldThere: each settlement asks it, too, and only a call
// that holds something in shared buckets has to wait for it.
func TestTheServerOfSharedBucketsIsMissedByWhatIsHeldThere(t *testing.T) {
	t.Parallel()
	s, servers := ofThree(t, time.Minute)
	shared := serverOf(t, servers, "{"+store.SharedAccount+"}")
	var settlements []store.Settlement
	var both string // an account with a call that holds in a shared bucket
	all := tokens(1000, "b:all")
	for i := range 30 {
		take := takes(i, 1)[0]
		if serverOf(t, servers, "{"+take.Account+"}") == shared {
			continue
		}
		if both == "" {
			both = take.Account
			take.Buckets = append(take.Buckets, all)
		}
		holdAll(t, s, []store.Take{take})
		settlements = append(settlements, store.Settlement{Account: take.Account, ID: take.ID, Charged: 7})
	}
	if len(settlements) < 2 {
		t.Fatalf("want calls on other servers, got %d", len(settlements))
	}
	servers[shared].Kill()
	done, err := s.SettleEach(t.Context(), settlements)
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range done {
		want := store.Settled
		if settlements[i].Account == both {
			want = store.Away
		}
		if one.Status != want {
			t.Errorf("call of %s: want it %c, got %+v", settlements[i].Account, want, one)
		}
	}
	servers[shared].Restart()
	testenv.Eventually(t, "all are settled, once", func() bool {
		done, err := s.SettleEach(t.Context(), settlements)
		for i := range done {
			if done[i].Status == store.Away {
				return false
			}
			if done[i].Status != store.Duplicate || done[i].Charged != 7 {
				t.Fatalf("settlement %d: %+v", i, done[i])
			}
		}
		return err == nil
	})
	var state store.AccountState
	testenv.Eventually(t, "the shared bucket", func() bool {
		state, err = s.ReadState(t.Context(), both, nil, []bucket.Bucket{all})
		return err == nil
	})
	if got := state.States[0]; got.Held != 0 || got.Level() != 7 {
		t.Errorf("want 7 in the shared bucket and nothing held, got %+v", got)
	}
}

// TestASweepGoesOnWithoutAServer: by the scan and by the index.
func TestASweepGoesOnWithoutAServer(t *testing.T) {
	t.Parallel()
	s, servers := ofThree(t, time.Microsecond)
	gone := (serverOf(t, servers, "{"+store.SharedAccount+"}") + 1) % len(servers)
	const accounts = 30
	on := map[string]int{} // servers
	hold := func(id string) {
		t.Helper()
		var all []store.Take
		for i := range accounts {
			take := takes(i, 1)[0]
			take.ID = id
			on[take.Account] = serverOf(t, servers, "{"+take.Account+"}")
			all = append(all, take)
		}
		holdAll(t, s, all)
	}
	swept := map[string]int{}
	sweep := func() error {
		_, err := s.Sweep(t.Context(), func(h store.Hold) error {
			if _, due, err := s.Expire(t.Context(), h.Account, h.ID, true); err != nil || !due {
				return err
			}
			swept[h.Account]++
			return s.Finish(t.Context(), h.Account, h.ID)
		})
		return err
	}
	hold("scanned")
	want := func(when string, others, its int) {
		t.Helper()
		for account, server := range on {
			want := others
			if server == gone {
				want = its
			}
			if swept[account] != want {
				t.Errorf("%s: want %d holds of %s swept, got %d (its server is away: %t)", when, want, account, swept[account], server == gone)
			}
		}
	}
	servers[gone].Kill()
	if err := sweep(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("want it told that not all was looked at, got %v", err)
	}
	want("by the scan", 1, 0)
	servers[gone].Restart()
	testenv.Eventually(t, "a whole scan", func() bool { return sweep() == nil })
	want("after the scan", 1, 1)
	hold("indexed")
	servers[gone].Kill()
	if err := sweep(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("want it told that not all was looked at, got %v", err)
	}
	want("by the index", 2, 1)
	servers[gone].Restart()
	testenv.Eventually(t, "a whole sweep", func() bool { return sweep() == nil })
	want("at the end", 2, 2)
}
