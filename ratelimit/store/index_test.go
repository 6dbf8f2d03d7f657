package store_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// onServer is a store with a server of its own.
func onServer(t *testing.T, server *testenv.RedisProcess, now func() int64) *store.Store {
	t.Helper()
	s, err := store.New(store.Config{URL: server.URL(), Lifetime: time.Minute, SettledKept: 10 * time.Minute, Timeout: time.Minute,
		DialTimeout: time.Minute, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func takes(from, n int) []store.Take {
	all := make([]store.Take, n)
	for i := range all {
		account := "user:" + strconv.Itoa((from+i)%100)
		all[i] = store.Take{Account: account, ID: fmt.Sprintf("3d9c0f7a-33a1-4ba1-8a26-%012d", from+i), Input: 10, Facts: []byte("facts"),
			Buckets: []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e12, Rate: 1e-3}), Key: "{" + account + "}:b:x"}}}
	}
	return all
}

func holdAll(t testing.TB, s *store.Store, all []store.Take) {
	t.Helper()
	taken, err := s.HoldAll(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i := range taken {
		if taken[i].Err != nil || taken[i].Outcome != store.Admitted {
			t.Fatalf("hold %d: %+v", i, taken[i])
		}
	}
}

func settleAll(t testing.TB, s *store.Store, all []store.Take, want store.Status) {
	t.Helper()
	batch := make([]store.Settlement, len(all))
	for i := range all {
		batch[i] = store.Settlement{Account: all[i].Account, ID: all[i].ID, Charged: 7}
	}
	done, err := s.Settle(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range done {
		if d.Status != want || d.Held != 10 || d.Charged != 7 {
			t.Fatalf("settlement %d: want %c of 10 and 7, got %+v", i, want, d)
		}
	}
}

// commands is how often the server was asked something.
func commands(t *testing.T, client *redis.Client, name string) int {
	t.Helper()
	info, err := client.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(info, "cmdstat_"+name+":calls=")
	if !found {
		return 0
	}
	number, _, _ := strings.Cut(rest, ",")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSettledCallsAreNoKeys: many are remembered together, each for a second settlement and for a
// second question.
func TestSettledCallsAreNoKeys(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	client := server.Client()
	s, err := store.New(store.Config{URL: server.URL(), Lifetime: time.Minute, SettledKept: time.Minute, Timeout: time.Minute,
		DialTimeout: time.Minute}) // so many calls a minute that each key has some
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	const calls, batch = 20_000, 500
	for from := 0; from < calls; from += batch {
		some := takes(from, batch)
		holdAll(t, s, some)
		settleAll(t, s, some, store.Settled)
	}
	settleAll(t, s, takes(0, batch), store.Duplicate)
	again, err := s.HoldAll(t.Context(), takes(calls-batch, batch))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range again {
		if one.Err != nil || one.Outcome != store.Repeated || one.Held != 10 {
			t.Fatalf("want the first answer again, got %+v", one)
		}
	}
	if keys, err := client.DBSize(t.Context()).Result(); err != nil || keys > calls/2 {
		t.Errorf("want far fewer keys than %d calls, got %d, %v", calls, keys, err)
	}
}

// TestASweepAsksForWhatStands and walks over no other key, but for the first of each process.
func TestASweepAsksForWhatStands(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(1_790_000_000_000_000)
	server := testenv.RedisServer(t)
	s, client := onServer(t, server, clock.Load), server.Client()
	sweep := func() (live store.Standing, due int) {
		t.Helper()
		live, err := s.Sweep(t.Context(), func(h store.Hold) error {
			due++
			_, _, err := s.Expire(t.Context(), h.Account, h.ID, true)
			return errors.Join(err, s.Finish(t.Context(), h.Account, h.ID))
		})
		if err != nil {
			t.Fatal(err)
		}
		return live, due
	}
	sweep() // the first
	scans := commands(t, client, "scan")
	holdAll(t, s, takes(0, 600))
	settleAll(t, s, takes(0, 300), store.Settled)
	if live, due := sweep(); live.Holds != 300 || live.Tokens != 3000 || due != 0 {
		t.Errorf("want 300 holds of 10, got %+v and %d due", live, due)
	}
	settleAll(t, s, takes(300, 100), store.Settled)
	clock.Add(30 * time.Second.Microseconds())
	renewed := make([]store.Renewal, 100)
	for i, take := range takes(400, 100) {
		renewed[i] = store.Renewal{Account: take.Account, ID: take.ID}
	}
	if n, err := s.Renew(t.Context(), renewed); err != nil || n != 100 {
		t.Fatalf("renew: %d, %v", n, err)
	}
	clock.Add(45 * time.Second.Microseconds())
	if live, due := sweep(); live.Holds != 100 || due != 100 {
		t.Errorf("want 100 due and 100 renewed, got %d and %+v", due, live)
	}
	if live, due := sweep(); live.Holds != 100 || due != 0 {
		t.Errorf("again: want 100 renewed, got %d due and %+v", due, live)
	}
	clock.Add(time.Minute.Microseconds())
	if live, due := sweep(); live.Holds != 0 || due != 100 {
		t.Errorf("later: want the renewed ones due, got %d and %+v", due, live)
	}
	if n := commands(t, client, "scan") - scans; n != 0 {
		t.Errorf("want no scan of all keys, got %d", n)
	}
	if n, err := client.ZCard(t.Context(), "{*}:due").Result(); err != nil || n != 0 {
		t.Errorf("want nothing left in the index, got %d, %v", n, err)
	}
}

// TestAnotherProcessFindsWhatADeadOneHeld, although that had not told the index.
func TestAnotherProcessFindsWhatADeadOneHeld(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(1_790_000_000_000_000)
	server := testenv.RedisServer(t)
	dead, alive := onServer(t, server, clock.Load), onServer(t, server, clock.Load)
	holdAll(t, dead, takes(0, 10))
	clock.Add(2 * time.Minute.Microseconds())
	due := 0
	if _, err := alive.Sweep(t.Context(), func(store.Hold) error { due++; return nil }); err != nil || due != 10 {
		t.Errorf("want ten holds found, got %d, %v", due, err)
	}
}

// TestOneSweepsAtATime, and nobody again before every is over, unless it fell silent.
func TestOneSweepsAtATime(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	one, other := onServer(t, server, nil), onServer(t, server, nil)
	swept := 0
	sweep := func(context.Context) error { swept++; return nil }
	if err := one.Turn(t.Context(), time.Hour, func(ctx context.Context) error { return other.Turn(ctx, time.Hour, sweep) }); err != nil || swept != 0 {
		t.Errorf("while one sweeps: want the other to wait, got %d, %v", swept, err)
	}
	if err := other.Turn(t.Context(), time.Hour, sweep); err != nil || swept != 0 {
		t.Errorf("before the next turn: want the other to wait, got %d, %v", swept, err)
	}
	if err := server.Client().Del(t.Context(), "{*}:sweeper").Err(); err != nil { // it has run out
		t.Fatal(err)
	}
	if err := other.Turn(t.Context(), time.Millisecond, sweep); err != nil || swept != 1 {
		t.Errorf("then: want the other to sweep, got %d, %v", swept, err)
	}
}

// TestATurnOfAClockThatWasAheadEnds: what runs out by the server's clock would stand for an hour when
// that was an hour ahead and is set back.
func TestATurnOfAClockThatWasAheadEnds(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	s, client := onServer(t, server, nil), server.Client()
	if err := client.Set(t.Context(), "{*}:sweeper", "ahead", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	swept := 0
	if err := s.Turn(t.Context(), time.Minute, func(context.Context) error { swept++; return nil }); err != nil || swept != 0 {
		t.Errorf("want another to have its turn, got %d, %v", swept, err)
	}
	if left, err := client.TTL(t.Context(), "{*}:sweeper").Result(); err != nil || left <= 0 || left > time.Minute {
		t.Errorf("want that turn to end within a minute, got %s, %v", left, err)
	}
}

// TestASettledCallIsChargedOnce also when it is settled again after it was forgotten.
func TestASettledCallIsChargedOnce(t *testing.T) {
	t.Parallel()
	client, prefix := testenv.Redis(t)
	s, err := store.New(store.Config{URL: "redis://" + client.Options().Addr, Prefix: prefix, Lifetime: time.Minute, SettledKept: 200 * time.Millisecond,
		Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	one := takes(0, 1)
	one[0].Buckets[0].Limit = bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e12})
	holdAll(t, s, one)
	settleAll(t, s, one, store.Settled)
	testenv.Eventually(t, "it is forgotten", func() bool {
		done, err := s.Settle(t.Context(), []store.Settlement{{Account: one[0].Account, ID: one[0].ID, Charged: 7}})
		return err == nil && done[0].Status == store.Unknown
	})
	state, err := s.ReadState(t.Context(), one[0].Account, []string{one[0].ID}, one[0].Buckets)
	if err != nil || state.States[0].Settled != 7 || state.States[0].Held != 0 {
		t.Errorf("want 7 charged once, got %+v, %v", state, err)
	}
}

// TestAHoldWhoseAnswerWasLostIsSwept: who took it knows of it by the second try alone, and the index
// had no entry of it until all keys were walked over again, after an hour.
func TestAHoldWhoseAnswerWasLostIsSwept(t *testing.T) {
	t.Parallel()
	now := time.Now().UnixMicro()
	server := testenv.RedisServer(t)
	lost, s := onServer(t, server, func() int64 { return now }), onServer(t, server, func() int64 { return now })
	found := func() (ids []string) {
		t.Helper()
		if _, err := s.Sweep(t.Context(), func(h store.Hold) error {
			ids = append(ids, h.ID)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if ids := found(); ids != nil { // walks over all keys, for an hour
		t.Fatalf("want no holds yet, got %v", ids)
	}
	take := takes(0, 1)[0]
	if got, err := lost.Hold(t.Context(), take); err != nil || got.Outcome != store.Admitted {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := s.Hold(t.Context(), take); err != nil || got.Outcome != store.Repeated {
		t.Fatalf("%+v, %v", got, err)
	}
	now += (2 * time.Minute).Microseconds()
	if ids := found(); len(ids) != 1 {
		t.Errorf("want the hold that is due, got %v", ids)
	}
}
