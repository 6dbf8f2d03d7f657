//go:build long

package e2e

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestConsumeSurvivesACrash kills the token service between the hold and the provider's
// answer: the hold expires and everything is given back, and nothing is booked. It takes as
// long as such a hold lives, half a minute, and so belongs to make test-long.
func TestConsumeSurvivesACrash(t *testing.T) {
	who := newAccount(t)
	buy(t, who, "flaky", 900)
	m := startMoody(t, running.Flaky)
	m.behave(`{"hang":true}`) // until the service is killed, or as long as a call may take
	expired := measured(t, "ratelimit", "leaky_ratelimit_holds_expired_total")
	gone := make(chan answer, 1)
	go func() {
		a, _ := tryRequest(t.Context(), "POST", pathConsume, "", map[string]any{"provider": "flaky", "tokens": 600}, byKey(who)...)
		gone <- a
	}()
	testenv.Eventually(t, "the call at the provider", func() bool { return m.seen().Counts.Open > 0 })
	must(t, "kill", "tokensvc")
	a := <-gone
	if a.status < 500 {
		t.Fatalf("want the gateway's word for a service that is gone, got %d %s", a.status, a.text)
	}
	m.behave(`{}`)
	testenv.Eventually(t, "the token service", func() bool { return consumeAt(t, who, "flaky", 1).status == 200 })
	// The hold still stands: neither bucket nor pool has room for as much again.
	if r := consumeAt(t, who, "flaky", 600); r.status != 402 && r.status != 429 {
		t.Errorf("want the hold in the way, got %d %s", r.status, r.text)
	}
	testenv.Within(t, 90*time.Second, "an expired hold", func() bool {
		return measured(t, "ratelimit",
			"leaky_ratelimit_holds_expired_total") > expired
	})
	r := consumeAt(t, who, "flaky", 600)
	if r.status != 200 {
		t.Errorf("want what was held back, got %d %s", r.status, r.text)
	}
	booked(t, who, "flaky", r.header.Get("X-Request-Id")) // whatever was told of the first call came before
	for _, row := range listed(t, who, "flaky") {
		if row.RequestID == a.header.Get("X-Request-Id") {
			t.Errorf("the books say %+v of a call without an answer", row)
		}
	}
}
