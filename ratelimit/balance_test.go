package ratelimit_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// ledger is the token service in memory.
type ledger struct {
	mu    sync.Mutex
	pools map[string]balance.State // by account; the provider is openai
	asked int
	err   error
}

func (l *ledger) Ask(_ context.Context, account, provider string) (balance.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	s := l.pools[account]
	s.Account, s.Provider, s.At = account, provider, time.Now()
	return s, l.err
}

func (l *ledger) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *ledger) questions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// askedAgain is how often the token service may be asked again since then for a pool that refuses: as often
// as trust's askAgain.
func askedAgain(begun time.Time) int { return int(time.Since(begun) / (3 * time.Second)) }

func prepaid(account string, credits, version int64) balance.State {
	return balance.State{Account: account, Provider: "openai", Present: true, Version: version, Credits: credits, At: time.Now()}
}

func asking(l *ledger) option { return func(c *ratelimit.Config) { c.Balances = l } }

func tierBalance(policy string) option {
	return func(c *ratelimit.Config) {
		c.Tiers.Levels = map[string]config.Tier{"USER": {Capacity: 1, LeakRate: 1, Balance: policy}}
	}
}

func (e *env) pool(tb testing.TB, account string) *limitpb.Balance {
	tb.Helper()
	r, err := e.limiter.GetAccountState(tb.Context(), &limitpb.GetAccountStateRequest{Account: account, Providers: []string{"openai"}})
	if err != nil {
		tb.Fatal(err)
	}
	return r.GetBalances()[0]
}

func TestPoolIsDrawnOnAndRunsDry(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	l := &ledger{pools: map[string]balance.State{"user:ann": prepaid("user:ann", 300, 1)}}
	e := start(t, thousand, asking(l))
	id := uuid.NewString()
	if r := e.ask(t, ask{id: id, maxTokens: "200"}); r.GetOverallCode() != rls.RateLimitResponse_OK || headers(r)["x-leaky-balance"] != "100" {
		t.Fatalf("want it admitted with 100 left, got %v", r)
	}
	refused := e.ask(t, ask{maxTokens: "200"})
	h, body := headers(refused), string(refused.GetRawBody())
	if refused.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT || h["x-should-retry"] != "false" || h["x-leaky-balance"] != "100" ||
		h["retry-after"] != "" ||
		!strings.Contains(body, `"credit_balance_exhausted"`) || !strings.Contains(body, `"insufficient_quota"`) || !strings.Contains(body,
		"POST /api/v1/tokens/purchase") {
		t.Errorf("want the balance to refuse, got %v %s", h, body)
	}
	if s := e.settle(t, "user:ann", id, 50); s.GetStatus() != limitpb.Settled_SETTLED || s.GetDrawn() != limitpb.Settled_DRAWN_POOL {
		t.Errorf("want a settlement that drew on the pool, got %v", s)
	}
	if s := e.settle(t, "user:ann", id, 99); s.GetStatus() != limitpb.Settled_DUPLICATE || s.GetDrawn() != limitpb.Settled_DRAWN_POOL ||
		s.GetCharged() != 50 {
		t.Errorf("want the same said of a duplicate, got %v", s)
	}
	if b := e.pool(t, "user:ann"); b.GetSpent() != 50 || b.GetHeld() != 0 || b.GetCredits() != 300 {
		t.Errorf("want 50 of 300 spent and nothing held, got %v", b)
	}
	// Bought: admitted, and a late repetition of the old state changes nothing.
	for _, state := range []balance.State{prepaid("user:ann", 900, 2), prepaid("user:ann", 300, 1)} {
		if err := e.service.SetBalance(t.Context(), state); err != nil {
			t.Fatal(err)
		}
	}
	if r := e.ask(t, ask{maxTokens: "700"}); r.GetOverallCode() != rls.RateLimitResponse_OK || headers(r)["x-leaky-balance"] != "150" {
		t.Errorf("want it admitted with 150 left, got %v", r)
	}
	// The refusal comes within seconds of the first question, if the machine does not stand still.
	if n := l.questions(); n < 1 || n > 1+askedAgain(begun) {
		t.Errorf("want the token service asked once, got %d", n)
	}
}

func TestFillRespectsTheBalance(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ credits, held int64 }{"plenty": {1000, 250}, "less": {100, 100}, "hardly worthwhile": {16, 16},
		"not worthwhile": {15, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &ledger{pools: map[string]balance.State{"user:ann": prepaid("user:ann", tc.credits, 1)}}
			e := start(t, thousand, asking(l))
			r := e.ask(t, ask{})
			if got := r.GetDynamicMetadata().GetFields()["held"].GetNumberValue(); int64(got) != tc.held {
				t.Errorf("want %d held, got %g: %v", tc.held, got, r)
			}
		})
	}
}

