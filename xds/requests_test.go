package xds_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// TestWhoIsCounted: each strategy sends the descriptors of the callers it tells apart.
func TestWhoIsCounted(t *testing.T) {
	t.Parallel()
	const limits = `domain: leaky
descriptors:
  - key: count
    value: requests
    descriptors:
      - {key: user, rate_limit: {unit: minute, requests_per_unit: 5}}
      - {key: remote_address, rate_limit: {unit: minute, requests_per_unit: 5}}
      - {key: key, rate_limit: {unit: minute, requests_per_unit: 5}}
`
	const user, key, address = "count=requests,user=u-1", "count=requests,key=k-1", "count=requests,remote_address=127.0.0.1"
	for strategy, want := range map[config.KeyStrategy]struct{ known, anonymous []string }{
		config.KeyAuto:   {[]string{user, key}, []string{address}},
		config.KeyUser:   {[]string{user, key}, nil},
		config.KeyAPIKey: {[]string{"count=requests,user=k-1", key}, []string{address}},
		config.KeyIP:     {[]string{"count=requests,user=127.0.0.1", key, address}, []string{"count=requests,user=127.0.0.1", address}},
	} {
		t.Run(string(strategy), func(t *testing.T) {
			t.Parallel()
			g := start(t, func(c *config.Config) {
				c.Gateway.RateLimit.KeyStrategy = strategy
				c.Limits.File = limitsFile(t, limits)
			}, nil)
			for _, path := range []string{"/api/v1/auth/login", "/api/v1/me"} {
				if a := g.do(t, "GET", path, ""); a.status != 200 {
					t.Fatalf("want 200, got %+v", a)
				}
				if got := g.limit.last(); !equalSets(got, want.known) {
					t.Errorf("%s, known: want %v, got %v", path, want.known, got)
				}
			}
			asked := g.limit.count()
			if a := g.do(t, "POST", "/api/v1/auth/login", "{}", "Authorization", "", "X-User-Id", "invented"); a.status != 200 {
				t.Fatalf("want 200, got %+v", a)
			}
			var got []string
			if g.limit.count() > asked {
				got = g.limit.last()
			}
			if !equalSets(got, want.anonymous) {
				t.Errorf("anonymous: want %v, got %v", want.anonymous, got)
			}
		})
	}
}

func equalSets(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func limitsFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhitelistedPathsAreNotCounted(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		c.Gateway.RateLimit.Whitelist = []string{"/api/v1/tokens/status", "/api/v1/analytics/**", "/api/v1/me/x/**"}
	}, nil)
	for path, counted := range map[string]bool{
		"/api/v1/tokens/status": false, "/api/v1/tokens/status?x=1": false, "/api/v1/tokens/statuses": true,
		"/api/v1/tokens/quota?p=/api/v1/tokens/status": true,
		"/api/v1/analytics/usage":                      false, "/api/v1/me": true, "/api/v1/me/": true, "/api/v1/me/x": false, "/api/v1/me/x/y": false,
		"/api/v1/me/xy": true, "/api/v1/me/y?/api/v1/me/x/": true,
	} {
		before := g.limit.count()
		if a := g.do(t, "GET", path, ""); a.status != 200 {
			t.Fatalf("%s: want 200, got %+v", path, a)
		}
		if got := g.limit.count() > before; got != counted {
			t.Errorf("%s: counted: want %v, got %v", path, counted, got)
		}
	}
}

// TestTheFlagTurnsCountingOff: requests are not counted any more, tokens still are.
func TestTheFlagTurnsCountingOff(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) { c.Flags.Gateway.RateLimiting = false }, nil)
	g.limit.set(admit(nil))
	if a := g.do(t, "GET", "/api/v1/me", ""); a.status != 200 || g.limit.count() != 0 {
		t.Errorf("want nobody asked, got %+v, %d questions", a, g.limit.count())
	}
	if a := g.do(t, "POST", chatPath, body("")); a.status != 200 || len(g.limit.last()) != 2 {
		t.Errorf("want the hold and the tokens alone, got %+v %v", a, g.limit.last())
	}
	for _, d := range g.limit.last() {
		if strings.HasPrefix(d, "count=requests") {
			t.Errorf("requests are counted: %s", d)
		}
	}
}

// TestOpenRoutesPassWithoutTheRateLimitService: the others are refused.
func TestOpenRoutesPassWithoutTheRateLimitService(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		c.Limits.Timeout = 200 * time.Millisecond
		c.Services.RateLimit.GRPC = "127.0.0.1:1" // nobody listens
		c.Limits.Outage = config.Outage{Default: config.OutageClosed, Routes: map[string]config.OutageMode{"openai-chat": config.OutageOpen,
			"tokensvc": config.OutageOpen, "analytics": config.OutageLease}}
	}, nil)
	for path, c := range map[string]struct {
		method, body string
		status       int
	}{
		chatPath: {"POST", body(""), 200}, "/api/v1/tokens/quota": {"GET", "", 200}, "/api/v1/analytics/usage": {"GET", "", 503},
		genPath: {"POST", "{}", 503}, "/api/v1/me": {"GET", "", 503},
	} {
		a := g.do(t, c.method, path, c.body)
		if a.status != c.status {
			t.Errorf("%s: want %d, got %d %s", path, c.status, a.status, a.body)
		}
		if path == chatPath {
			if raw, l := g.rawLine(t, a.header.Get("x-request-id")); l.Account != "" || l.User != "u-1" || l.Status != 200 {
				t.Errorf("want a line of a call without a hold, got %s", raw)
			}
		}
	}
}

