package extauthz

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func headersOf(ok *auth.OkHttpResponse) map[string]string {
	set := map[string]string{}
	for _, h := range ok.GetHeaders() {
		set[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	return set
}

func TestProvidersLearnNothingOfTheCaller(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user := uuid.NewString()
	key := i.newKey(user, nil, "USER")
	resp, err := s.Check(t.Context(), request("/v1beta/models/g:generateContent?alt=sse&key="+key, map[string]string{"cookie": "a=b"}))
	if err != nil {
		t.Fatal(err)
	}
	ok := resp.GetOkResponse()
	if len(ok.GetHeaders()) != 0 {
		t.Errorf("headers are set: %v", ok.GetHeaders())
	}
	for _, name := range []string{"authorization", "x-api-key", "x-goog-api-key", "cookie", attributes.HeaderIdentity,
		attributes.HeaderUserID, attributes.HeaderUserRoles} {
		if !slices.Contains(ok.GetHeadersToRemove(), name) {
			t.Errorf("%s is not removed", name)
		}
	}
	if !slices.Equal(ok.GetQueryParametersToRemove(), []string{"key"}) {
		t.Errorf("query parameters removed: %v", ok.GetQueryParametersToRemove())
	}
	fields := resp.GetDynamicMetadata().GetFields()
	if fields[attributes.User].GetStringValue() != user || fields[attributes.Key].GetStringValue() == "" ||
		fields[attributes.Tier].GetStringValue() != "USER" || fields[attributes.Org] != nil {
		t.Errorf("metadata: %v", fields)
	}
	if strings.Contains(resp.String(), key) {
		t.Error("the key itself is in the answer")
	}
}

func TestServicesGetASignedIdentity(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user := uuid.NewString()
	key := i.newKey(user, nil, "USER", "ADMIN")
	keys, err := jwks.Parse(s.published)
	if err != nil {
		t.Fatal(err)
	}
	req := request("/api/v1/tokens/quota", map[string]string{"x-api-key": key}, attributes.ContextAudience, "tokensvc",
		attributes.ContextFamily, attributes.FamilyProblem)
	for range 2 {
		resp, err := s.Check(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		set := headersOf(resp.GetOkResponse())
		if set[attributes.HeaderUserID] != user || set[attributes.HeaderUserRoles] != "ADMIN,USER" {
			t.Fatalf("headers: %v", set)
		}
		for _, h := range resp.GetOkResponse().GetHeaders() {
			if h.GetAppendAction().String() != "OVERWRITE_IF_EXISTS_OR_ADD" {
				t.Errorf("%s is appended", h.GetHeader().GetKey())
			}
		}
		var anyKey any
		for _, k := range keys {
			anyKey = k
		}
		p, err := principal.NewVerifier("tokensvc", constant(anyKey)).Verify(set[attributes.HeaderIdentity])
		if err != nil || p.UserID != user || p.KeyID == "" || p.Tier != "ADMIN" || !slices.Equal(p.Roles, []string{"ADMIN", "USER"}) {
			t.Fatalf("identity: %+v, %v", p, err)
		}
		if _, err := principal.NewVerifier("analytics", constant(anyKey)).Verify(set[attributes.HeaderIdentity]); err == nil {
			t.Fatal("the identity is good for another service")
		}
	}
	if n := i.lookups.Load(); n != 1 {
		t.Errorf("want one lookup, got %d", n)
	}
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	s := ready(t, launch(t, newIssuer(t), ""))
	resp, err := s.Check(t.Context(), request("/api/v1/auth/login", map[string]string{"cookie": "a=b"}, attributes.ContextRule,
		attributes.RulePublic, attributes.ContextAudience, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	ok := resp.GetOkResponse()
	if ok == nil || len(ok.GetHeaders()) != 0 || resp.GetDynamicMetadata() != nil || !slices.Contains(ok.GetHeadersToRemove(),
		attributes.HeaderIdentity) {
		t.Fatalf("got %v", resp)
	}
	for name, rule := range map[string]string{"authenticated": attributes.RuleAuthenticated, "a role": "role:ADMIN", "no rule": "",
		"an unknown rule": "whoever"} {
		if got := statusOf(t, s, request("/v1/models", nil, attributes.ContextRule, rule)); got != http.StatusUnauthorized {
			t.Errorf("%s: want 401, got %d", name, got)
		}
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user, boss := i.newKey(uuid.NewString(), nil, "USER"), i.newKey(uuid.NewString(), nil, "ADMIN", "USER")
	for name, c := range map[string]struct {
		rule string
		key  string
		want int
	}{
		"public":                 {attributes.RulePublic, user, 200},
		"authenticated":          {attributes.RuleAuthenticated, user, 200},
		"no rule asks for one":   {"", user, 200},
		"role missing":           {"role:ADMIN", user, 403},
		"role there":             {"role:ADMIN", boss, 200},
		"role in another case":   {"role:admin", boss, 403},
		"empty role":             {"role:", boss, 403},
		"unknown rule":           {"everybody", boss, 403},
		"bad key on public path": {attributes.RulePublic, apikey.New(uuid.New()), 401},
	} {
		if got := statusOf(t, s, request("/x", map[string]string{"x-api-key": c.key}, attributes.ContextRule, c.rule)); got != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, got)
		}
	}
}

func TestSeveralCredentials(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	ann, bob := uuid.NewString(), uuid.NewString()
	annKey, annOther, bobKey := i.newKey(ann, nil, "USER", "GOLD"), i.newKey(ann, nil, "USER"), i.newKey(bob, nil, "USER")
	annToken := "Bearer " + sign(t, claimsOf(ann, "USER"), nil)
	for name, c := range map[string]struct {
		headers map[string]string
		want    int
	}{
		"key and token of one user": {map[string]string{"authorization": annToken, "x-api-key": annKey}, 200},
		"key and token of two":      {map[string]string{"authorization": annToken, "x-api-key": bobKey}, 400},
		"two keys of one user":      {map[string]string{"x-goog-api-key": annOther, "x-api-key": annKey}, 400},
		"good key, bad token":       {map[string]string{"authorization": annToken + "x", "x-api-key": annKey}, 401},
		"bad key, good token":       {map[string]string{"authorization": annToken, "x-api-key": "sk-123"}, 401},
		"good key, basic":           {map[string]string{"authorization": "Basic YTpi", "x-api-key": annKey}, 401},
		"Authorization twice":       {map[string]string{"authorization": annToken + "," + annToken}, 400},
		"keys in two headers":       {map[string]string{"x-goog-api-key": bobKey, "x-api-key": annKey}, 400},
		"a key twice in one":        {map[string]string{"x-api-key": annKey + "," + bobKey}, 400},
	} {
		resp, err := s.Check(t.Context(), request("/v1/models", c.headers))
		if err != nil {
			t.Fatal(err)
		}
		if got := statusOf(t, s, request("/v1/models", c.headers)); got != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, got)
		}
		if c.want == 200 && resp.GetDynamicMetadata().GetFields()[attributes.Tier].GetStringValue() != "GOLD" {
			t.Errorf("%s: the key's identity is not the one used: %v", name, resp.GetDynamicMetadata())
		}
	}
}

func TestRefusalsHaveTheShapeOfTheRoute(t *testing.T) {
	t.Parallel()
	s := ready(t, launch(t, newIssuer(t), ""))
	for family, want := range map[string]struct{ content, member string }{
		attributes.FamilyOpenAI: {"application/json", "error"}, attributes.FamilyGemini: {"application/json", "error"},
		attributes.FamilyProblem: {"application/problem+json", "message"}, "": {"application/problem+json", "message"},
	} {
		resp, err := s.Check(t.Context(), request("/v1/models?key=leaky_secret", nil, attributes.ContextFamily, family))
		if err != nil {
			t.Fatal(err)
		}
		denied := resp.GetDeniedResponse()
		set := map[string]string{}
		for _, h := range denied.GetHeaders() {
			set[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
		}
		var body map[string]any
		if err := json.Unmarshal([]byte(denied.GetBody()), &body); err != nil || body[want.member] == nil {
			t.Errorf("%s: body %s", family, denied.GetBody())
		}
		if set["content-type"] != want.content || !strings.HasPrefix(set["www-authenticate"], `Bearer error="invalid_token", resource_metadata=`) {
			t.Errorf("%s: headers %v", family, set)
		}
		if !strings.Contains(denied.GetBody(), "req-1") || strings.Contains(denied.GetBody(), "leaky_secret") {
			t.Errorf("%s: want the request id and not the key in %s", family, denied.GetBody())
		}
		if family == attributes.FamilyOpenAI && body["error"].(map[string]any)["code"] != "invalid_api_key" {
			t.Errorf("code: %s", denied.GetBody())
		}
	}
}

func TestIdentityDownIs503AndNeverOpen(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	cached, fresh := i.newKey(uuid.NewString(), nil, "USER"), i.newKey(uuid.NewString(), nil, "USER")
	if got := statusOf(t, s, request("/v1/models", map[string]string{"x-api-key": cached})); got != http.StatusOK {
		t.Fatalf("want 200, got %d", got)
	}
	for _, broken := range []int64{500, 503, 404, 403, 302} {
		i.status.Store(broken)
		for _, rule := range []string{attributes.RuleAuthenticated, attributes.RulePublic} {
			resp, err := s.Check(t.Context(), request("/v1/models", map[string]string{"x-api-key": fresh}, attributes.ContextRule, rule))
			if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 503 || !strings.Contains(resp.String(), "retry-after") {
				t.Fatalf("identity answers %d, rule %s: want 503 with retry-after, got %v, %v", broken, rule, resp, err)
			}
		}
	}
	i.server.Close()
	if got := statusOf(t, s, request("/v1/models", map[string]string{"x-api-key": fresh})); got != http.StatusServiceUnavailable {
		t.Fatalf("identity is gone: want 503, got %d", got)
	}
	if got := statusOf(t, s, request("/v1/models", map[string]string{"x-api-key": cached})); got != http.StatusOK {
		t.Fatalf("a cached key while identity is gone: want 200, got %d", got)
	}
}

func TestUnknownKeysAreLookedUpOnce(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	unknown := apikey.New(uuid.New())
	for range 5 {
		if got := statusOf(t, s, request("/v1/models", map[string]string{"x-api-key": unknown})); got != http.StatusUnauthorized {
			t.Fatalf("want 401, got %d", got)
		}
	}
	if n := i.lookups.Load(); n != 1 {
		t.Errorf("unknown key: want one lookup, got %d", n)
	}
	for _, malformed := range []string{"sk-123", "leaky_", "sk-x' OR pg_sleep(8)--", strings.Repeat("x", 1<<20)} {
		if got := statusOf(t, s, request("/v1/models", map[string]string{"x-api-key": malformed})); got != http.StatusUnauthorized {
			t.Fatalf("want 401, got %d", got)
		}
	}
	if n := i.lookups.Load(); n != 1 {
		t.Errorf("malformed keys were looked up: %d lookups", n)
	}
}

func TestAKeyIsNotTrustedPastItsEnd(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	end := time.Now().Add(time.Second)
	key := i.newKey(uuid.NewString(), &end, "USER")
	req := request("/v1/models", map[string]string{"x-api-key": key})
	if got := statusOf(t, s, req); got != http.StatusOK && time.Now().Before(end) {
		t.Fatalf("before the end: want 200, got %d", got)
	}
	testenv.Eventually(t, "the key has ended", func() bool { return statusOf(t, s, req) == http.StatusUnauthorized })
	if time.Now().Before(end) {
		t.Error("refused before its end")
	}
}

// TestWhatHasExpiredIsToldSo: whoever has it knew it once, and makes a new one.
func TestWhatHasExpiredIsToldSo(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	end := time.Now().Add(-time.Hour)
	ended, told, user := i.newKey(uuid.NewString(), &end, "USER"), i.newKey(uuid.NewString(), nil, "USER"), uuid.NewString()
	i.mu.Lock()
	i.keys[told] = validity{Message: apikey.Expired}
	i.mu.Unlock()
	claims := claimsOf(user, "USER")
	claims["exp"] = end.Unix()
	for name, header := range map[string]map[string]string{"a key that has ended": {"x-api-key": ended}, "one that identity knows": {"x-api-key": told},
		"a token": bearer(sign(t, claims, nil))} {
		for range 2 { // the second answer is from memory
			resp, err := s.Check(t.Context(), request("/v1/models", header))
			denied := resp.GetDeniedResponse()
			if err != nil || denied.GetStatus().GetCode() != http.StatusUnauthorized || !strings.Contains(denied.GetBody(), "expired") {
				t.Errorf("%s: want 401 that says so, got %v, %v", name, resp, err)
			}
		}
	}
}

func constant(key any) jwt.Keyfunc {
	return func(*jwt.Token) (any, error) { return key, nil }
}
