package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// Routes that the sandbox counts in a window of a day, for each caller.
const (
	pathQwen, perDayQwen     = "/api/v1/qwen/chat", 20
	pathGemini, perDayGemini = "/api/v1/gemini/chat", 30
	pathKeys                 = "/oauth2/jwks"
	perDayUser, perDayIP     = 40000, 50000
)

// withinOneDay waits where the day of UTC is about to end: its windows begin anew then.
func withinOneDay(t *testing.T) {
	t.Helper()
	const enough = 50 * time.Second
	testenv.Eventually(t, "the next day", func() bool {
		return time.Now().Truncate(24 * time.Hour).Equal(time.Now().Add(enough).Truncate(24 * time.Hour))
	})
}

// onOwnConnection sends from a port that no other request had.
func onOwnConnection(t *testing.T, path string, header ...string) answer {
	t.Helper()
	return request(t, "GET", path, "", nil, append(header, "Connection", "close")...)
}

// TestRequestsAreCountedByCallerAndRoute: contract 2.3 with decision 4. Key and token of
// one user share a counter, each route has its own, and headers that a client invents
// change nothing.
func TestRequestsAreCountedByCallerAndRoute(t *testing.T) {
	t.Parallel()
	withinOneDay(t)
	who, other := newAccount(t), newAccount(t)
	begin := time.Now().Unix()
	variants := [][]string{byKey(who), byToken(who), append(byKey(who), "X-User-Id", other.ID), append(byToken(who), "X-Forwarded-For",
		"203.0.113.9"),
		append(byToken(who), "X-User-Id", "invented", "X-User-Roles", "ADMIN"), append(byKey(who), "Connection", "close")}
	var r answer
	for i := range perDayQwen {
		r = request(t, "POST", pathQwen, "", `{"a":1}`, variants[i%len(variants)]...)
		if r.status != 200 {
			t.Fatalf("call %d: want 200, got %d %s", i, r.status, r.text)
		}
		// One call is one decrement.
		if limit, left := number(t, r, "X-RateLimit-Limit"), number(t, r, "X-RateLimit-Remaining"); limit != perDayQwen ||
			left != int64(perDayQwen-1-i) {
			t.Fatalf("call %d: want %d of %d left, got %d of %d", i, perDayQwen-1-i, perDayQwen, left, limit)
		}
		if reset := number(t, r, "X-RateLimit-Reset"); reset <= begin || reset > time.Now().Unix()+86401 || reset%86400 != 0 {
			t.Fatalf("want the end of the day, got %d", reset)
		}
	}
	for _, header := range variants {
		r = request(t, "POST", pathQwen, "", `{"a":1}`, header...)
		wantProblem(t, r, 429, "rate limit exceeded")
		var body struct{ RetryAfterSeconds int64 }
		r.into(t, &body)
		if wait := number(t, r, "Retry-After"); wait < 1 || wait > 86400 || body.RetryAfterSeconds != wait {
			t.Errorf("want one wait, got %d and %s", wait, r.text)
		}
		if number(t, r, "X-RateLimit-Limit") != perDayQwen || number(t, r, "X-RateLimit-Remaining") != 0 ||
			number(t, r, "X-RateLimit-Reset")%86400 != 0 {
			t.Errorf("headers %v", r.header)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "no-referrer"} {
			if got := r.header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s: want %s once, got %q", name, want, got)
			}
		}
		if number(t, r, "Retry-After") < 1 || r.header.Get("X-Correlation-Id") == "" || r.header.Get("Set-Cookie") != "" {
			t.Errorf("headers %v", r.header)
		}
	}
	if r = request(t, "POST", pathGemini, "", `{"a":1}`, byKey(who)...); r.status != 200 ||
		number(t, r, "X-RateLimit-Remaining") != perDayGemini-1 {
		t.Errorf("another route: want a counter of its own, got %d %v", r.status, r.header)
	}
	if r = request(t, "POST", pathQwen, "", `{"a":1}`, byKey(other)...); r.status != 200 ||
		number(t, r, "X-RateLimit-Remaining") != perDayQwen-1 {
		t.Errorf("another caller: want a counter of their own, got %d %v", r.status, r.header)
	}
}

