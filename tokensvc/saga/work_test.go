package saga

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
)

var errLost1 = errors.New("no answer")

// once fails the first call of a step, after it took effect.
func once(step string) func(string, payment.Order, *payment.State) error {
	failed := false
	return func(at string, _ payment.Order, _ *payment.State) error {
		if at == step && !failed {
			failed = true
			return errLost1
		}
		return nil
	}
}

func TestWhatPaymentsDo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		decline string
		fault   func(string, payment.Order, *payment.State) error
		status  string // at the end; with "parked" when a person is asked
		failure string
		pay     payment.Status
		calls   string // to the payment; empty: not looked at
	}{
		"all well": {status: "COMPLETED", pay: payment.Captured, calls: "authorize capture"},
		"declined": {decline: "authorize", status: "FAILED", failure: "payment declined: no funds", pay: payment.Declined,
			calls: "authorize"},
		"capture declined": {decline: "capture", status: "FAILED", failure: "capture declined: no funds", pay: payment.Declined,
			calls: "authorize capture void"},
		"authorization lost": {fault: once("authorize"), status: "COMPLETED", pay: payment.Captured, calls: "authorize find capture"},
		"capture lost":       {fault: once("capture"), status: "COMPLETED", pay: payment.Captured, calls: "authorize capture find"},
		"other amount reserved": {fault: func(step string, _ payment.Order, s *payment.State) error {
			if step == "authorize" {
				s.Amount++
			}
			return nil
		}, status: "FAILED", failure: "the payment reserved 2 usd instead of 1 usd", pay: payment.Voided, calls: "authorize void"},
		"other amount captured": {fault: func(step string, _ payment.Order, s *payment.State) error {
			if step == "capture" {
				s.Captured++
			}
			return nil
		}, status: "TOKENS_ALLOCATED parked", pay: payment.Captured},
		"captured at once": {fault: func(step string, _ payment.Order, s *payment.State) error {
			s.Status, s.Captured = payment.Captured, s.Amount
			return nil
		}, status: "STARTED parked", pay: payment.Captured},
		"never an answer": {fault: func(string, payment.Order, *payment.State) error { return errLost1 }, status: "STARTED parked",
			pay:   payment.Authorized,
			calls: "authorize find find find find"},
		"forgets what it reserved": {fault: func(step string, _ payment.Order, s *payment.State) error {
			if step == "capture" {
				*s = payment.State{Status: payment.Absent}
			}
			return nil
		}, status: "TOKENS_ALLOCATED parked", pay: payment.Absent},
		"never comes round to it": {fault: func(step string, _ payment.Order, s *payment.State) error {
			if step != "authorize" {
				s.Status, s.Captured = payment.Authorized, 0
			}
			return nil
		}, status: "TOKENS_ALLOCATED parked", pay: payment.Authorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.payments.decline[tc.decline], w.payments.fault = true, tc.fault
			w.run()
			row := w.until(w.buy(user(alice), order1(alice, "")), func(r Saga) bool { return final(r) || parked(r) })
			got := row.Status
			if row.ParkedAt != nil {
				got += " parked"
			}
			if got != tc.status || row.Failure != tc.failure || (row.ParkReason != "") != (row.ParkedAt != nil) {
				t.Errorf("want %s %q, got %s %q (%s)", tc.status, tc.failure, got, row.Failure, row.ParkReason)
			}
			w.payments.mu.Lock()
			defer w.payments.mu.Unlock()
			if s := w.payments.book[row.ID]; s.Status != tc.pay {
				t.Errorf("payment: want %s, got %+v", tc.pay, s)
			}
			if calls := strings.Join(w.payments.calls, " "); tc.calls != "" && calls != tc.calls {
				t.Errorf("calls: want %s, got %s", tc.calls, calls)
			}
			want := map[bool]int64{true: 1000, false: 0}[row.Status == "COMPLETED" || row.Status == "TOKENS_ALLOCATED"]
			if n := w.number(`SELECT COALESCE(sum(amount), 0)::bigint FROM token_ledger WHERE account LIKE 'user:%'`); n != want {
				t.Errorf("want %d tokens, got %d", want, n)
			}
		})
	}
}

// What was bought is spent before the capture is refused: the tokens are taken back all the
// same, and the account owes them.
func TestSpentBeforeTheCaptureFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.payments.decline["capture"] = true
	w.attach(func(c *Config) {
		c.Boundary = func(at string) {
			if at == "capture before" {
				if _, err := w.pool.Exec(t.Context(), `UPDATE token_pools SET remaining_tokens = remaining_tokens - 300`); err != nil {
					t.Error(err)
				}
			}
		}
	})
	w.run()
	row := w.until(w.buy(user(alice), order1(alice, "")), final)
	if n := w.number(`SELECT remaining_tokens FROM token_pools`); row.Status != "FAILED" || n != -300 {
		t.Errorf("want it failed and 300 tokens owed, got %s and %d", row.Status, n)
	}
}

