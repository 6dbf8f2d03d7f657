package analytics

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/prometheus/client_golang/prometheus"
)

const acme = "77777777-7777-4777-8777-777777777777"

// purchaseText is an event as the token service publishes it.
func purchaseText(id, saga, user, org, status string, tokens int64, created time.Time, after time.Duration) string {
	if org != "null" {
		org = `"` + org + `"`
	}
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/tokensvc","type":"TOKEN_PURCHASE_%s","time":%q,"datacontenttype":"application/json","data":
		{"id":%q,"userId":%q,"orgId":%s,"provider":"openai","tokens":%d,"idempotencyKey":null,"status":%q,"amount":250,"currency":"usd","createdAt":%q,"updatedAt":%q}}`,
		id, status, created.Format(time.RFC3339Nano), saga, user, org, tokens, status, created.Format(time.RFC3339Nano), created.Add(after).Format(time.RFC3339Nano))
}

// stored decodes events and writes them, in one insert.
func stored(t *testing.T, store *Store, texts ...string) {
	t.Helper()
	events := make([]purchaseEvent, len(texts))
	for i, text := range texts {
		e, err := decodePurchase([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		events[i] = e
	}
	if err := store.insertPurchases(t.Context(), events); err != nil {
		t.Fatal(err)
	}
}

// TestAPurchaseIsAsFarAsItsStateWhateverClocksSay: one replica took the order, others, whose clocks are
// behind, did the rest.
func TestAPurchaseIsAsFarAsItsStateWhateverClocksSay(t *testing.T) {
	t.Parallel()
	store, now := openStore(t, testenv.ClickHouse(t)), time.Now().UTC().Truncate(time.Millisecond)
	ago := now.Add(-time.Hour)
	const done, failed, going = "33333333-3333-4333-8333-000000000001", "33333333-3333-4333-8333-000000000002",
		"33333333-3333-4333-8333-000000000003"
	stored(t, store,
		purchaseText("a1", done, alice, "null", "STARTED", 5, ago, 0),
		purchaseText("a2", done, alice, "null", "PAYMENT_RESERVED", 5, ago, 2*time.Second),
		purchaseText("a3", done, alice, "null", "TOKENS_ALLOCATED", 5, ago, -time.Second),
		purchaseText("a4", done, alice, "null", "COMPLETED", 5, ago, -time.Minute),
		purchaseText("b1", failed, alice, "null", "STARTED", 7, ago, 0),
		purchaseText("b2", failed, alice, "null", "FAILED", 7, ago, -time.Second),
		purchaseText("c1", going, alice, "null", "TOKENS_ALLOCATED", 9, ago, -time.Second),
		purchaseText("c2", going, alice, "null", "PAYMENT_RESERVED", 9, ago, time.Second))
	got, err := store.Purchases(t.Context(), Filter{From: ago.Add(-day), To: now}, 10)
	if err != nil || got.Count != 3 || got.Completed != 1 || got.Tokens != 5 {
		t.Fatalf("want three purchases and one of 5 tokens completed, got %+v, %v", got, err)
	}
	want := map[string]string{done: "COMPLETED", failed: "FAILED", going: "TOKENS_ALLOCATED"}
	for _, p := range got.Items {
		if p.Status != want[p.SagaID] {
			t.Errorf("purchase %s: want %s, got %s", p.SagaID, want[p.SagaID], p.Status)
		}
	}
	if p := got.Items[0]; p.SagaID != done || !p.UpdatedAt.Equal(ago.Add(-time.Minute)) {
		t.Errorf("want the time of the step that it has come to, got %+v", p)
	}
}

func TestPurchasesOfNoTimeAreRefused(t *testing.T) {
	t.Parallel()
	const saga = "33333333-3333-4333-8333-000000000001"
	for name, tc := range map[string]struct {
		created time.Time
		after   time.Duration
	}{
		"no time":                       {time.Time{}, 0},
		"changed before there were any": {time.Now(), -50 * 365 * day},
		"the day after tomorrow":        {time.Now().Add(2 * day), 0},
		"changed the day after":         {time.Now(), 2 * day},
	} {
		if _, err := decodePurchase([]byte(purchaseText("e", saga, alice, "null", "STARTED", 5, tc.created, tc.after))); err == nil {
			t.Errorf("%s: want it refused", name)
		}
	}
}

func TestPurchasesAreWhatTheirNewestEventSays(t *testing.T) {
	t.Parallel()
	store, js, now := openStore(t, testenv.ClickHouse(t)), jetStream(t, testenv.NATS(t)), time.Now().UTC().Truncate(time.Millisecond)
	if _, err := usage.EnsureStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	saga := func(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) }
	ago := now.Add(-time.Hour)
	bad := strings.Replace(purchaseText("x", saga(9), alice, "null", "STARTED", 5, ago, 0), `"tokens":5`, `"tokens":-5`, 1)
	for _, text := range []string{
		purchaseText("e1", saga(1), alice, "null", "STARTED", 100, ago, 0),
		purchaseText("e3", saga(1), alice, "null", "COMPLETED", 100, ago, 2*time.Second),
		purchaseText("e2", saga(1), alice, "null", "PAYMENT_RESERVED", 100, ago, time.Second), // late
		purchaseText("e3", saga(1), alice, "null", "COMPLETED", 100, ago, 2*time.Second),      // again
		purchaseText("e4", saga(2), alice, acme, "STARTED", 7, ago.Add(time.Minute), 0),
		purchaseText("e5", saga(2), alice, acme, "FAILED", 7, ago.Add(time.Minute), time.Second),
		purchaseText("e6", saga(3), bob, "null", "COMPLETED", 50, ago, time.Second),
		"not JSON", `{"specversion":"1.0","id":"y","type":"T"}`, bad,
	} {
		if _, err := js.Publish(t.Context(), "leaky.saga.v1.TOKEN_PURCHASE", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	metrics := NewMetrics(prometheus.NewRegistry())
	c, err := NewPurchaseConsumer(js, store, metrics, ConsumerConfig{Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	testenv.Eventually(t, "the stream worked off", func() bool {
		lag, err := c.Lag(t.Context())
		return err == nil && lag == 0
	})
	if got := counted(metrics.dead); got != 3 {
		t.Errorf("want three dead letters, got %d", got)
	}
	f := newFront(t, store, lagOf(0))
	var got Purchases
	f.ask(t, "/api/v1/analytics/purchases", asUser(), &got)
	if got.Count != 2 || got.Completed != 1 || got.Tokens != 100 || got.Amounts["USD"] != 250 || len(got.Items) != 2 ||
		got.Items[0].Status != "FAILED" || got.Items[0].OrgID != acme || got.Items[1].Status != "COMPLETED" {
		t.Errorf("want the caller's two purchases, got %+v", got)
	}
	f.ask(t, "/api/v1/analytics/purchases?limit=1", asAdmin(), &got)
	if got.Count != 3 || got.Tokens != 150 || len(got.Items) != 1 {
		t.Errorf("want all three for an ADMIN, however few are listed, got %+v", got)
	}
	for query, want := range map[string]int{"?userId=" + bob: 403, "?team=core": 400, "?from=yesterday": 400, "?provider=acme": 400} {
		if status, _, body := f.get(t, "/api/v1/analytics/purchases"+query, asUser()); status != want {
			t.Errorf("%s: want %d, got %d %s", query, want, status, body)
		}
	}
}
