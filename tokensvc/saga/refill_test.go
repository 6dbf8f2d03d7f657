package saga

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
)

// spend charges the buyer's pool and lets a day and more pass.
func (w *world) spend(tokens int64) ledger.Pool {
	w.t.Helper()
	id := uuid.MustParse(alice)
	account := ledger.Account(id, uuid.Nil)
	_, err := ledger.Apply(w.t.Context(), w.pool, []ledger.Charge{{Request: uuid.NewString(), Account: account, Provider: "openai", Tokens: tokens,
		Drawn: true, At: time.Now()}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.exec(`UPDATE token_pools SET anchor = anchor - interval '25 hours', reset_time = reset_time - interval '25 hours'`)
	p, err := ledger.Find(w.t.Context(), w.pool, ledger.Key{Account: account, Provider: "openai"})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) exec(sql string) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatal(err)
	}
}

// What was bought and spent does not come back with a new day, unless the buyer asked for a
// pool that refills.
func TestPurchasesArePrepaid(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		left int64
	}{
		"not stated": {`{"provider":"openai","tokens":500}`, 132},
		"never":      {`{"provider":"openai","tokens":500,"refill":"never"}`, 132},
		"window":     {`{"provider":"openai","tokens":500,"refill":"window"}`, 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.run()
			w.until(w.buy(user(alice), tc.body), final)
			if p := w.spend(368); p.Remaining != tc.left {
				t.Errorf("want %d of 500 left on the next day, got %d", tc.left, p.Remaining)
			}
		})
	}
}

// TestPoolFromBefore does what docs/purchases.md says to a pool that refills.
func TestPoolFromBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.run()
	w.until(w.buy(user(alice), `{"provider":"openai","tokens":500,"refill":"window"}`), final)
	w.exec(`UPDATE token_pools SET refill = 'never', reset_time = NULL, version = version + 1, updated_at = now()
		WHERE user_id = '` + alice + `' AND provider = 'openai'`)
	if p := w.spend(368); p.Remaining != 132 {
		t.Errorf("want 132 left on the next day, got %d", p.Remaining)
	}
	if n, err := ledger.Announce(t.Context(), w.pool); n != 1 || err != nil {
		t.Errorf("want ratelimit told of it, got %d, %v", n, err)
	}
	if n := w.number(`SELECT count(*) FROM token_outbox WHERE subject LIKE 'leaky.balance.%' AND payload->>'window' = '0'
		AND (payload->>'spent')::bigint = 368`); n != 1 {
		t.Errorf("want the prepaid state announced, got %d", n)
	}
	if differences, err := ledger.Verify(t.Context(), w.pool); len(differences) > 0 || err != nil {
		t.Errorf("books: %v, %v", differences, err)
	}
}

func TestPoolKeepsItsRefill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	never, window := `{"provider":"openai","tokens":500,"refill":"never"}`, `{"provider":"openai","tokens":500,"refill":"window"}`
	// Both are taken before there is a pool. The one that comes second is refused and its money given back.
	ids := []string{w.buy(user(alice), never), w.buy(user(alice), window)}
	w.run()
	outcome := map[string]int{}
	for _, id := range ids {
		row := w.until(id, final)
		if outcome[row.Status]++; row.Status == "FAILED" && w.payments.book[row.ID].Status != payment.Voided {
			t.Errorf("want it voided, got %+v", w.payments.book[row.ID])
		}
	}
	if outcome["COMPLETED"] != 1 || outcome["FAILED"] != 1 {
		t.Errorf("want one completed and one failed, got %v", outcome)
	}
	refused := 0
	for _, body := range []string{never, window} {
		if got := w.call(t, user(alice), "POST", path, "", body); got.status == 409 {
			refused++
		} else if got.status != 202 {
			t.Errorf("want 202 or 409, got %d %s", got.status, got.text)
		}
	}
	if refused != 1 {
		t.Errorf("want the other way refused at once, got %d refusals", refused)
	}
	if got := w.call(t, user(alice), "POST", path, "", `{"provider":"openai","tokens":5,"refill":"daily"}`); got.status != 400 {
		t.Errorf("want 400, got %d %s", got.status, got.text)
	}
}