func TestPersonDecides(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		operation string
		mended    bool
		status    string
	}{
		"retry after it was mended":  {"retry", true, "COMPLETED"},
		"cancel after it was mended": {"cancel", true, "FAILED"},
		"retry while it is broken":   {"retry", false, "parked"},
		"cancel while it is broken":  {"cancel", false, "parked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.payments.fault = func(string, payment.Order, *payment.State) error { return errLost1 }
			w.run()
			id := w.buy(user(alice), order1(alice, ""))
			first := w.until(id, parked)
			if tc.mended {
				w.payments.mu.Lock()
				w.payments.fault = nil
				w.payments.mu.Unlock()
			}
			if got := w.call(t, user(alice), "POST", "/api/v1/admin/sagas/"+id+"/"+tc.operation, "", ""); got.status != 403 {
				t.Errorf("by a user: want 403, got %d %s", got.status, got.text)
			}
			if got := w.call(t, admin(), "POST", "/api/v1/admin/sagas/"+id+"/"+tc.operation, "", ""); got.status != 200 || got.body["id"] != id {
				t.Fatalf("want 200, got %d %s", got.status, got.text)
			}
			row := w.until(id, func(r Saga) bool { return final(r) || parked(r) && r.ParkedAt.After(*first.ParkedAt) })
			if got := row.Status; tc.mended && got != tc.status || !tc.mended && row.ParkedAt == nil {
				t.Errorf("want %s, got %s", tc.status, got)
			}
			if tc.mended {
				if got := w.call(t, admin(), "POST", "/api/v1/admin/sagas/"+id+"/"+tc.operation, "", ""); got.status != 409 {
					t.Errorf("of a finished one: want 409, got %d %s", got.status, got.text)
				}
			}
			shown := w.call(t, admin(), "GET", "/api/v1/admin/sagas/"+id, "", "")
			if steps, ok := shown.body["steps"].([]any); shown.status != 200 || !ok || len(steps) < 2 || !strings.Contains(shown.text, "by "+bob) {
				t.Errorf("want the steps and who decided, got %d %s", shown.status, shown.text)
			}
		})
	}
}

