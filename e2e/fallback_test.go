package e2e

import (
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// callOf calls a model by name.
func callOf(t *testing.T, who stacktest.Account, model string, stream bool) answer {
	t.Helper()
	return request(t, "POST", chatPath, "", map[string]any{"model": model, "stream": stream,
		"messages": []any{map[string]any{"role": "user", "content": "Say something."}}}, byKey(who)...)
}

// TestFallbackIsBooked: a provider is down and another answers. The books show who was asked and who
// answered, its pool pays, its limits bind, and nothing stays held.
func TestFallbackIsBooked(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	buy(t, who, "openai", 50_000)
	for _, stream := range []bool{false, true} {
		a := callOf(t, who, "away1", stream)
		if a.status != 200 || a.header.Get("x-leaky-served") != "openai/gpt-4o-mini" {
			t.Fatalf("want the fallback's answer, got %d %v %s", a.status, a.header, a.text)
		}
		row := booked(t, who, "openai", a.header.Get("x-request-id"))
		if row.Model != "away1" || !strings.HasPrefix(row.ModelServed, "gpt-4o-mini") || row.Tokens == 0 || row.Source != "provider" {
			t.Errorf("stream %t: want away1 asked and gpt-4o-mini served and counted, got %+v", stream, row)
		}
	}
	// Who owns too little at the second one's provider is refused there.
	poor := newAccount(t, "PREPAID")
	if a := callOf(t, poor, "away1", false); a.status != 429 {
		t.Errorf("want the fallback's pool asked, got %d %s", a.status, a.text)
	}
	narrow := newAccount(t, "TINY")
	full := callOf(t, narrow, "away2", false)
	for n := 0; full.status == 200 && n < 40; n++ {
		full = callOf(t, narrow, "away2", false)
	}
	if full.status != 429 || !strings.Contains(full.text, "rate_limit_exceeded") {
		t.Errorf("want the limits of the fallback's provider bind, got %d %s", full.status, full.text)
	}
	for _, one := range []stacktest.Account{who, poor, narrow} {
		wantNoHolds(t, one)
	}
}

// wantNoHolds waits until nothing is held for an account.
func wantNoHolds(t *testing.T, who stacktest.Account) {
	t.Helper()
	testenv.Eventually(t, "no hold of "+who.ID, func() bool {
		out, err := running.Leaky(t.Context(), "holds", "--account", "user:"+who.ID, "-o", "json")
		return err == nil && !strings.Contains(out, who.ID)
	})
}