func TestWithoutAPool(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]rls.RateLimitResponse_Code{config.BalanceIfPresent: rls.RateLimitResponse_OK,
		config.BalanceRequired: rls.RateLimitResponse_OVER_LIMIT, config.BalanceNone: rls.RateLimitResponse_OK} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			l := &ledger{}
			e := start(t, thousand, asking(l), tierBalance(policy))
			id := uuid.NewString()
			r := e.ask(t, ask{id: id, maxTokens: "10"})
			if r.GetOverallCode() != want {
				t.Fatalf("want %s, got %v", want, r)
			}
			if _, told := headers(r)["x-leaky-balance"]; told && want == rls.RateLimitResponse_OK {
				t.Error("want no balance told of who has no pool")
			}
			l.fail(errors.New("away")) // what is known goes on to work
			if r := e.ask(t, ask{maxTokens: "10"}); r.GetOverallCode() != want {
				t.Errorf("with the token service away: want %s, got %v", want, r)
			}
			if want != rls.RateLimitResponse_OK {
				return
			}
			if s := e.settle(t, "user:ann", id, 5); s.GetDrawn() != limitpb.Settled_DRAWN_NONE {
				t.Errorf("want nothing drawn, got %v", s)
			}
		})
	}
}

func TestQuotaEnforcementOff(t *testing.T) {
	t.Parallel()
	l := &ledger{pools: map[string]balance.State{"user:ann": prepaid("user:ann", 5, 1)}}
	e := start(t, thousand, asking(l), tierBalance(config.BalanceRequired), func(c *ratelimit.Config) { c.NoPools = true })
	if r := e.ask(t, ask{maxTokens: "10"}); r.GetOverallCode() != rls.RateLimitResponse_OK || l.questions() != 0 {
		t.Errorf("want no pool asked, got %v after %d questions", r, l.questions())
	}
}

func TestUnknownBalanceIsNoDecision(t *testing.T) {
	t.Parallel()
	l := &ledger{err: errors.New("away")}
	e := start(t, thousand, asking(l))
	if _, err := e.envoy.ShouldRateLimit(t.Context(), ask{}.request()); status.Code(err) != codes.Unavailable {
		t.Errorf("want Unavailable, got %v", err)
	}
	if b := e.level(t, "ann"); b.GetLevel() != 0 {
		t.Errorf("want nothing held, got %v", b)
	}
	l.fail(nil)
	if r := e.ask(t, ask{}); r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Errorf("want it admitted once the service is back, got %v", r)
	}
}

// TestManyFirstCallsAskOnce is a new account whose calls come all at once.
func TestManyFirstCallsAskOnce(t *testing.T) {
	t.Parallel()
	l := &ledger{pools: map[string]balance.State{"user:ann": prepaid("user:ann", 100, 1)}}
	e := start(t, thousand, asking(l))
	var mu sync.Mutex
	admitted := 0
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			r := e.ask(t, ask{maxTokens: "10"})
			mu.Lock()
			defer mu.Unlock()
			if r.GetOverallCode() == rls.RateLimitResponse_OK {
				admitted++
			}
		})
	}
	group.Wait()
	if admitted != 10 {
		t.Errorf("want 10 of 64 admitted, got %d", admitted)
	}
}

// TestHoldOfATokenService is consume: a fixed cost, a pool required, a UUID in any case.
func TestHoldOfATokenService(t *testing.T) {
	t.Parallel()
	user := uuid.NewString()
	l := &ledger{pools: map[string]balance.State{"user:" + user: prepaid("user:"+user, 100, 1)}}
	e := start(t, thousand, asking(l))
	hold := func(user string, tokens int64) *limitpb.HoldResponse {
		t.Helper()
		r, err := e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: uuid.NewString(), User: user, Tier: "USER",
			Provider: "openai"},
			InputTokens: tokens, Balance: limitpb.BalancePolicy_BALANCE_REQUIRED})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tc := range []struct {
		user   string
		tokens int64
		want   limitpb.Refusal
	}{{user, 60, limitpb.Refusal_REFUSAL_UNSPECIFIED}, {strings.ToUpper(user), 60, limitpb.Refusal_REFUSAL_BALANCE},
		{strings.ToUpper(user), 40, limitpb.Refusal_REFUSAL_UNSPECIFIED}, {uuid.NewString(), 1, limitpb.Refusal_REFUSAL_NO_POOL}} {
		r := hold(tc.user, tc.tokens)
		if r.GetRefusal() != tc.want || r.GetAdmitted() != (tc.want == limitpb.Refusal_REFUSAL_UNSPECIFIED) {
			t.Errorf("%d tokens: want %s, got %v", tc.tokens, tc.want, r)
		}
	}
	if b := e.pool(t, "user:"+strings.ToUpper(user)); b.GetHeld() != 100 {
		t.Errorf("want 100 held, got %v", b)
	}
}