// TestAnOpenRouteIsLimitedAsAnyOther: the second filter holds, refuses and splices too.
func TestAnOpenRouteIsLimitedAsAnyOther(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) { c.Limits.Outage.Default = config.OutageOpen }, nil)
	g.limit.set(admit(map[string]any{attributes.MaxTokens: 7, attributes.MaxTokensName: attributes.MaxTokens}))
	a := g.do(t, "POST", chatPath, body(""))
	if got := g.back.last(t).body; a.status != http.StatusOK || !strings.Contains(got, `"max_tokens":7`) {
		t.Errorf("want the body spliced, got %d %s", a.status, got)
	}
	if raw, l := g.rawLine(t, a.header.Get("x-request-id")); l.Account != "user:u-1" || l.Held == nil {
		t.Errorf("want the hold in the line, got %s", raw)
	}
	if g.limit.count() != 1 {
		t.Errorf("want one question, got %d", g.limit.count())
	}
}

// TestOtherMethods get an answer that says which there are, and no body where there may be none.
func TestOtherMethods(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for name, c := range map[string]struct {
		method, path string
		status       int
		allow        string
	}{
		"options on a model call":  {"OPTIONS", chatPath, 405, "POST"},
		"head on the models":       {"HEAD", "/v1/models", 405, "GET"},
		"head on a service":        {"HEAD", "/api/v1/me", 200, ""},
		"options on a service":     {"OPTIONS", "/api/v1/me", 200, ""}, // the service's to answer
		"delete on a gemini model": {"DELETE", genPath, 405, "POST"},
		"trace":                    {"TRACE", "/nowhere", 404, ""},
	} {
		a := g.do(t, c.method, c.path, "")
		if a.status != c.status || a.header.Get("Allow") != c.allow || c.method == "HEAD" && a.body != "" {
			t.Errorf("%s: want %d, Allow %q, got %+v", name, c.status, c.allow, a)
		}
		if a := g.do(t, c.method, c.path, "", "Authorization", ""); a.status != 401 {
			t.Errorf("%s: want 401 for an unknown caller, got %d", name, a.status)
		}
	}
}

// TestSignInHasLimitsOfItsOwn: what is fetched, what is asked and what people see are told apart, and a
// refusal speaks to whoever asked.
func TestSignInHasLimitsOfItsOwn(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	full := func(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT, RawBody: []byte(`{"message":"rate limit exceeded"}`),
			ResponseHeadersToAdd: []*corev3.HeaderValue{{Key: "retry-after", Value: "7"}, {Key: "content-type", Value: "application/problem+json"}}}, nil
	}
	for path, c := range map[string]struct{ route, family string }{
		"/oauth2/token":                     {"sign-in-oauth", attributes.FamilyOAuth},
		"/oauth2/introspect":                {"sign-in-oauth", attributes.FamilyOAuth},
		"/oauth2/device_authorization":      {"sign-in-oauth", attributes.FamilyOAuth},
		"/oauth2/jwks":                      {"sign-in-keys", attributes.FamilyOAuth},
		"/.well-known/openid-configuration": {"sign-in-keys", attributes.FamilyOAuth},
		"/oauth2/authorize?client_id=x":     {"sign-in-pages", attributes.FamilyPage},
		"/oauth2/device":                    {"sign-in-pages", attributes.FamilyPage},
		"/api/v1/auth/login":                {"identity", attributes.FamilyProblem},
	} {
		g.limit.set(admit(nil))
		if a := g.do(t, "GET", path, "", "Authorization", ""); a.status != 200 || !slices.Contains(g.limit.last(),
			"count=requests,route="+c.route+",remote_address=127.0.0.1") {
			t.Errorf("%s: want it counted as %s, got %d %v", path, c.route, a.status, g.limit.last())
		}
		g.limit.set(full)
		a := g.do(t, "GET", path, "", "Authorization", "")
		if a.status != 429 || a.header.Get("retry-after") != "7" || c.family == attributes.FamilyPage && !strings.Contains(a.body, "in 7 s.") {
			t.Errorf("%s: got %d %v %s", path, a.status, a.header, a.body)
		}
		if c.family == attributes.FamilyOAuth && !strings.Contains(a.body, `"retryAfterSeconds":7`) {
			t.Errorf("%s: want the wait, got %s", path, a.body)
		}
		checkShape(t, a, c.family, "", "temporarily_unavailable", path)
	}
}
