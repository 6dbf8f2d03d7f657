package ratelimit_test

import (
	"sync/atomic"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// hourly is a pool of ann that refills each hour, of which the books are half an hour in.
func hourly(credits, version int64) balance.State {
	b := prepaid("user:ann", credits, version)
	b.Window, b.Anchor = time.Hour, b.At.Add(-90*time.Minute)
	return b
}

// TestWhatWasSpentBeforeTheClockWasAheadIsSpent: ann has spent nearly all of an hour when Redis' clock is two hours ahead,
// and a little more meanwhile. Once it is set right the books are asked, but not before each meter has published what was
// over; and then again only for want of money.
func TestWhatWasSpentBeforeTheClockWasAheadIsSpent(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	l := &ledger{}
	l.set(hourly(300, 1))
	state := l.pools["user:ann"]
	e := start(t, thousand, asking(l), func(c *ratelimit.Config) {
		c.Now, c.Timeout = func() int64 { return time.Now().UnixMicro() + ahead.Load() }, 3*time.Second
	})
	if err := e.service.SetBalance(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	e.run(t)
	testenv.Eventually(t, "all pools are asked for, which is no question of a call", func() bool { return l.questions() > 0 })
	tell := meterOf(t, e)
	spend(t, e, 250)
	ahead.Store(2 * time.Hour.Microseconds())
	spend(t, e, 20)
	ahead.Store(0)

	tell(int64(1e9), "") // nothing of it is published
	asked := l.questions()
	if code, err := e.decides(t, "40"); err == nil {
		t.Fatalf("want it to wait for the meter, got %s", code)
	}
	if err := e.service.SetBalance(t.Context(), spent(state, 0)); err != nil { // what the stream has tells nothing of that
		t.Error(err)
	}
	if code, err := e.decides(t, "40"); err == nil || l.questions() != asked {
		t.Fatalf("want it to wait still, got %s, asked %d times", code, l.questions()-asked)
	}
	state.Version = 2
	l.set(spent(state, 270))
	tell(0, "")
	testenv.Eventually(t, "the books are asked", func() bool {
		code, err := e.decides(t, "25")
		return err == nil && code == rls.RateLimitResponse_OK
	})
	asked = l.questions()
	if code, err := e.decides(t, "5"); err != nil || code != rls.RateLimitResponse_OK || l.questions() != asked {
		t.Errorf("want the rest without a question, got %s, %v, asked %d times", code, err, l.questions()-asked)
	}
	if code, err := e.decides(t, "20"); err != nil || code != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("want no more than that, got %s, %v", code, err)
	}
}

// TestAClockThatIsBehindRefillsNothing: Redis' clock falls back over the border of a window that ann has drawn on.
func TestAClockThatIsBehindRefillsNothing(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	l := &ledger{}
	l.set(hourly(300, 1))
	e := start(t, thousand, asking(l), func(c *ratelimit.Config) {
		c.Now = func() int64 { return time.Now().UnixMicro() + ahead.Load() }
	})
	spend(t, e, 250)
	ahead.Store(-time.Hour.Microseconds())
	asked := l.questions()
	for range 2 {
		if code, err := e.decides(t, "20"); err != nil || code != rls.RateLimitResponse_OK || l.questions() != asked+1 {
			t.Errorf("want it asked once, got %s, %v, asked %d times", code, err, l.questions()-asked)
		}
	}
	ahead.Store(0)
	if code, err := e.decides(t, "20"); err != nil || code != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("want nothing refilled, got %s, %v", code, err)
	}
	if p := e.pool(t, "user:ann"); p.GetSpent() != 250 || p.GetHeld() != 40 {
		t.Errorf("want what was spent and is held, got %v", p)
	}
}
