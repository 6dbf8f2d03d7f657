package consume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const (
	alice = "11111111-2222-3333-4444-555555555555"
	bob   = "99999999-2222-3333-4444-555555555555"
	org   = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	other = "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee"
)

// ledger is a limiter with one bucket, the partners of a call, and what they were told.
type ledger struct {
	mu       sync.Mutex
	capacity int64
	pool     int64 // -1: no pool
	held     map[string]int64
	settled  map[string]int64
	asked    []*limitpb.HoldRequest
	least    time.Duration // what it needs to answer
	down     bool
	provider error
	answer   string
	events   []usage.Event
	books    error
	// so many corrections fail, and those that did not
	uncorrected int
	corrections []usage.Event
	members     error
}

func newLedger() *ledger {
	return &ledger{capacity: 1000, pool: 5000, held: map[string]int64{}, settled: map[string]int64{}, answer: `{"message":"hello"}`}
}

func (l *ledger) Hold(ctx context.Context, in *limitpb.HoldRequest, _ ...grpc.CallOption) (*limitpb.HoldResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, status.Error(codes.Unavailable, "redis is away")
	}
	if end, bounded := ctx.Deadline(); bounded && time.Until(end) < l.least {
		return nil, status.Error(codes.DeadlineExceeded, "too late")
	}
	l.asked = append(l.asked, in)
	level := int64(0)
	for _, n := range l.held {
		level += n
	}
	for _, n := range l.settled {
		level += n
	}
	cost, account := in.GetInputTokens(), "user:"+in.GetFacts().GetUser()
	if in.GetFacts().GetOrg() != "" {
		account = "org:" + in.GetFacts().GetOrg()
	}
	out := &limitpb.HoldResponse{Account: account}
	switch {
	case in.GetBalance() == limitpb.BalancePolicy_BALANCE_REQUIRED && l.pool < 0:
		out.Refusal = limitpb.Refusal_REFUSAL_NO_POOL
	case in.GetBalance() == limitpb.BalancePolicy_BALANCE_REQUIRED && l.pool < level+cost:
		out.Refusal = limitpb.Refusal_REFUSAL_BALANCE
	case cost > l.capacity:
		out.Refusal, out.Rule, out.RetryAfterUs = limitpb.Refusal_REFUSAL_LIMIT, "bucket", -1
	case level+cost > l.capacity:
		out.Refusal, out.Rule, out.RetryAfterUs = limitpb.Refusal_REFUSAL_LIMIT, "bucket", 2_500_000
	default:
		l.held[in.GetFacts().GetRequestId()] = cost
		level += cost
		out.Admitted, out.Held = true, cost
		out.Balance = &limitpb.Balance{Present: in.GetBalance() == limitpb.BalancePolicy_BALANCE_REQUIRED}
	}
	out.Buckets = []*limitpb.Bucket{{Rule: "bucket", Unit: "tokens", Capacity: float64(l.capacity), Level: float64(level) - 0.5}}
	return out, nil
}

func (l *ledger) Settle(_ context.Context, in *limitpb.SettleRequest, _ ...grpc.CallOption) (*limitpb.SettleResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range in.GetSettlements() {
		delete(l.held, s.GetRequestId())
		l.settled[s.GetRequestId()] += s.GetCharged()
	}
	return &limitpb.SettleResponse{}, nil
}

func (l *ledger) Call(context.Context, string, string, *string) (json.RawMessage, error) {
	if l.provider != nil {
		return nil, l.provider
	}
	return json.RawMessage(l.answer), nil
}

func (l *ledger) Ask(_ context.Context, in, user string) (membership.Answer, error) {
	return membership.Answer{Member: in == org && user == alice, Team: "core"}, l.members
}

func (l *ledger) Book(_ context.Context, e usage.Event, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.books == nil {
		l.events = append(l.events, e)
	}
	return l.books
}

func (l *ledger) Correct(_ context.Context, e usage.Event, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uncorrected > 0 {
		l.uncorrected--
		return errors.New("nats is away")
	}
	l.corrections = append(l.corrections, e)
	return nil
}

func (l *ledger) sum() (held, settled int64) {
	for _, n := range l.held {
		held += n
	}
	for _, n := range l.settled {
		settled += n
	}
	return held, settled
}