// TestRequestsAreAdmittedExactly sends twice as many at once as a window has room for.
func TestRequestsAreAdmittedExactly(t *testing.T) {
	t.Parallel()
	withinOneDay(t)
	who := newAccount(t)
	got := atOnce(t, 2*perDayGemini, func(ctx context.Context, i int) (int, error) {
		header := byKey(who)
		if i%2 == 0 {
			header = byToken(who)
		}
		a, err := tryRequest(ctx, "POST", pathGemini, "", `{"a":1}`, header...)
		return a.status, err
	})
	if got[200] != perDayGemini || got[429] != perDayGemini {
		t.Errorf("want %d of each, got %v", perDayGemini, got)
	}
}

// TestAnonymousRequestsAreCountedByAddress: contract 2.3, without the port and without what
// a client says of itself. Who is known counts for themselves on the same route.
func TestAnonymousRequestsAreCountedByAddress(t *testing.T) {
	t.Parallel()
	withinOneDay(t)
	left := int64(perDayIP)
	for i, header := range [][]string{nil, nil, {"X-Forwarded-For", "203.0.113.7"}, {"X-Real-Ip", "203.0.113.7", "Forwarded",
		"for=203.0.113.7"}, {"X-User-Id", "somebody"}} {
		r := onOwnConnection(t, pathKeys, header...)
		now := number(t, r, "X-RateLimit-Remaining")
		if r.status != 200 || number(t, r, "X-RateLimit-Limit") != perDayIP || now >= left {
			t.Errorf("call %d: want less than %d left of %d, got %d %v", i, left, perDayIP, r.status, r.header)
		}
		left = now
	}
	who := newAccount(t)
	for i := range 3 {
		r := onOwnConnection(t, "/api/v1/auth/api-keys?userId="+who.ID, byToken(who)...)
		if r.status != 200 || number(t, r, "X-RateLimit-Limit") != perDayUser || number(t, r, "X-RateLimit-Remaining") > int64(perDayUser-1-i) {
			t.Errorf("known: want their own counter, got %d %v", r.status, r.header)
		}
	}
}

// TestWhitelistedPathsCarryNoLimit: contract 2.3.
func TestWhitelistedPathsCarryNoLimit(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	for _, header := range [][]string{nil, byKey(who)} {
		if r := request(t, "GET", "/actuator/health", "", nil, header...); r.header.Get("X-RateLimit-Limit") != "" {
			t.Errorf("a whitelisted path is counted: %d %v", r.status, r.header)
		}
	}
}

// edited replaces text in a file of the stack and gives what puts the old one back and
// waits until everybody follows it. For tests that are not parallel: they run before the
// others go on.
func edited(t *testing.T, path string, oldNew ...string) (restore func()) {
	t.Helper()
	settled(t)
	who := newAccount(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldNew); i += 2 {
		if strings.Count(string(before), oldNew[i]) != 1 {
			t.Fatalf("%q stands in %s not just once", oldNew[i], path)
		}
	}
	replaced(t, path, strings.NewReplacer(oldNew...).Replace(string(before)))
	return func() {
		t.Helper()
		replaced(t, path, string(before))
		wantFlags(t, true)
		testenv.Eventually(t, "the old configuration", func() bool {
			sold := request(t, "POST", pathPurchase, "", `{"provider":"openai","tokens":0}`, byKey(who)...)
			spent := request(t, "POST", pathConsume, "", `{"provider":"openai","tokens":1}`, byKey(who)...)
			return sold.status == 400 && sold.header.Get("X-RateLimit-Limit") != "" && spent.status == 402 &&
				onOwnConnection(t, pathKeys).status == 200
		})
		testenv.Eventually(t, "all is well again", func() bool { return state(t).Ready })
	}
}

