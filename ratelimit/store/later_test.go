package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// openOn is a store on a server of its own.
func openOn(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.New(store.Config{URL: url, Lifetime: time.Microsecond, SettledKept: time.Hour, Timeout: time.Minute, DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func plenty() []bucket.Bucket {
	return []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e12, Rate: 1e-9}), Key: "{user:u}:b:x"}}
}

// TestWhatIsNotAboutTheHoldMeansLater: a server that refuses us, or refuses to write, says
// nothing of a hold. Its settlement is to be tried again, and then settles.
func TestWhatIsNotAboutTheHoldMeansLater(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ spoil, mend []any }{
		"no right to run scripts": {[]any{"ACL", "SETUSER", "default", "-evalsha", "-eval"}, []any{"ACL", "SETUSER", "default", "+@all"}},
		"no right to write":       {[]any{"ACL", "SETUSER", "default", "-set", "-mset"}, []any{"ACL", "SETUSER", "default", "+@all"}},
		"no right to the keys":    {[]any{"ACL", "SETUSER", "default", "resetkeys"}, []any{"ACL", "SETUSER", "default", "~*"}},
		"became a replica":        {[]any{"REPLICAOF", "127.0.0.1", "1"}, []any{"REPLICAOF", "NO", "ONE"}},
		"out of memory":           {[]any{"CONFIG", "SET", "maxmemory", "1"}, []any{"CONFIG", "SET", "maxmemory", "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testenv.RedisServer(t)
			s, admin := openOn(t, server.URL()), server.Client()
			if _, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: "a", Output: 400, Buckets: plenty()}); err != nil {
				t.Fatal(err)
			}
			if err := admin.Do(t.Context(), tc.spoil...).Err(); err != nil {
				t.Fatal(err)
			}
			settle := []store.Settlement{{Account: "user:u", ID: "a", Charged: 30}}
			if done, err := s.Settle(t.Context(), settle); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("want it left for later, got %+v, %v", done, err)
			}
			if got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: "b", Output: 400, Buckets: plenty()}); !errors.Is(err,
				store.ErrUnavailable) {
				t.Errorf("a hold: want no verdict, got %+v, %v", got, err)
			}
			if err := admin.Do(t.Context(), tc.mend...).Err(); err != nil {
				t.Fatal(err)
			}
			testenv.Eventually(t, "it is settled then", func() bool {
				done, err := s.Settle(t.Context(), settle)
				return err == nil && done[0].Status == store.Settled && done[0].Held == 400
			})
		})
	}
}

// TestWrongPasswordMeansLater connects with no password where one is wanted.
func TestWrongPasswordMeansLater(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	if err := server.Client().Do(t.Context(), "CONFIG", "SET", "requirepass", "secret").Err(); err != nil {
		t.Fatal(err)
	}
	s := openOn(t, server.URL())
	if done, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "a", Charged: 30}}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("want it left for later, got %+v, %v", done, err)
	}
	many := plenty()
	for i := range 8 {
		b := many[0]
		b.Key += fmt.Sprint(i)
		many = append(many, b)
	}
	if got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: "a", Output: 400, Buckets: many}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a hold of many buckets: want no verdict, got %+v, %v", got, err)
	}
	if err := s.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("want NOAUTH told, got %v", err)
	}
}

// TestSettledAgainSaysWhatWasCharged: a replay names the first charge, as long as it is
// remembered, also of a hold above 2^31.
func TestSettledAgainSaysWhatWasCharged(t *testing.T) {
	t.Parallel()
	s := openOn(t, testenv.RedisServer(t).URL())
	const huge = 1 << 40
	if got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: "a", Input: huge, Output: huge, Buckets: plenty()}); err != nil ||
		got.Outcome != store.Refused && got.Held != 2*huge {
		t.Fatalf("hold: %+v, %v", got, err)
	}
	roomy := []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1 << 50, Rate: 1e-9}), Key: "{user:u}:b:y"}}
	if got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: "b", Input: huge, Output: huge, Buckets: roomy}); err != nil ||
		got.Outcome != store.Admitted || got.Held != 2*huge {
		t.Fatalf("hold: %+v, %v", got, err)
	}
	for i, want := range []store.Status{store.Settled, store.Duplicate, store.Duplicate} {
		done, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "b", Charged: huge + int64(i)}})
		if err != nil || done[0].Status != want || done[0].Charged != huge || done[0].Held != 2*huge {
			t.Errorf("settlement %d: want %c of %d, got %+v, %v", i+1, want, int64(huge), done, err)
		}
	}
}

// TestBadHoldsStandInNobodysWay: records that are cut, keys of another kind and a visitor
// that fails leave every other hold to be visited in the same sweep.
func TestBadHoldsStandInNobodysWay(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *testenv.RedisProcess{"one server": testenv.RedisServer, "a cluster": testenv.RedisCluster} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			url := server.URL()
			if name == "a cluster" {
				url = "redis+cluster://" + url[len("redis://"):]
			}
			s, raw := openOn(t, url), server.Client()
			const holds = 2000 // several steps of a scan
			takes := make([]store.Take, holds)
			for i := range takes {
				takes[i] = store.Take{Account: "user:u", ID: fmt.Sprint(i), Output: 1, Buckets: plenty()}
			}
			if _, err := s.HoldAll(t.Context(), takes); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Sweep(t.Context(), func(store.Hold) error { return nil }); err != nil { // the index has them all
				t.Fatal(err)
			}
			spoil(t, raw, s)
			for way, s := range map[string]*store.Store{"by the index": s, "by a scan": openOn(t, url)} {
				seen := map[string]bool{}
				_, err := s.Sweep(t.Context(), func(h store.Hold) error {
					if seen[h.ID] = true; h.ID == "7" {
						return errors.New("seven is odd")
					}
					return nil
				})
				if err == nil {
					t.Errorf("%s: want the bad ones told, got none", way)
				}
				if len(seen) != holds-20 {
					t.Errorf("%s: want %d holds visited, got %d", way, holds-20, len(seen))
				}
			}
		})
	}
}

// spoil cuts the records of 20 holds and puts other kinds of keys beside them.
func spoil(t *testing.T, raw *redis.Client, s *store.Store) {
	t.Helper()
	for i := 100; i < 120; i++ {
		if err := raw.Set(t.Context(), s.HoldKey("user:u", fmt.Sprint(i)), "Hcut", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := raw.LPush(t.Context(), s.HoldKey("user:u", fmt.Sprint("list", i)), "x").Err(); err != nil {
			t.Fatal(err)
		}
	}
}
