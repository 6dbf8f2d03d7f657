package tokensvc_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/pools"
)

const (
	alice   = "11111111-1111-4111-8111-111111111111"
	bob     = "22222222-2222-4222-8222-222222222222"
	acme    = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
	initech = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
)

// world is a running tokensvc and the means to call it.
type world struct {
	t      *testing.T
	url    string
	signer *principal.Signer
	pool   *pgxpool.Pool
	store  *tokensvc.Store
}

func newWorld(t *testing.T, pool *pgxpool.Pool, policy tokensvc.Policy) *world {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer := principal.NewSigner(private)
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(signer.JWKS()) }))
	t.Cleanup(issuer.Close)
	keys, err := jwks.New(jwks.Config{URL: issuer.URL + "/.well-known/jwks.json"})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = keys.Key(t.Context(), "none") // fetches, so that calls at once find the key
	log := slog.New(slog.DiscardHandler)
	store, err := tokensvc.NewStore(tokensvc.StoreConfig{Pool: pool, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load("", func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	books, err := pools.New(pools.Config{DB: pool, Ready: store.Ready, Providers: func() []string { return []string{"openai", "gemini", "qwen"} },
		Timeout: 10 * time.Second, Metrics: registry, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	api, err := tokensvc.New(tokensvc.Config{Store: store, Verifier: principal.NewVerifier(tokensvc.Audience, keys.Keyfunc),
		Models: func() []config.Model { return cfg.Models },
		Protocols: func() map[string]config.Protocol {
			return map[string]config.Protocol{"gemini": config.ProtocolGemini, "anthropic": config.ProtocolAnthropic}
		},
		MayCall: policy, Pools: books, Metrics: registry, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(apitest.Handler(t, httpapi.Common{Name: "tokensvc", Log: log, Metrics: registry,
		Ready: api.Ready}.Wrap(api.Routes())))
	t.Cleanup(server.Close)
	return &world{t: t, url: server.URL, signer: signer, pool: pool, store: store}
}

// migrated is a world on an empty database of its own.
func migrated(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, testenv.Postgres(t), nil)
	if err := w.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

type answer struct {
	status int
	header http.Header
	body   map[string]any
}

// call sends a request as who; nil sends no identity.
func (w *world) call(method, path string, who *principal.Principal) answer {
	w.t.Helper()
	identity := ""
	if who != nil {
		var err error
		if identity, err = w.signer.Mint(*who, tokensvc.Audience, time.Now()); err != nil {
			w.t.Fatal(err)
		}
	}
	return w.send(method, path, identity)
}

func (w *world) send(method, path, identity string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if identity != "" {
		r.Header.Set(attributes.HeaderIdentity, identity)
	}
	r.Header.Set("X-Request-Id", "req-1")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header}
	if err := json.Unmarshal(text, &a.body); err != nil {
		w.t.Fatalf("%s %s: want a JSON object, got %q", method, path, text)
	}
	return a
}

func user(id string) *principal.Principal {
	return &principal.Principal{UserID: id, Roles: []string{"USER"}, Tier: "USER"}
}

func member(id, org string) *principal.Principal {
	return &principal.Principal{UserID: id, OrgID: org, Roles: []string{"USER"}, Tier: "USER"}
}

func admin() *principal.Principal {
	return &principal.Principal{UserID: bob, Roles: []string{"ADMIN", "USER"}, Tier: "ADMIN"}
}

func TestStatusNeedsNoIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lazyPool(t), nil)
	got := w.call("GET", "/api/v1/tokens/status", nil)
	if got.status != 200 || got.body["service"] != "token-service" || got.body["status"] != "ok" || got.body["timestamp"] == nil {
		t.Errorf("want 200 with service, status and timestamp, got %d %v", got.status, got.body)
	}
}

// lazyPool is a pool whose Postgres is not there.
func lazyPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestQuotaRefusals(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	const user2 = "/api/v1/tokens/quota"
	const org = "/api/v1/tokens/quota/org"
	for name, tc := range map[string]struct {
		path    string
		who     *principal.Principal
		status  int
		message string
	}{
		"no identity": {user2 + "?provider=openai", nil, 401, "authentication is required"},
		"no role": {user2 + "?provider=openai", &principal.Principal{UserID: alice, Roles: []string{}}, 403,
			"role USER is required"},
		"blank user":               {user2 + "?userId=+&provider=openai", user(alice), 400, "userId is required"},
		"no provider":              {user2 + "?userId=" + alice, user(alice), 400, "provider is required"},
		"blank provider":           {user2 + "?userId=" + alice + "&provider=%20", user(alice), 400, "provider is required"},
		"provider before bad id":   {user2 + "?userId=x", user(alice), 400, "provider is required"},
		"bad user":                 {user2 + "?userId=x&provider=openai", user(alice), 400, "invalid userId"},
		"user id in braces":        {user2 + "?userId=%7B" + alice + "%7D&provider=openai", user(alice), 400, "invalid userId"},
		"user id with quote":       {user2 + "?userId=' OR 1=1--&provider=openai", user(alice), 400, "invalid userId"},
		"long provider":            {user2 + "?provider=" + strings.Repeat("x", 51), user(alice), 400, "invalid provider"},
		"NUL in provider":          {user2 + "?provider=a%00b", user(alice), 400, "invalid provider"},
		"malformed query":          {user2 + "?provider=%zz", user(alice), 400, "malformed query string"},
		"somebody else":            {user2 + "?userId=" + bob + "&provider=openai", user(alice), 403, "userId is not the caller's"},
		"no pool":                  {user2 + "?userId=" + alice + "&provider=openai", user(alice), 404, "quota not found"},
		"no pool, caller left out": {user2 + "?provider=openai", user(alice), 404, "quota not found"},
		"no pool, unknown":         {user2 + "?provider=nobody", user(alice), 404, "quota not found"},
		"no pool of another":       {user2 + "?userId=" + alice + "&provider=openai", admin(), 404, "quota not found"},
		"no org":                   {org + "?provider=openai", user(alice), 400, "orgId is required"},
		"blank org":                {org + "?orgId=&provider=openai", user(alice), 400, "orgId is required"},
		"org without provider":     {org + "?orgId=" + acme, member(alice, acme), 400, "provider is required"},
		"bad org":                  {org + "?orgId=1-1-1-1-1&provider=openai", user(alice), 400, "invalid orgId"},
		"no member": {org + "?orgId=" + acme + "&provider=openai", user(alice), 403,
			"the caller is no member of this organisation"},
		"member of another": {org + "?orgId=" + acme + "&provider=openai", member(alice, initech), 403,
			"the caller is no member of this organisation"},
		"no org pool":          {org + "?orgId=" + acme + "&provider=openai", member(alice, acme), 404, "quota not found"},
		"consume comes later":  {"/api/v1/tokens/consume", user(alice), 404, "no such path"},
		"purchase comes later": {"/api/v1/tokens/purchase", user(alice), 404, "no such path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := w.with(t).call("GET", strings.ReplaceAll(tc.path, " ", "%20"), tc.who)
			if got.status != tc.status || got.body["message"] != tc.message || got.body["detail"] != tc.message {
				t.Errorf("want %d %q, got %d %v", tc.status, tc.message, got.status, got.body)
			}
			if kind := got.header.Get("Content-Type"); kind != "application/problem+json" {
				t.Errorf("want a problem, got %s", kind)
			}
			if challenge := got.header.Get("WWW-Authenticate"); (challenge != "") != (tc.status == 401) {
				t.Errorf("want a challenge on 401 only, got %q on %d", challenge, got.status)
			}
		})
	}
}

// with reports to a subtest.
func (w *world) with(t *testing.T) *world {
	t.Helper()
	c := *w
	c.t = t
	return &c
}

func TestForgedIdentities(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	mint := func(audience string, at time.Time) string {
		token, err := w.signer.Mint(*user(alice), audience, at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := principal.NewSigner(other).Mint(*user(alice), tokensvc.Audience, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, identity := range map[string]string{
		"for another service": mint("analytics", time.Now()), "expired": mint(tokensvc.Audience, time.Now().Add(-time.Hour)),
		"signed by another": stranger, "no token": "x", "many dots": strings.Repeat(".", 4000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/api/v1/tokens/quota?provider=openai", "/v1/models"} {
				if got := w.with(t).send("GET", path, identity); got.status != 401 {
					t.Errorf("%s: want 401, got %d %v", path, got.status, got.body)
				}
			}
		})
	}
}

func TestQuotaReadsPools(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	w.exec(`INSERT INTO token_pools (user_id, provider, total_tokens, remaining_tokens, reset_time) VALUES ($1, 'openai', 1000, 400, now() + interval '1 hour')`, alice)
	w.exec(`INSERT INTO token_pools (user_id, provider, total_tokens, remaining_tokens, refill) VALUES ($1, 'gemini', 70, 7, 'never')`, alice)
	w.exec(`INSERT INTO token_org_pools (org_id, provider, total_tokens, remaining_tokens) VALUES ($1, 'qwen', 5, 5)`, acme)
	for name, tc := range map[string]struct {
		path  string
		who   *principal.Principal
		want  map[string]any
		reset bool
	}{
		"own": {"/api/v1/tokens/quota?userId=" + alice + "&provider=openai", user(alice), map[string]any{"userId": alice,
			"provider": "openai", "totalTokens": 1000., "remainingTokens": 400.}, true},
		"upper case id": {"/api/v1/tokens/quota?userId=" + strings.ToUpper(alice) + "&provider=+OpenAI+", user(alice),
			map[string]any{"userId": alice, "provider": "openai", "totalTokens": 1000., "remainingTokens": 400.}, true},
		"caller implied": {"/api/v1/tokens/quota?provider=gemini", user(alice), map[string]any{"userId": alice, "provider": "gemini",
			"totalTokens": 70., "remainingTokens": 7.}, false},
		"by admin": {"/api/v1/tokens/quota?userId=" + alice + "&provider=gemini", admin(), map[string]any{"userId": alice,
			"provider": "gemini", "totalTokens": 70., "remainingTokens": 7.}, false},
		"org by member": {"/api/v1/tokens/quota/org?orgId=" + acme + "&provider=qwen", member(bob, acme), map[string]any{"orgId": acme,
			"provider": "qwen", "totalTokens": 5., "remainingTokens": 5.}, true},
		"org by admin": {"/api/v1/tokens/quota/org?orgId=" + acme + "&provider=qwen", admin(), map[string]any{"orgId": acme,
			"provider": "qwen", "totalTokens": 5., "remainingTokens": 5.}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := w.with(t).call("GET", tc.path, tc.who)
			if got.status != 200 || got.body["updatedAt"] == nil || (got.body["resetTime"] != nil) != tc.reset {
				t.Fatalf("want 200 with updatedAt and resetTime set: %t, got %d %v", tc.reset, got.status, got.body)
			}
			delete(got.body, "updatedAt")
			delete(got.body, "resetTime")
			tc.want["bookedTokens"], tc.want["heldTokens"] = tc.want["remainingTokens"], 0. // no call is under way
			if diff := cmp.Diff(tc.want, got.body); diff != "" {
				t.Errorf("want, got: %s", diff)
			}
		})
	}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func TestQuotaEndsAWindowOnce(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	w.exec(`INSERT INTO token_pools (user_id, provider, total_tokens, remaining_tokens, reset_time) VALUES ($1, 'openai', 1000, 1, now() - interval '1 second')`, alice)
	w.exec(`INSERT INTO token_pools (user_id, provider, total_tokens, remaining_tokens) VALUES ($1, 'qwen', 1000, 2)`, alice)
	w.exec(`INSERT INTO token_pools (user_id, provider, total_tokens, remaining_tokens, refill, reset_time) VALUES ($1, 'gemini', 1000, 3, 'never', now() - interval '1 day')`, alice)
	for provider, want := range map[string]int64{"openai": 1000, "qwen": 2, "gemini": 3} {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				got, err := ledger.Find(t.Context(), w.pool, ledger.Key{Account: "user:" + alice, Provider: provider})
				if err != nil || got.Remaining != want {
					t.Errorf("%s: want %d remaining, got %d, %v", provider, want, got.Remaining, err)
				}
				if provider != "gemini" && time.Until(got.ResetTime) < 23*time.Hour {
					t.Errorf("%s: want the next window to end in a day, got %v", provider, got.ResetTime)
				}
			})
		}
		wg.Wait()
	}
}

