package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// me is what GET /api/v1/me says of limits and balances.
type me struct {
	ID, Tier, Account string
	Limits            []struct {
		Rule, Unit, Provider, Route string
		Capacity, Level, Held       float64
		Remaining                   int64
	}
	Balances []struct {
		Provider                   string
		Credits, Spent, Held, Left int64
	}
}

// level is how full a limit is, -1 when it is not told of.
func (m me) level(rule, provider string) (capacity, level float64) {
	for _, l := range m.Limits {
		if l.Rule == rule && (l.Provider == "" || l.Provider == provider) {
			return l.Capacity, l.Level
		}
	}
	return 0, -1
}

// TestMeTellsLimitsAndBalances: contract 21, with either credential, live.
func TestMeTellsLimitsAndBalances(t *testing.T) {
	t.Parallel()
	who := newAccount(t, "SILVER")
	read := func(header []string) me {
		var m me
		testenv.Eventually(t, "limits are told", func() bool { // not where the limiter takes long
			m = me{}
			told(t, "/api/v1/me", &m, header...)
			return len(m.Limits) > 0
		})
		return m
	}
	if m := read(byToken(who)); m.ID != who.ID || m.Tier != "SILVER" || m.Account != "user:"+who.ID || len(m.Balances) != 0 {
		t.Errorf("before anything: got %+v", m)
	}
	buy(t, who, "openai", 3000)
	// The limiter was told above that there is no pool; that there is one now comes to it by itself.
	testenv.Eventually(t, "the purchase admits", func() bool {
		r := request(t, "POST", pathConsume, "", `{"provider":"openai","tokens":500}`, byKey(who)...)
		if r.status != 200 && r.status != 402 {
			t.Fatalf("want 200, or 402 for a moment, got %d %s", r.status, r.text)
		}
		return r.status == 200
	})
	for _, header := range [][]string{byKey(who), byToken(who)} {
		m := read(header)
		if capacity, level := m.level("user-tokens", "openai"); capacity != 2_000_000 || level < 0 {
			t.Errorf("user-tokens: got %v of %v in %+v", level, capacity, m.Limits)
		}
		if capacity, level := m.level("token-bucket", "openai"); capacity != 2000 || level < 100 || level > 500 {
			t.Errorf("token-bucket: got %v of %v in %+v", level, capacity, m.Limits)
		}
		if len(m.Balances) != 1 || m.Balances[0].Provider != "openai" || m.Balances[0].Credits != 3000 || m.Balances[0].Left != 2500 {
			t.Errorf("balances: got %+v", m.Balances)
		}
	}
	wantProblem(t, request(t, "GET", "/api/v1/me", "", nil), 401, "")
}

// explained is what leaky explain -o json says.
type explained struct {
	RequestID, Account, Refusal, Rule string
	Admitted                          bool
	HeldTokens                        int64
	Limits                            []struct{ Rule, Verdict string }
	Hold                              *struct {
		State   string
		Charged int64
	}
}

func explain(t *testing.T, r answer) explained {
	t.Helper()
	out, err := running.Leaky(t.Context(), "explain", r.header.Get("X-Request-Id"), "-o", "json")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var e explained
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return e
}

// TestExplain: what decided about a call, by its request id, of both ways to spend tokens.
func TestExplain(t *testing.T) {
	t.Parallel()
	who, tiny := newAccount(t), newAccount(t, "TINY")
	for _, caller := range []stacktest.Account{who, tiny} {
		buy(t, caller, "openai", 900)
	}
	admitted := llmCall(t, who, "openai", 20)
	booked(t, who, "openai", admitted.header.Get("X-Request-Id"))
	if e := explain(t, admitted); !e.Admitted || e.Account != "user:"+who.ID || e.HeldTokens < 20 || len(e.Limits) == 0 || e.Hold == nil ||
		e.Hold.State != "settled" || e.Hold.Charged == 0 {
		t.Errorf("an admitted call: got %+v", e)
	}
	dry := llmCall(t, who, "openai", 5000)
	wantNoCredit(t, dry, "openai")
	if e := explain(t, dry); e.Admitted || e.Refusal != "balance" {
		t.Errorf("a balance that is too small: got %+v", e)
	}
	large := llmCall(t, tiny, "openai", 1500)
	if e := explain(t, large); large.status != 429 || e.Admitted {
		t.Errorf("larger than the bucket: %d, got %+v", large.status, e)
	}
	spent := request(t, "POST", pathConsume, "", `{"provider":"openai","tokens":100}`, byKey(who)...)
	if e := explain(t, spent); spent.status != 200 || !e.Admitted || e.HeldTokens != 100 {
		t.Errorf("consume: %d, got %+v", spent.status, e)
	}
	out, err := running.Leaky(t.Context(), "explain", uuid.NewString())
	if err == nil {
		t.Errorf("nobody made this call:\n%s", out)
	}
	if out, err = running.Leaky(t.Context(), "holds", "--account", "user:"+who.ID, "-o", "json"); err != nil || strings.Contains(out, who.ID) {
		t.Errorf("all calls are over, want no hold, got %v\n%s", err, out)
	}
}
