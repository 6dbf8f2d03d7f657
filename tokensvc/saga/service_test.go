package saga

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

const (
	alice   = "11111111-1111-4111-8111-111111111111"
	bob     = "22222222-2222-4222-8222-222222222222"
	acme    = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
	initech = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
)

// fakePayments is a payment provider in memory. The stub over HTTP is tested with the
// service in e2e/purchases; services don't import each other.
type fakePayments struct {
	mu      sync.Mutex
	book    map[uuid.UUID]*payment.State
	calls   []string
	decline map[string]bool                                            // by step
	fault   func(step string, o payment.Order, s *payment.State) error // after the step was done
}

func (f *fakePayments) do(step string, o payment.Order) (payment.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, step)
	s := f.book[o.Purchase]
	switch {
	case s == nil && step == "authorize":
		s = &payment.State{ID: "pay-" + o.Purchase.String(), Status: payment.Authorized, Amount: o.Amount, Currency: o.Currency}
		if f.decline[step] {
			s.Status, s.Reason = payment.Declined, "no funds"
		}
		f.book[o.Purchase] = s
	case s == nil:
		s = &payment.State{Status: payment.Absent}
	case step == "capture" && s.Status == payment.Authorized && f.decline[step]:
		s.Status, s.Reason = payment.Declined, "no funds"
	case step == "capture" && s.Status == payment.Authorized:
		s.Status, s.Captured = payment.Captured, s.Amount
	case step == "void" && s.Status == payment.Authorized:
		s.Status = payment.Voided
	}
	if f.fault != nil {
		if err := f.fault(step, o, s); err != nil {
			return payment.State{}, err
		}
	}
	return *s, nil
}

func (f *fakePayments) Authorize(_ context.Context, o payment.Order) (payment.State, error) {
	return f.do("authorize", o)
}
func (f *fakePayments) Capture(_ context.Context, o payment.Order) (payment.State, error) {
	return f.do("capture", o)
}
func (f *fakePayments) Void(_ context.Context, o payment.Order) (payment.State, error) {
	return f.do("void", o)
}
func (f *fakePayments) Find(_ context.Context, o payment.Order) (payment.State, error) {
	return f.do("find", o)
}

type fakeMembers map[string]string // user -> org

func (m fakeMembers) Ask(_ context.Context, org, user string) (membership.Answer, error) {
	if m == nil {
		return membership.Answer{}, membership.ErrUnavailable
	}
	return membership.Answer{Member: m[user] == org, Role: membership.Member}, nil
}

// world is the service on a database of its own.
type world struct {
	t        *testing.T
	pool     *pgxpool.Pool
	service  *Service
	payments *fakePayments
	url      string
	metrics  *prometheus.Registry
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, pool: testenv.Postgres(t), payments: &fakePayments{book: map[uuid.UUID]*payment.State{}, decline: map[string]bool{}}}
	if err := migrations.Up(t.Context(), w.pool); err != nil {
		t.Fatal(err)
	}
	w.attach(change)
	return w
}

// attach makes a service (another replica, when there is one) on the world's database.
func (w *world) attach(change func(*Config)) {
	w.t.Helper()
	w.metrics = prometheus.NewRegistry()
	cfg := Config{Pool: w.pool, Payments: w.payments, Members: fakeMembers{alice: acme}, Providers: func() []string { return []string{"openai", "qwen"} },
		Enabled: func() bool { return true },
		Price:   func(string) int64 { return 1000 }, QuotaMax: func(string) int64 { return 0 }, Currency: "usd", Attempts: 5,
		Log: slog.New(slog.DiscardHandler), Metrics: w.metrics,
		// Nothing stands for as long as a step or a lease, on any machine; what a lease is for sets its end.
		Timing: Timing{Step: 30 * time.Second, Lease: 90 * time.Second, Poll: 20 * time.Millisecond, Backoff: time.Millisecond,
			BackoffMax: 5 * time.Millisecond, Recover: 20 * time.Millisecond, Stale: time.Hour}}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.service, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, h := range w.service.Routes() {
		mux.Handle(pattern, identified(httpapi.Handle(cfg.Log, h)))
	}
	server := httptest.NewServer(apitest.Handler(w.t, mux))
	w.t.Cleanup(server.Close)
	w.url = server.URL
}

// run carries purchases on until the test ends.
func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.service.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("run: %v", err)
		}
	})
}

// identified takes the caller from a header, as the signed identity's check would leave them.
func identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var who principal.Principal
		if err := json.Unmarshal([]byte(r.Header.Get("X-Test-Caller")), &who); err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		next.ServeHTTP(w, r.WithContext(principal.With(r.Context(), who)))
	})
}

type reply struct {
	status int
	text   string
	body   map[string]any
}

func (w *world) call(t *testing.T, who principal.Principal, method, path, key, body string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	caller, err := json.Marshal(who)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Test-Caller", string(caller))
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := reply{status: res.StatusCode, text: string(text)}
	if err := json.Unmarshal(text, &got.body); err != nil {
		t.Fatalf("%s %s: want JSON, got %d %q", method, path, res.StatusCode, text)
	}
	return got
}

func user(id string) principal.Principal {
	return principal.Principal{UserID: id, Roles: []string{principal.RoleUser}, Tier: "USER"}
}

func admin() principal.Principal {
	return principal.Principal{UserID: bob, Roles: []string{principal.RoleAdmin, principal.RoleUser}, Tier: "ADMIN"}
}

// buy orders tokens and returns the purchase's id.
func (w *world) buy(who principal.Principal, body string) string {
	w.t.Helper()
	got := w.call(w.t, who, "POST", "/api/v1/tokens/purchase", "", body)
	if got.status != http.StatusAccepted {
		w.t.Fatalf("want 202, got %d %s", got.status, got.text)
	}
	return got.body["sagaId"].(string)
}

// until waits for what a purchase comes to.
func (w *world) until(id string, reached func(Saga) bool) Saga {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		row, err := tokensdb.New(w.pool).FindSaga(ctx, uuid.MustParse(id))
		if err == nil && reached(row) {
			return row
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("purchase is %+v, %v", row, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

func final(row Saga) bool  { return Status(row.Status).Final() }
func parked(row Saga) bool { return row.ParkedAt != nil }

// number is a number of the database.
func (w *world) number(sql string, args ...any) (n int64) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}