type world struct {
	*ledger
	api     *API
	handler http.Handler
	enforce bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{ledger: newLedger(), enforce: true}
	var err error
	w.api, err = New(Config{Limiter: w, Provider: w, Members: w, Books: w, Providers: func() []string { return []string{"openai", "qwen"} },
		Enforce: func() bool { return w.enforce },
		Log:     slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	w.handler = apitest.Handler(t, httpapi.Handle(slog.New(slog.DiscardHandler), w.api.Serve))
	return w
}

func (w *world) post(who principal.Principal, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/tokens/consume", bytes.NewBufferString(body))
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r.WithContext(principal.With(r.Context(), who)))
	return rec
}

func user(id string, roles ...string) principal.Principal {
	return principal.Principal{UserID: id, Roles: append(roles, principal.RoleUser), Tier: "USER"}
}

func TestConsume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rec := w.post(user(alice), `{"userId":"`+strings.ToUpper(alice)+`","provider":" OpenAI ","tokens":400,"prompt":"hi"}`)
	var got struct {
		Allowed                                bool
		Capacity, Used, Remaining, WaitSeconds int64
		Timestamp                              string
		ProviderResponse                       map[string]string
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || rec.Code != 200 {
		t.Fatalf("want 200, got %d %s: %v", rec.Code, rec.Body, err)
	}
	if !got.Allowed || got.Capacity != 1000 || got.Used != 400 || got.Remaining != 600 || got.WaitSeconds != 0 || got.Timestamp == "" ||
		got.ProviderResponse["message"] != "hello" {
		t.Errorf("answer: %s", rec.Body)
	}
	for name, want := range map[string]string{"Limit": "1000", "Used": "400", "Remaining": "600", "Reset": "0"} {
		if got := rec.Header().Get("X-TokenBucket-" + name); got != want {
			t.Errorf("X-TokenBucket-%s: want %s, got %q", name, want, got)
		}
	}
	if f := w.asked[0].GetFacts(); f.GetUser() != alice || f.GetProvider() != "openai" || f.GetRoute() != "consume" || f.GetTier() != "USER" {
		t.Errorf("the limiter was asked for %v", f)
	}
	if held, settled := w.sum(); held != 0 || settled != 400 {
		t.Errorf("want 0 held and 400 settled, got %d and %d", held, settled)
	}
	if e := w.events[0]; len(w.events) != 1 || !e.Allowed || e.Charged != 400 || e.Pool != usage.PoolDrawn || e.Account != "user:"+alice {
		t.Errorf("events: %+v", w.events)
	}
	if n := testutil.ToFloat64(w.api.spent.WithLabelValues("openai")); n != 400 {
		t.Errorf("token_consumed_tokens_total: want 400, got %v", n)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	const ok = `{"provider":"openai","tokens":700}`
	for _, tc := range []struct {
		name, body string
		set        func(*world)
		status     int
		message    string
		reason     string
		settled    int64
	}{
		{name: "bucket full", body: ok, set: func(w *world) { w.settled["x"] = 600 }, status: 429, reason: "rate_limited", settled: 600},
		{name: "never fits", body: `{"provider":"openai","tokens":2000}`, status: 400, message: "tokens exceed bucket capacity",
			reason: "rate_limited"},
		{name: "no pool", body: ok, set: func(w *world) { w.pool = -1 }, status: 402, message: "insufficient token quota",
			reason: "quota_insufficient"},
		{name: "pool too small", body: ok, set: func(w *world) { w.pool = 699 }, status: 402, message: "insufficient token quota",
			reason: "quota_insufficient"},
		{name: "provider fails", body: ok, set: func(w *world) { w.provider = fmt.Errorf("%w: 503", ErrProvider) }, status: 502,
			message: "provider call failed", reason: "provider_failure"},
		{name: "books away", body: ok, set: func(w *world) { w.books = errors.New("nobody stores it") }, status: 503,
			message: "the call cannot be booked now"},
		{name: "limiter away", body: ok, set: func(w *world) { w.down = true }, status: 503},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if tc.set != nil {
				tc.set(w)
			}
			rec := w.post(user(alice), tc.body)
			if rec.Code != tc.status || !strings.Contains(rec.Body.String(), tc.message) {
				t.Fatalf("want %d %q, got %d %s", tc.status, tc.message, rec.Code, rec.Body)
			}
			if held, settled := w.sum(); held != 0 || settled != tc.settled {
				t.Errorf("want nothing held and %d settled, got %d and %d", tc.settled, held, settled)
			}
			if tc.reason == "" {
				return
			}
			if len(w.events) != 1 || w.events[0].Allowed || w.events[0].Reason != tc.reason || w.events[0].Pool != usage.PoolNone {
				t.Errorf("want one event with reason %s, got %+v", tc.reason, w.events)
			}
			if tc.status == 429 && (rec.Header().Get("Retry-After") != "3" || rec.Header().Get("X-TokenBucket-Reset") != "3" ||
				!strings.Contains(rec.Body.String(), `"waitSeconds":3`)) {
				t.Errorf("want a wait of 3 s everywhere, got %v %s", rec.Header(), rec.Body)
			}
		})
	}
}

// TestTheLimiterIsWaitedForAsLongAsConfigured: where decisions may take long, so may those of consume.
func TestTheLimiterIsWaitedForAsLongAsConfigured(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.least = 2 * time.Second
	const body = `{"provider":"openai","tokens":1}`
	if rec := w.post(user(alice), body); rec.Code != http.StatusServiceUnavailable {
		t.Errorf("by default: want 503, got %d %s", rec.Code, rec.Body)
	}
	w.api.cfg.Timeout = time.Minute
	if rec := w.post(user(alice), body); rec.Code != http.StatusOK {
		t.Errorf("within a minute: want 200, got %d %s", rec.Code, rec.Body)
	}
}

func TestQuotaEnforcementOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.enforce, w.pool = false, -1
	if rec := w.post(user(alice), `{"provider":"qwen","tokens":1}`); rec.Code != 200 {
		t.Fatalf("want 200 without a pool, got %d %s", rec.Code, rec.Body)
	}
	if w.events[0].Pool != usage.PoolNone {
		t.Errorf("the event says a pool was drawn: %+v", w.events[0])
	}
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ body, message string }{
		{``, "malformed JSON"},
		{`[]`, "malformed JSON"},
		{`{"userId":" ","provider":"openai","tokens":1}`, "userId is required"},
		{`{"tokens":1}`, "provider is required"},
		{`{"provider":"  ","tokens":1}`, "provider is required"},
		{`{"provider":"openai"}`, "tokens must be positive"},
		{`{"provider":"openai","tokens":0}`, "tokens must be positive"},
		{`{"provider":"openai","tokens":-5}`, "tokens must be positive"},
		{`{"provider":"openai","tokens":10001}`, "at most 10000"},
		{`{"provider":"openai","tokens":9223372036854775808}`, "tokens has the wrong type"},
		{`{"provider":"openai","tokens":1.5}`, "tokens has the wrong type"},
		{`{"provider":"openai","tokens":"5"}`, "tokens has the wrong type"},
		{`{"provider":"nobody","tokens":1}`, "unknown provider"},
		{`{"userId":"me","provider":"openai","tokens":1}`, "invalid userId"},
		{`{"userId":"urn:uuid:` + alice + `","provider":"openai","tokens":1}`, "invalid userId"},
		{`{"orgId":"{` + org + `}","provider":"openai","tokens":1}`, "invalid orgId"},
	} {
		w := newWorld(t)
		if rec := w.post(user(alice), tc.body); rec.Code != 400 || !strings.Contains(rec.Body.String(), tc.message) {
			t.Errorf("%s: want 400 %q, got %d %s", tc.body, tc.message, rec.Code, rec.Body)
		}
		if len(w.asked) != 0 {
			t.Errorf("%s: the limiter was asked", tc.body)
		}
	}
}

func TestOwnership(t *testing.T) {
	t.Parallel()
	bound := user(alice)
	bound.OrgID, bound.Team = org, "core"
	for _, tc := range []struct {
		name    string
		who     principal.Principal
		body    string
		status  int
		account string
	}{
		{"own", user(alice), ``, 200, "user:" + alice},
		{"somebody else's", user(alice), `"userId":"` + bob + `",`, 403, ""},
		{"somebody else's, as administrator", user(alice, principal.RoleAdmin), `"userId":"` + bob + `",`, 200, "user:" + bob},
		{"own organisation", user(alice), `"orgId":"` + org + `",`, 200, "org:" + org},
		{"blank organisation", user(alice), `"orgId":" ",`, 200, "user:" + alice},
		{"foreign organisation", user(bob), `"orgId":"` + org + `",`, 403, ""},
		{"key of an organisation", bound, ``, 200, "org:" + org},
		{"key of another organisation", bound, `"orgId":"` + other + `",`, 403, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			rec := w.post(tc.who, `{`+tc.body+`"provider":"openai","tokens":1}`)
			if rec.Code != tc.status {
				t.Fatalf("want %d, got %d %s", tc.status, rec.Code, rec.Body)
			}
			if tc.account != "" && w.events[0].Account != tc.account {
				t.Errorf("want account %s, got %s", tc.account, w.events[0].Account)
			}
			if tc.status == 403 && len(w.asked) != 0 {
				t.Error("the limiter was asked for a foreign account")
			}
		})
	}
	w := newWorld(t)
	w.members = context.DeadlineExceeded
	if rec := w.post(user(alice), `{"orgId":"`+org+`","provider":"openai","tokens":1}`); rec.Code != 503 {
		t.Errorf("membership not known: want 503, got %d", rec.Code)
	}
}

// TestACallThatMayBeBookedIsCorrected: a caller without an answer has their tokens back, and whatever
// comes to the books later of the call is replaced by nothing, however long those are away.
func TestACallThatMayBeBookedIsCorrected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.books, w.uncorrected = errors.New("no answer in time"), 2
	if rec := w.post(user(alice), `{"provider":"openai","tokens":400}`); rec.Code != 503 {
		t.Fatalf("want 503, got %d %s", rec.Code, rec.Body)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.api.Run(ctx) }()
	testenv.Eventually(t, "it is corrected", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.corrections) > 0
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	e, asked := w.corrections[0], w.asked[0].GetFacts()
	if len(w.corrections) != 1 || e.RequestID != asked.GetRequestId() || e.Account != "user:"+alice || e.Version != 1 || e.Charged != 0 ||
		e.Allowed || e.Pool != usage.PoolDrawn || e.Reason != outcomeUnbooked || e.Status != 503 {
		t.Errorf("want the charge of %s replaced by nothing, got %+v", asked.GetRequestId(), w.corrections)
	}
}