// replaced puts a file in place of another in one step: nobody reads half of it.
func replaced(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func limitsFile() string { return filepath.Join(filepath.Dir(running.Config), "limits.yaml") }

// TestLimitsAreReloaded makes the address's limit small while the stack runs: who is not
// known is refused on every connection, a caller who is known is not. A file with a mistake
// changes nothing.
func TestLimitsAreReloaded(t *testing.T) {
	who := newAccount(t)
	defer edited(t, limitsFile(), "requests-per-address, unit: day, requests_per_unit: 50000}", "requests-per-address, unit: day, requests_per_unit: 1}",
		"keys-per-address, unit: day, requests_per_unit: 50000}", "keys-per-address, unit: day, requests_per_unit: 1}")()
	testenv.Eventually(t, "the smaller limit", func() bool { return onOwnConnection(t, pathKeys).status == 429 })
	for _, path := range []string{"/api/v1/auth/login", "/api/v1/auth/register"} {
		wantProblem(t, request(t, "POST", path, "", `{"username":"x","password":"y"}`, "X-Forwarded-For", "203.0.113.8"), 429,
			"rate limit exceeded")
	}
	if r := request(t, "GET", "/api/v1/auth/api-keys?userId="+who.ID, "", nil, byToken(who)...); r.status != 200 {
		t.Errorf("who is known: want 200, got %d %s", r.status, r.text)
	}
	replaced(t, limitsFile(), "domain: leaky\ndescriptors:\n  - key: count\n    value: requests\n    rate_limit: {unit: fortnight, requests_per_unit: 1}\n")
	testenv.Eventually(t, "a word about the mistake", func() bool {
		out, err := running.Leaky(t.Context(), "logs", "-n", "10000", "ratelimit")
		return err == nil && strings.Contains(out, "fortnight")
	})
	if r := onOwnConnection(t, pathKeys); r.status != 429 {
		t.Errorf("want the limits of before the mistake, got %d %s", r.status, r.text)
	}
}

// TestFlags turns all features off while the stack runs: contract 7.
func TestFlags(t *testing.T) {
	who := newAccount(t)
	defer edited(t, running.Config, "\npurchases:",
		"\nflags: {gateway: {rate_limiting: false, api_key_validation: false}, token_service: {quota_enforcement: false, saga_purchases: false}}\npurchases:")()
	wantFlags(t, false)
	testenv.Eventually(t, "no counting", func() bool {
		return request(t, "GET", "/api/v1/tokens/status", "", nil, byToken(who)...).header.Get("X-RateLimit-Limit") == ""
	})
	// No pool is needed, none is drawn on, and the bucket still binds.
	for _, tc := range []struct{ tokens, status int }{{900, 200}, {900, 429}} {
		r := request(t, "POST", pathConsume, "", map[string]any{"provider": "openai", "tokens": tc.tokens}, byToken(who)...)
		if r.status != tc.status || r.header.Get("X-RateLimit-Limit") != "" || number(t, r, "X-TokenBucket-Limit") != 1000 {
			t.Errorf("want %d, got %d %s", tc.status, r.status, r.text)
		}
	}
	wantProblem(t, request(t, "GET", pathQuota+"?provider=openai", "", nil, byToken(who)...), 404, "quota not found")
	wantProblem(t, request(t, "POST", pathPurchase, "", `{"provider":"openai","tokens":10}`, byToken(who)...), 503, "purchases disabled")
	for range perDayQwen + 5 {
		if r := request(t, "POST", pathQwen, "", `{"a":1}`, byToken(who)...); r.status != 200 || r.header.Get("X-RateLimit-Remaining") != "" {
			t.Fatalf("nothing is counted: want 200, got %d %v", r.status, r.header)
		}
	}
	testenv.Eventually(t, "keys that are ignored", func() bool {
		return request(t, "GET", "/api/v1/tokens/status", "", nil, byKey(who)...).status == 401
	})
	if r := request(t, "GET", "/api/v1/tokens/status", "", nil, append(byToken(who), "X-Api-Key", "leaky_nonsense")...); r.status != 200 {
		t.Errorf("an ignored key beside a token: want 200, got %d %s", r.status, r.text)
	}
}

// wantFlags waits until every process that follows them, each replica too, has all flags so.
func wantFlags(t *testing.T, on bool) {
	t.Helper()
	for _, part := range []string{"tokensvc", "ratelimit", "extauthz", "extauthz-2", "xds"} {
		testenv.Eventually(t, "the flags at "+part, func() bool {
			info := shownFlags(t, part)
			for _, name := range []string{"gateway.rate_limiting", "gateway.api_key_validation", "token_service.quota_enforcement",
				"token_service.saga_purchases"} {
				if is, told := info[name]; !told || is != on {
					return false
				}
			}
			return len(info) == 4
		})
	}
}

// shownFlags are the flags as a part follows them, by GET /actuator/info on its own port.
func shownFlags(t *testing.T, part string) map[string]bool {
	t.Helper()
	cfg, err := running.Loaded()
	if err != nil {
		t.Fatal(err)
	}
	at, ok := cfg.Services.Service(part)
	if !ok {
		t.Fatalf("no part %s", part)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.HTTP+"/actuator/info", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var info struct{ Flags map[string]bool }
	if err := json.NewDecoder(res.Body).Decode(&info); err != nil {
		t.Fatal(err)
	}
	return info.Flags
}