func TestPoolsAreOnePerOwnerAndProvider(t *testing.T) {
	t.Parallel()
	w := migrated(t)
	const insert = `INSERT INTO token_pools (user_id, provider, total_tokens, remaining_tokens) VALUES ($1, 'openai', 1, 1)`
	w.exec(insert, alice)
	if _, err := w.pool.Exec(t.Context(), insert, alice); err == nil {
		t.Error("want a second pool of one owner and provider refused, got none")
	}
}

func TestMigrateIsIdempotentAndSerial(t *testing.T) {
	t.Parallel()
	pool := testenv.Postgres(t)
	var wg sync.WaitGroup
	for range 3 {
		w := newWorld(t, pool, nil)
		wg.Go(func() {
			if err := w.store.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var tables int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM information_schema.tables WHERE table_name IN ('token_pools', 'token_org_pools', 'goose_tokensvc')`).Scan(&tables); err != nil || tables != 3 {
		t.Errorf("want 3 tables, got %d, %v", tables, err)
	}
}

func TestPostgresAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lazyPool(t), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := w.store.Run(ctx); err != nil || w.store.Ready() {
		t.Errorf("want Run to keep trying without an error, got ready %t, %v", w.store.Ready(), err)
	}
	got := w.call("GET", "/api/v1/tokens/quota?provider=openai", user(alice))
	if got.status != 503 || got.header.Get("Retry-After") == "" {
		t.Errorf("want 503 with Retry-After, got %d %v", got.status, got.body)
	}
	if got := w.call("GET", "/readyz", nil); got.status != 503 {
		t.Errorf("want not ready, got %d %v", got.status, got.body)
	}
	if got := w.call("GET", "/v1/models", user(alice)); got.status != 200 {
		t.Errorf("want models without Postgres, got %d %v", got.status, got.body)
	}
}
