package store_test

import (
	"strconv"
	"sync"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// underTwo is a call under a bucket of its account and one of all accounts, which a cluster has in
// different slots.
func underTwo(id string) store.Take {
	return store.Take{Account: "user:u", ID: id, Output: 100, Buckets: []bucket.Bucket{tokens(1000, "{user:u}:b:tokens"), tokens(1000, "b:all")}}
}

// levels wants this in both of its buckets.
func levels(t *testing.T, s *store.Store, held, settled float64) {
	t.Helper()
	seen, err := s.ReadState(t.Context(), "user:u", nil, underTwo("").Buckets)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range seen.States {
		if b.Held != held || b.Settled != settled {
			t.Errorf("bucket %d: want %g held and %g settled, got %+v", i, held, settled, b)
		}
	}
}

// TestARevokedHoldComesToNothing whether Redis took it before, takes it later, or meanwhile.
func TestARevokedHoldComesToNothing(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) *store.Store{"one server": func(t *testing.T) *store.Store {
		t.Helper()
		return onServer(t, testenv.RedisServer(t), nil)
	}, "cluster": clusterStore} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			hold := func(id string, want store.Outcome) {
				t.Helper()
				if got, err := s.Hold(t.Context(), underTwo(id)); err != nil || got.Outcome != want {
					t.Errorf("hold %s: want %s, got %+v, %v", id, want, got, err)
				}
			}
			revoke := func(charged int64, ids ...string) {
				t.Helper()
				var all []store.Revocation
				for _, id := range ids {
					all = append(all, store.Revocation{Take: underTwo(id), Charged: charged})
				}
				if err := s.Revoke(t.Context(), all); err != nil {
					t.Error(err)
				}
			}
			hold("before", store.Admitted)
			levels(t, s, 100, 0)
			revoke(0, "before", "later", "never")
			levels(t, s, 0, 0)
			hold("later", store.Repeated)
			hold("before", store.Repeated)
			revoke(0, "before", "later")
			levels(t, s, 0, 0)
			for i := range 50 {
				id := "meanwhile-" + strconv.Itoa(i)
				var group sync.WaitGroup
				group.Go(func() { _, _ = s.Hold(t.Context(), underTwo(id)) }) // Admitted or Repeated
				group.Go(func() { revoke(0, id) })
				group.Wait()
			}
			levels(t, s, 0, 0)
			hold("used", store.Admitted)
			revoke(7, "used")
			levels(t, s, 0, 7)
		})
	}
}
