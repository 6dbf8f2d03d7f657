package demo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

// fakeShop is the fake stack's token service, with one customer.
type fakeShop struct {
	credits int64
	entries []judge.Entry
	code    string // of the refusal
	end     string // how purchases end
	short   int64  // what the payment takes less
	bought  []judge.Bought
	key     string // Idempotency-Key of the last order
}

// sell adds the routes of the token service; they answer when there is a shop.
func (s *fakeStack) sell(mux *http.ServeMux) {
	mux.HandleFunc("POST /api/v1/tokens/purchase", func(w http.ResponseWriter, r *http.Request) {
		b := judge.Bought{Amount: 3, Currency: "usd", Status: "STARTED"}
		_ = json.NewDecoder(r.Body).Decode(&b)
		s.mu.Lock()
		b.ID = fmt.Sprintf("11111111-1111-4111-8111-%012d", len(s.shop.bought)) // its last digits are its place
		s.shop.bought = append(s.shop.bought, b)
		s.shop.key = r.Header.Get("Idempotency-Key")
		s.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
		s.answer(w, map[string]any{"sagaId": b.ID, "status": b.Status})
	})
	mux.HandleFunc("GET /api/v1/tokens/purchase/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		at, _ := strconv.Atoi(r.PathValue("id")[24:])
		b := &s.shop.bought[at]
		if b.Status != s.shop.end {
			b.Status = s.shop.end
			s.shop.credits += b.Tokens
			s.shop.entries = append(s.shop.entries, judge.Entry{Kind: judge.KindPurchase, Tokens: b.Tokens, Reference: b.ID, At: time.Now()})
		}
		copied := *b
		s.mu.Unlock()
		s.answer(w, copied)
	})
	mux.HandleFunc("GET /api/v1/tokens/quota", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		q := judge.Quota{Total: s.shop.credits, Remaining: s.shop.credits - s.level[s.caller(r)]}
		s.mu.Unlock()
		s.answer(w, q)
	})
	mux.HandleFunc("GET /api/v1/tokens/ledger", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		items, next := s.shop.entries, ""
		if half := len(items) / 2; r.URL.Query().Get("cursor") == "" && half > 0 {
			items, next = items[:half], "more"
		} else {
			items = items[half:]
		}
		page := map[string]any{"items": append([]judge.Entry(nil), items...), "nextCursor": next}
		s.mu.Unlock()
		s.answer(w, page)
	})
	mux.HandleFunc("GET /api/v1/admin/ledger/verify", func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w,
			judge.LedgerProof{Balanced: true})
	})
	mux.HandleFunc("GET /__stub/payments", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		taken := -s.shop.short
		for _, b := range s.shop.bought {
			taken += b.Amount
		}
		s.mu.Unlock()
		s.answer(w, map[string]any{"captured": map[string]int64{r.URL.Query().Get("account"): taken}})
	})
}

func TestPurchases(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		shop   fakeShop
		tokens int64
		faults fakeFaults
		reason string // of a verdict that is not OK
		err    string
	}{
		"honest":          {fakeShop{code: judge.CodeDry, end: statusCompleted}, 1_000, fakeFaults{}, "", ""},
		"events get lost": {fakeShop{code: judge.CodeDry, end: statusCompleted}, 1_000, fakeFaults{loseEvents: true}, "the books differ on", ""},
		"paid too little": {fakeShop{code: judge.CodeDry, end: statusCompleted, short: 1}, 1_000, fakeFaults{}, "captured 5 minor units", ""},
		"refused as a failure": {fakeShop{code: "project_spend_limit_exceeded", end: statusCompleted}, 1_000, fakeFaults{}, "",
			"project_spend_limit_exceeded buy some"},
		"the purchase fails": {fakeShop{code: judge.CodeDry, end: statusFailed}, 1_000, fakeFaults{}, "", "failed; leaky sagas show 11111111"},
		"too few":            {fakeShop{}, leastPurchase - 1, fakeFaults{}, "", "1000 to 100000 are possible"},
		"too many":           {fakeShop{}, mostPurchase + 1, fakeFaults{}, "", "1000 to 100000 are possible"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeStack(t, test.faults)
			s.shop = &test.shop
			d := s.demo(t, time.Second)
			d.cfg.Payments, d.cfg.Price = s.gateway.URL, func(string) int64 { return 3_000 }
			if test.reason == "" {
				d.cfg.Drain = time.Minute // its books do come, on any machine
			}
			v, err := d.Purchases(t.Context(), test.tokens)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("want an error with %q, got %v", test.err, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(v.Reasons, "\n"); v.OK != (test.reason == "") || !strings.Contains(got, test.reason) {
				t.Errorf("want reason %q, got OK %v\n%s", test.reason, v.OK, got)
			}
			if v.Admitted == 0 || v.Refused == 0 || s.shop.key == "" {
				t.Errorf("got %d admitted and %d refused calls, Idempotency-Key %q", v.Admitted, v.Refused, s.shop.key)
			}
		})
	}
}

func TestPurchasesNeedsAStub(t *testing.T) {
	t.Parallel()
	d := newFakeStack(t, fakeFaults{}).demo(t, time.Second)
	d.cfg.Targets[0].Protocol = judge.ProtocolGemini
	if _, err := d.Purchases(t.Context(), leastPurchase); err == nil || !strings.Contains(err.Error(), "no stub speaks") {
		t.Errorf("got %v", err)
	}
}
