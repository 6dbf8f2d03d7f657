package throttle

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func settings() config.Throttle {
	return config.Throttle{Failures: 3, Addresses: 6, Registers: 4, Longest: time.Minute, Window: time.Minute}
}

func from(ip string) context.Context {
	return clientinfo.With(context.Background(), clientinfo.Origin{IP: netip.MustParseAddr(ip)})
}

// throttled is a Throttle whose clock stands, so that no wait is over before a slow test looks at it.
type throttled struct {
	*Throttle
	mu    sync.Mutex
	clock time.Time
	since time.Time // when the clock began to run; zero: it stands
}

func newThrottled(client redis.UniversalClient, prefix string) *throttled {
	th := &throttled{clock: time.Unix(1_800_000_000, 0),
		Throttle: New(Config{Redis: client, Prefix: prefix, Settings: settings(), Log: slog.New(slog.DiscardHandler)})}
	th.local.now = th.now
	if s, ok := th.shared.(*shared); ok {
		s.now = th.now
	}
	return th
}

func (th *throttled) now() time.Time {
	th.mu.Lock()
	defer th.mu.Unlock()
	if th.since.IsZero() {
		return th.clock
	}
	return th.clock.Add(time.Since(th.since))
}

// run lets the clock run until the returned function stops it.
func (th *throttled) run() (stop func()) {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.since = time.Now()
	return func() {
		now := th.now()
		th.mu.Lock()
		defer th.mu.Unlock()
		th.clock, th.since = now, time.Time{}
	}
}

// failAfterTheWait makes a wrong attempt of somebody who stands through a first wait.
func (th *throttled) failAfterTheWait(ctx context.Context, t *testing.T, account string) {
	t.Helper()
	stop := th.run()
	a, wait := th.Enter(ctx, account)
	stop()
	if wait > 0 {
		t.Fatalf("has to wait %s", wait)
	}
	a.Fail(ctx)
}

// both runs a test on the counter in Redis and on the one in memory.
func both(t *testing.T, test func(t *testing.T, th *throttled)) {
	t.Helper()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		client, prefix := testenv.Redis(t)
		th := newThrottled(client, prefix)
		th.patience = time.Minute // a busy machine is slow, and what is tested is the count in Redis
		test(t, th)
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, newThrottled(nil, ""))
	})
}

// fail makes so many wrong attempts, none of which may have to wait.
func fail(ctx context.Context, t *testing.T, th *throttled, account string, times int) {
	t.Helper()
	for i := range times {
		a, wait := th.Enter(ctx, account)
		if wait > 0 {
			t.Fatalf("attempt %d has to wait %s", i+1, wait)
		}
		a.Fail(ctx)
	}
}

func TestTheThirdFailureMakesWait(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, th *throttled) {
		fail(from("192.0.2.1"), t, th, "ann", 3)
		if _, wait := th.Enter(from("192.0.2.1"), "ANN"); wait <= 0 || wait > time.Second {
			t.Fatalf("want a wait of up to 1s, got %s", wait)
		}
		th.failAfterTheWait(from("192.0.2.2"), t, "ann")
		for _, another := range []string{"192.0.2.2", "192.0.2.3"} {
			if _, wait := th.Enter(from(another), "ann"); wait <= 0 {
				t.Fatalf("%s may go on guessing", another)
			}
		}
		if _, wait := th.Enter(from("192.0.2.1"), "bob"); wait > 0 {
			t.Fatalf("another account waits %s", wait)
		}
	})
}

func TestAnAddressThatTriesManyAccountsWaits(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, th *throttled) {
		for _, account := range []string{"a", "b", "c", "d", "e", "f"} {
			fail(from("192.0.2.1"), t, th, account, 1)
		}
		th.failAfterTheWait(from("192.0.2.1"), t, "g")
		if _, wait := th.Enter(from("192.0.2.1"), "h"); wait <= 0 {
			t.Fatal("want a wait")
		}
		if _, wait := th.Enter(from("192.0.2.2"), "h"); wait > 0 {
			t.Fatalf("another address waits %s", wait)
		}
	})
}

func TestSuccessForgetsAndAbandonTakesBack(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, th *throttled) {
		ctx := from("192.0.2.1")
		for range 20 {
			fail(ctx, t, th, "ann", 2)
			a, wait := th.Enter(ctx, "ann")
			if wait > 0 {
				t.Fatalf("waits %s", wait)
			}
			a.Succeed(ctx)
		}
		for range 20 {
			a, wait := th.Enter(ctx, "bob")
			if wait > 0 {
				t.Fatalf("what was abandoned counts: waits %s", wait)
			}
			a.Abandon(ctx)
		}
	})
}

// Somebody who guesses at an account from elsewhere does not lock its owner out.
func TestAKnownAddressIsCountedApart(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, th *throttled) {
		home, elsewhere := from("192.0.2.1"), from("198.51.100.1")
		a, wait := th.Enter(home, "ann")
		if wait > 0 {
			t.Fatal("waits")
		}
		a.Succeed(home)
		fail(elsewhere, t, th, "ann", 3)
		if _, wait := th.Enter(elsewhere, "ann"); wait <= 0 {
			t.Fatal("the guesser does not wait")
		}
		fail(home, t, th, "ann", 3)
		if _, wait := th.Enter(home, "ann"); wait <= 0 {
			t.Fatal("their own address may guess for ever")
		}
	})
}

// Parallel guesses cannot all slip through before the first has failed.
func TestParallelGuessesAreCountedAtOnce(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, th *throttled) {
		var through atomic.Int64
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				ctx := from("192.0.2.1")
				if a, wait := th.Enter(ctx, "ann"); wait == 0 {
					through.Add(1)
					a.Fail(ctx)
				}
			})
		}
		wg.Wait()
		if n := through.Load(); n != 3 {
			t.Fatalf("want 3 through, got %d", n)
		}
	})
}

func TestRegistrationsOfOneAddress(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, th *throttled) {
		for range 5 {
			if wait := th.Register(from("2001:db8::1")); wait > 0 {
				t.Fatalf("waits %s", wait)
			}
		}
		if wait := th.Register(from("2001:db8::2")); wait <= 0 {
			t.Fatal("a neighbour in the same /64 does not wait")
		}
		if wait := th.Register(from("2001:db8:0:1::1")); wait > 0 {
			t.Fatalf("another network waits %s", wait)
		}
	})
}

func TestWithoutRedisTheProcessCounts(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialTimeout: 50 * time.Millisecond,
		ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	th := newThrottled(client, "")
	fail(from("192.0.2.1"), t, th, "ann", 3)
	if _, wait := th.Enter(from("192.0.2.1"), "ann"); wait <= 0 {
		t.Fatal("nobody counts")
	}
}

func TestPausesDoubleToACeiling(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{0: 0, 2: 0, 3: time.Second, 4: 2 * time.Second, 8: 32 * time.Second, 9: time.Minute,
		1 << 30: time.Minute} {
		if got := pause(failures, 3, time.Minute); got != want {
			t.Errorf("%d failures: want %s, got %s", failures, want, got)
		}
	}
}