// Cancelled while the capture is under way: whichever the payment did holds.
func TestCancelRacesTheCapture(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	captured, goOn := make(chan struct{}), make(chan struct{})
	w.attach(func(c *Config) {
		c.Boundary = func(at string) {
			if at == "capture answered" {
				captured <- struct{}{}
				<-goOn
			}
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	var hands sync.WaitGroup
	hands.Go(func() { _ = w.service.Run(ctx) })
	id := w.buy(user(alice), order1(alice, ""))
	<-captured
	if got := w.call(t, admin(), "POST", "/api/v1/admin/sagas/"+id+"/cancel", "", ""); got.status != 200 {
		t.Fatalf("want 200, got %d %s", got.status, got.text)
	}
	row := w.until(id, final) // another hand found it captured; the first one's write is fenced off
	close(goOn)
	stop()
	hands.Wait() // a step that began is ended: the first hand has tried to write
	if row.Status != "COMPLETED" || row.Backward || w.payments.book[row.ID].Status != payment.Captured {
		t.Errorf("want it completed, got %+v", row)
	}
	if n := w.number(`SELECT count(*) FROM token_outbox WHERE event_type = 'TOKEN_PURCHASE_COMPLETED'`); n != 1 {
		t.Errorf("want one event of its end, got %d", n)
	}
}

func TestCancelBeforeThePaymentWasAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil) // nobody works yet
	id := w.buy(user(alice), order1(alice, ""))
	if got := w.call(t, admin(), "POST", "/api/v1/admin/sagas/"+id+"/cancel", "", ""); got.status != 200 {
		t.Fatalf("want 200, got %d %s", got.status, got.text)
	}
	w.run()
	if row := w.until(id, final); row.Status != "FAILED" || len(w.payments.calls) != 0 {
		t.Errorf("want it failed without a call, got %s, %v", row.Status, w.payments.calls)
	}
}

// A purchase whose worker died is taken over by one of many replicas when its lease ends,
// and one that stood still for too long is turned back, or driven on when it has tokens.
func TestRecovery(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status, want, aggregate string
		parked                  bool
	}{
		"started":   {status: "STARTED", want: "FAILED", aggregate: "TokenPurchaseSagaRecovery"},
		"reserved":  {status: "PAYMENT_RESERVED", want: "FAILED", aggregate: "TokenPurchaseSagaRecovery"},
		"allocated": {status: "TOKENS_ALLOCATED", want: "COMPLETED", aggregate: "TokenPurchaseSagaRecovery"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(c *Config) { c.Timing.Stale = time.Minute })
			id := w.buy(user(alice), order1(alice, ""))
			w.bringTo(id, Status(tc.status))
			if _, err := w.pool.Exec(t.Context(), `UPDATE token_purchase_saga SET updated_at = now() - interval '61 seconds', next_at = now() + interval '1 hour', lease_until = now() - interval '1 second'`); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 5 { // replicas
				wg.Go(func() {
					if err := w.service.recover(context.Background()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			w.run()
			row := w.until(id, final)
			if row.Status != tc.want || !row.Recovered {
				t.Errorf("want %s by recovery, got %+v", tc.want, row)
			}
			if n := w.number(`SELECT count(*) FROM token_outbox WHERE event_type IN ('TOKEN_PURCHASE_FAILED', 'TOKEN_PURCHASE_COMPLETED') AND aggregate_type = $1`, tc.aggregate); n != 1 {
				t.Errorf("want one event of its end in %s, got %d", tc.aggregate, n)
			}
		})
	}
}

// bringTo carries a purchase to a state and stops there.
func (w *world) bringTo(id string, status Status) {
	w.t.Helper()
	rows, err := w.service.claim(w.t.Context(), 1)
	if err != nil || len(rows) != 1 || rows[0].ID != uuid.MustParse(id) {
		w.t.Fatalf("want it claimed, got %+v, %v", rows, err)
	}
	row := rows[0]
	for Status(row.Status) != status {
		if row, err = w.service.step(w.t.Context(), row, position(row).Next()); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestClaimsAreShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for range 40 {
		w.buy(user(alice), `{"provider":"openai","tokens":1}`)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[uuid.UUID]int{}
	for range 10 {
		wg.Go(func() {
			rows, err := w.service.claim(context.Background(), 8)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, row := range rows {
				seen[row.ID]++
			}
		})
	}
	wg.Wait()
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s was claimed %d times at once", id, times)
		}
	}
}

func TestAdminList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var ids []string
	for i := range 7 {
		ids = append(ids, w.buy(user(alice), fmt.Sprintf(`{"provider":"qwen","tokens":%d}`, i+1)))
	}
	var got []string
	for cursor, pages := "", 0; ; pages++ {
		page := w.call(t, admin(), "GET", "/api/v1/admin/sagas?limit=3&open=true&status=started&cursor="+cursor, "", "")
		if page.status != 200 || pages > 3 {
			t.Fatalf("want pages, got %d %s", page.status, page.text)
		}
		for _, item := range page.body["items"].([]any) {
			got = append([]string{item.(map[string]any)["id"].(string)}, got...)
		}
		next, more := page.body["next"].(string)
		if cursor = next; !more {
			break
		}
	}
	if strings.Join(got, " ") != strings.Join(ids, " ") {
		t.Errorf("want %v, got %v", ids, got)
	}
	for query, want := range map[string]int{"?limit=0": 400, "?limit=501": 400, "?limit=x": 400, "?status=nosuch": 400,
		"?parked=perhaps": 400, "?cursor=!": 400, "?cursor=MTIz": 400, "?x=%zz": 400, "?parked=true": 200} {
		if got := w.call(t, admin(), "GET", "/api/v1/admin/sagas"+query, "", ""); got.status != want {
			t.Errorf("%s: want %d, got %d %s", query, want, got.status, got.text)
		}
	}
	for _, path := range []string{"", "/" + ids[0]} {
		if got := w.call(t, user(alice), "GET", "/api/v1/admin/sagas"+path, "", ""); got.status != http.StatusForbidden {
			t.Errorf("%s by a user: want 403, got %d %s", path, got.status, got.text)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.payments.fault = func(_ string, o payment.Order, _ *payment.State) error {
		if o.Amount == 5 {
			return errLost1
		}
		return nil
	}
	w.run()
	w.until(w.buy(user(alice), order1(alice, "")), final)
	w.until(w.buy(user(alice), `{"provider":"openai","tokens":5000}`), parked)
	testenv.Eventually(t, "what is committed is counted", func() bool {
		return testutil.ToFloat64(w.service.metrics.completed.WithLabelValues("openai")) > 0
	})
	if err := w.service.gauge(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := w.service.metrics
	for name, pair := range map[string][2]float64{"started": {testutil.ToFloat64(m.started.WithLabelValues("openai")), 2},
		"completed": {testutil.ToFloat64(m.completed.WithLabelValues("openai")), 1},
		"failed":    {testutil.ToFloat64(m.failed.WithLabelValues("openai")), 0}, "parked": {testutil.ToFloat64(m.parked), 1},
		"open": {testutil.ToFloat64(m.open), 0}} {
		if pair[0] != pair[1] {
			t.Errorf("%s: want %v, got %v", name, pair[1], pair[0])
		}
	}
}

// What docs/purchases.md says of a payment that captured too much.
func TestRefundedByAPerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.payments.fault = func(step string, _ payment.Order, s *payment.State) error {
		if step == "capture" {
			s.Captured++
		}
		return nil
	}
	w.run()
	id := w.buy(user(alice), order1(alice, ""))
	w.until(id, parked)
	w.payments.mu.Lock()
	w.payments.book[uuid.MustParse(id)].Status = payment.Voided
	w.payments.mu.Unlock()
	w.call(t, admin(), "POST", "/api/v1/admin/sagas/"+id+"/cancel", "", "")
	if row := w.until(id, final); row.Status != "FAILED" || row.Failure != "cancelled by an administrator" {
		t.Errorf("want it failed, got %+v", row)
	}
	if n := w.number(`SELECT remaining_tokens FROM token_pools`); n != 0 {
		t.Errorf("want the tokens taken back, got %d", n)
	}
}
