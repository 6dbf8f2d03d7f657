package store_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

func clusterStore(t *testing.T) *store.Store {
	t.Helper()
	server := testenv.RedisCluster(t)
	s, err := store.New(store.Config{URL: "redis+cluster://" + strings.TrimPrefix(server.URL(), "redis://"),
		Lifetime: 100 * time.Millisecond, SettledKept: time.Hour,
		Timeout: 5 * time.Second, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func requests(capacity float64, key string) bucket.Bucket {
	return bucket.Bucket{Limit: bucket.NewLimit(bucket.Requests, bucket.Params{Capacity: capacity}), Key: key}
}

// TestClusterHoldsAllOrNone puts a call under buckets of its account and of all accounts,
// which are in different slots.
func TestClusterHoldsAllOrNone(t *testing.T) {
	t.Parallel()
	s := clusterStore(t)
	buckets := []bucket.Bucket{tokens(1000, "b:all-tokens"), tokens(500, "{user:u}:b:tokens"), requests(10, "b:all-requests"),
		requests(3, "{user:u}:b:requests")}
	want := func(what string, levels ...float64) {
		t.Helper()
		seen, err := s.ReadState(t.Context(), "user:u", nil, buckets)
		if err != nil {
			t.Fatal(err)
		}
		for i, level := range levels {
			if seen.States[i].Level() != level {
				t.Errorf("%s, bucket %d: want %g, got %+v", what, i, level, seen.States[i])
			}
		}
	}
	hold := func(id string, output, fill int64) store.Taken {
		t.Helper()
		got, err := s.HoldAll(t.Context(), []store.Take{{Account: "user:u", ID: id, Requests: 1, Output: output, Fill: fill, Buckets: buckets},
			{Account: "user:v", ID: id, Output: 1, Buckets: []bucket.Bucket{tokens(5000, "{user:v}:b:tokens")}}})
		if err != nil || got[0].Err != nil || got[1].Err != nil {
			t.Fatalf("hold %s: %+v, %v", id, got, err)
		}
		return got[0]
	}
	if got := hold("1", 400, 0); got.Outcome != store.Admitted || len(got.States) != 4 || got.States[0].Held != 400 {
		t.Errorf("want it admitted, got %+v", got)
	}
	want("held", 400, 400, 1, 1)
	if got := hold("2", 400, 0); got.Outcome != store.Refused {
		t.Errorf("want the account's bucket to refuse, got %+v", got)
	}
	want("refused by the account", 400, 400, 1, 1)
	if got := hold("2", 2000, 0); got.Outcome != store.Refused {
		t.Errorf("want the shared bucket to refuse, got %+v", got)
	}
	want("refused by all", 400, 400, 1, 1)
	if got := hold("2", 0, 50); got.Outcome != store.Refused && got.Held != 50 {
		t.Errorf("want a fill of 50 or nothing, got %+v", got)
	}
	for _, status := range []store.Status{store.Settled, store.Duplicate} {
		got, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "1", Charged: 100}, {Account: "user:u", ID: "2",
			Charged: 50}})
		if err != nil || got[0].Status != status || got[1].Status != status {
			t.Errorf("settle: want %c twice, got %+v, %v", status, got, err)
		}
	}
	want("settled", 150, 150, 2, 2)
	if got := hold("3", 20, 0); got.Outcome != store.Admitted {
		t.Errorf("want it admitted, got %+v", got)
	}
	expired := 0
	eventually(t, func() error {
		_, err := s.Sweep(t.Context(), func(h store.Hold) error {
			_, due, err := s.Expire(t.Context(), h.Account, h.ID, true)
			if due && h.Account == "user:u" {
				expired++
			}
			return err
		})
		if err == nil && expired == 0 {
			err = fmt.Errorf("nothing expired yet")
		}
		return err
	})
	want("expired", 170, 170, 3, 3)
}

// TestClusterAdmitsExactlyWhatFits lets many accounts at once fill a bucket they share.
func TestClusterAdmitsExactlyWhatFits(t *testing.T) {
	t.Parallel()
	s := clusterStore(t)
	shared := requests(50, "b:all")
	var admitted atomic.Int64
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			account := fmt.Sprintf("user:%d", i%20)
			got, err := s.Hold(t.Context(), store.Take{Account: account, Requests: 1, Buckets: []bucket.Bucket{shared,
				requests(1000, "{"+account+"}:b:own")}})
			if err != nil {
				t.Error(err)
			}
			if got.Outcome == store.Admitted {
				admitted.Add(1)
			}
		})
	}
	group.Wait()
	if admitted.Load() != 50 {
		t.Errorf("want 50 admitted, got %d", admitted.Load())
	}
}

func TestClusterPoolsAndAdoption(t *testing.T) {
	t.Parallel()
	s := clusterStore(t)
	state := balance.State{Account: "user:u", Provider: "openai", Present: true, Version: 1, Credits: 100, At: time.Now()}
	if _, err := s.SetBalance(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	take := store.Take{Account: "user:u", ID: "1", Output: 150, Pool: store.PoolRequired, Provider: "openai",
		Buckets: []bucket.Bucket{tokens(1000, "b:all"), tokens(1000, "{user:u}:b:own")}}
	if got, err := s.Hold(t.Context(), take); err != nil || got.Outcome != store.Short {
		t.Errorf("want the pool to refuse, got %+v, %v", got, err)
	}
	for _, want := range []store.LateWay{store.Forced, store.Known} {
		if got, err := s.RecordLate(t.Context(), take, ""); err != nil || got != want {
			t.Errorf("late: want %c, got %c, %v", want, got, err)
		}
	}
	seen, err := s.ReadState(t.Context(), "user:u", nil, take.Buckets, "openai")
	if err != nil || seen.States[0].Held != 150 || seen.States[1].Held != 150 || seen.Pools[0].Held != 150 {
		t.Errorf("want 150 held everywhere, got %+v, %v", seen, err)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for url, ok := range map[string]bool{
		"redis://127.0.0.1:1/2": true, "unix:///run/redis.sock": true, "redis+cluster://127.0.0.1:1,127.0.0.1:2": true,
		"rediss+cluster://u:p%40ss@127.0.0.1:1": true, "redis+sentinel://127.0.0.1:1,127.0.0.1:2/main": true,
		"redis+sentinel://:secret@127.0.0.1:1/main/3": true,
		"redis+cluster://127.0.0.1:1/2":               false, "redis+sentinel://127.0.0.1:1": false, "redis+sentinel://127.0.0.1:1/main/x": false,
		"redis+ring://127.0.0.1:1":  false,
		"redis+cluster://127.0.0.1": false, "redis+cluster://": false, "http+cluster://127.0.0.1:1": false,
		"redis+cluster://u:secret%zz@127.0.0.1:1": false, "": false,
	} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			s, err := store.New(store.Config{URL: url, Lifetime: time.Minute, SettledKept: time.Minute})
			if (err == nil) != ok {
				t.Errorf("want it taken: %t, got %v", ok, err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows the password: %v", err)
			}
			if s != nil {
				s.Close()
			}
		})
	}
}