func TestExpiredHoldSaysWhatItDrew(t *testing.T) {
	t.Parallel()
	l := &ledger{pools: map[string]balance.State{"user:ann": prepaid("user:ann", 1000, 1)}}
	e := start(t, thousand, asking(l), overdue)
	e.ask(t, ask{maxTokens: "100"})
	e.ask(t, ask{user: "bob", maxTokens: "100"})
	if err := e.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, event := range e.events.all() {
		if want := map[string]usage.Pool{"ann": usage.PoolDrawn, "bob": usage.PoolNone}[event.UserID]; event.Pool != want {
			t.Errorf("%s: want pool %q, got %q", event.UserID, want, event.Pool)
		}
	}
	if b := e.pool(t, "user:ann"); b.GetSpent() != 100 || b.GetHeld() != 0 {
		t.Errorf("want 100 spent, got %v", b)
	}
}

// connected is a connection to a NATS server of its own.
func connected(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	conn, err := nats.Connect(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, js
}

// TestABalanceChangeIsTriedAgain until Redis has it; one that nobody can read is not.
func TestABalanceChangeIsTriedAgain(t *testing.T) {
	t.Parallel()
	conn, js := connected(t)
	if _, err := usage.EnsureStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	for i, account := range []string{"user:odd", "user:ann"} {
		message, err := json.Marshal(prepaid(account, 1000, int64(i+1)))
		if err == nil {
			_, err = js.Publish(t.Context(), balance.Subject("openai"), message)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	given := map[string]int{}
	ratelimit.NewNATSBalances(conn, js, 0, slog.New(slog.DiscardHandler)).Follow(ctx, func(_ context.Context, s balance.State) error {
		given[s.Account]++
		switch {
		case s.Account == "user:odd":
			return balance.ErrMalformed
		case given[s.Account] < 3:
			return store.ErrUnavailable
		}
		stop()
		return nil
	})
	if given["user:odd"] != 1 || given["user:ann"] != 3 {
		t.Errorf("want what cannot be read given once and the other until it is taken, got %v", given)
	}
}

// TestBalancesOverNATS asks a token service on a real server and hears of a purchase.
func TestBalancesOverNATS(t *testing.T) {
	t.Parallel()
	conn, js := connected(t)
	_, err := conn.Subscribe(balance.SubjectAsk, func(m *nats.Msg) {
		var asked balance.Ask
		answer := balance.Answer{Error: "malformed"}
		if json.Unmarshal(m.Data, &asked) == nil {
			answer = balance.Answer{State: balance.State{Account: asked.Account, Provider: asked.Provider, Present: true, Version: 1, Credits: 10,
				At: time.Now()}}
		}
		if asked.Account == "user:broken" {
			answer = balance.Answer{Error: "no database"}
		}
		reply, _ := json.Marshal(answer)
		_ = m.Respond(reply)
	})
	if err != nil {
		t.Fatal(err)
	}
	balances := ratelimit.NewNATSBalances(conn, js, time.Minute, slog.New(slog.DiscardHandler))
	e := start(t, thousand, func(c *ratelimit.Config) { c.Balances, c.Follow = balances, balances.Follow })
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- e.service.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	if r := e.ask(t, ask{maxTokens: "100"}); r.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT {
		t.Fatalf("want 10 tokens to refuse 100, got %v", r)
	}
	if _, err := e.envoy.ShouldRateLimit(t.Context(), ask{user: "broken"}.request()); status.Code(err) != codes.Unavailable {
		t.Errorf("want no decision while the token service errs, got %v", err)
	}
	if _, err := usage.EnsureStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	bought, err := json.Marshal(prepaid("user:ann", 1000, 2))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, message := range [][]byte{[]byte("{"), bought} {
		if _, err := js.Publish(t.Context(), balance.Subject("openai"), message); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, "the purchase gets through", func() bool {
		return e.ask(t, ask{maxTokens: "100"}).GetOverallCode() == rls.RateLimitResponse_OK
	})
	t.Logf("from the event to the first admitted call: %s", time.Since(began))
}
