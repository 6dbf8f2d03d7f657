package extauthz

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
)

func TestScopes(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user := uuid.NewString()
	token := func(change jwt.MapClaims) string {
		c := claimsOf(user, "ADMIN", "USER")
		for name, value := range change {
			c[name] = value
		}
		return sign(t, c, nil)
	}
	login := token(jwt.MapClaims{"client_id": firstParty})
	reader := token(jwt.MapClaims{"client_id": "app", "scope": "openid tokens.read"})
	both := token(jwt.MapClaims{"client_id": "app", "scope": "tokens.write tokens.read"})
	none := token(jwt.MapClaims{"client_id": "app"})
	empty := token(jwt.MapClaims{"scope": ""})
	public := token(jwt.MapClaims{"iss": publicIssuer, "client_id": firstParty})
	admin := token(jwt.MapClaims{"iss": publicIssuer, "client_id": "app", "scope": "admin"})
	key := i.newKey(user, nil, "ADMIN", "USER")
	const readOrWrite = attributes.ScopeTokensRead + " " + attributes.ScopeTokensWrite
	for name, c := range map[string]struct {
		method, credential, rule, scope string
		want                            int
		challenge                       string
	}{
		"a login needs none":                {"POST", login, "", readOrWrite, 200, ""},
		"a login where no client may":       {"POST", login, "", attributes.ScopeNone, 200, ""},
		"a key needs none":                  {"POST", key, "", readOrWrite, 200, ""},
		"a key where no client may":         {"GET", key, "", attributes.ScopeNone, 200, ""},
		"reading with the scope to read":    {"GET", reader, "", readOrWrite, 200, ""},
		"asking for headers":                {"HEAD", reader, "", readOrWrite, 200, ""},
		"writing with it":                   {"POST", reader, "", readOrWrite, 403, `Bearer error="insufficient_scope", scope="tokens.write"`},
		"deleting with it":                  {"DELETE", reader, "", readOrWrite, 403, `Bearer error="insufficient_scope", scope="tokens.write"`},
		"a method in lower case is another": {"get", reader, "", readOrWrite, 403, `Bearer error="insufficient_scope", scope="tokens.write"`},
		"writing with both":                 {"POST", both, "", readOrWrite, 200, ""},
		"either of two scopes":              {"POST", both, "", "models.call|tokens.write", 200, ""},
		"none of two scopes":                {"POST", reader, "", "models.call|tokens.write", 403, `Bearer error="insufficient_scope", scope="models.call"`},
		"a part of one's name":              {"POST", reader, "", "tokens|read", 403, `Bearer error="insufficient_scope", scope="tokens"`},
		"one scope for all methods": {"GET", both, "", attributes.ScopeAnalyticsRead, 403,
			`Bearer error="insufficient_scope", scope="analytics.read"`},
		"no client may":                   {"GET", both, "", attributes.ScopeNone, 403, `Bearer error="insufficient_scope"`},
		"any client may":                  {"POST", none, "", "", 200, ""},
		"a client without scopes":         {"GET", none, "", readOrWrite, 403, `Bearer error="insufficient_scope", scope="tokens.read"`},
		"an empty scope":                  {"GET", empty, "", readOrWrite, 403, `Bearer error="insufficient_scope", scope="tokens.read"`},
		"the public issuer gives to none": {"GET", public, "", readOrWrite, 403, `Bearer error="insufficient_scope", scope="tokens.read"`},
		"a role kept by a login":          {"GET", login, "role:ADMIN", "", 200, ""},
		"a role lost without the scope":   {"GET", both, "role:ADMIN", "", 403, ""},
		"a role kept with the scope":      {"GET", admin, "role:ADMIN", attributes.ScopeAdmin, 200, ""},
		"another role is not lost":        {"GET", both, "role:USER", "", 200, ""},
	} {
		req := request("/api/v1/x", bearer(c.credential), attributes.ContextScope, c.scope, attributes.ContextFamily, attributes.FamilyProblem)
		if c.rule != "" {
			req.Attributes.ContextExtensions[attributes.ContextRule] = c.rule
		}
		req.Attributes.Request.Http.Method = c.method
		resp, err := s.Check(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := statusOf(t, s, req); got != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, got)
			continue
		}
		challenge := ""
		for _, h := range resp.GetDeniedResponse().GetHeaders() {
			if h.GetHeader().GetKey() == "www-authenticate" {
				challenge = h.GetHeader().GetValue()
			}
		}
		want := c.challenge
		if strings.Contains(want, "scope=") {
			want += metadataParam
		}
		if challenge != want {
			t.Errorf("%s: challenge: want %q, got %q", name, want, challenge)
		}
	}
}

// metadataParam is how a challenge ends that a token of an application would answer.
const metadataParam = `, resource_metadata="` + publicIssuer + `/.well-known/oauth-protected-resource"`

// TestA401LeadsToAToken: what is wrong, what scope would do, and where to learn how to get one.
func TestA401LeadsToAToken(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	expired := claimsOf(uuid.NewString(), "USER")
	expired["exp"] = time.Now().Add(-time.Hour).Unix()
	bad, wrongKey := sign(t, expired, nil), "leaky_"+uuid.NewString()+"_"+strings.Repeat("0", 48)
	for name, c := range map[string]struct{ credential, scope, want string }{
		"none":                        {"", attributes.ScopeTokensWrite, `Bearer scope="tokens.write"` + metadataParam},
		"none, any scope":             {"", "", strings.Replace("Bearer"+metadataParam, ",", "", 1)},
		"expired":                     {bad, attributes.ScopeTokensWrite, `Bearer error="invalid_token", scope="tokens.write"` + metadataParam},
		"a key that is none":          {wrongKey, "", `Bearer error="invalid_token"` + metadataParam},
		"none where no client may":    {"", attributes.ScopeNone, "Bearer"},
		"expired where no client may": {bad, attributes.ScopeNone, `Bearer error="invalid_token"`},
	} {
		headers := map[string]string{}
		if c.credential != "" {
			headers = bearer(c.credential)
		}
		resp, err := s.Check(t.Context(), request("/v1/x", headers, attributes.ContextScope, c.scope, attributes.ContextFamily, attributes.FamilyOpenAI))
		if err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 401 {
			t.Fatalf("%s: %v, %v", name, resp, err)
		}
		for _, h := range resp.GetDeniedResponse().GetHeaders() {
			if h.GetHeader().GetKey() == "www-authenticate" && h.GetHeader().GetValue() != c.want {
				t.Errorf("%s: want %q, got %q", name, c.want, h.GetHeader().GetValue())
			}
		}
	}
}

// A key is no login: it makes and shows no credential, organisation or role.
func TestWhatAKeyMay(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user := uuid.NewString()
	key, login := i.newKey(user, nil, "ADMIN", "USER"), sign(t, claimsOf(user, "ADMIN", "USER"), nil)
	for _, c := range []struct {
		method, rule, keys string
		byKey, byLogin     int
	}{
		{"GET", attributes.RuleAuthenticated, "", 200, 200},
		{"POST", attributes.RuleAuthenticated, "", 200, 200},
		{"GET", attributes.RuleAuthenticated, attributes.KeysRead, 200, 200},
		{"HEAD", attributes.RuleAuthenticated, attributes.KeysRead, 200, 200},
		{"POST", attributes.RuleAuthenticated, attributes.KeysRead, 403, 200},
		{"DELETE", attributes.RuleAuthenticated, attributes.KeysRead, 403, 200},
		{"get", attributes.RuleAuthenticated, attributes.KeysRead, 403, 200},
		{"GET", attributes.RuleAuthenticated, attributes.KeysNone, 403, 200},
		{"POST", "role:ADMIN", attributes.KeysNone, 403, 200},
		{"POST", attributes.RulePublic, attributes.KeysNone, 403, 200},
		{"GET", attributes.RuleAuthenticated, "a word that is not known", 403, 200},
	} {
		for credential, want := range map[string]int{key: c.byKey, login: c.byLogin} {
			for _, headers := range []map[string]string{bearer(credential), {"authorization": "Bearer " + login, headerAPIKey: key}} {
				if headers[headerAPIKey] != "" {
					want = c.byKey // a key beside a login counts
				}
				req := request("/api/v1/x", headers, attributes.ContextRule, c.rule, attributes.ContextKeys, c.keys)
				req.Attributes.Request.Http.Method = c.method
				if got := statusOf(t, s, req); got != want {
					t.Errorf("%+v: want %d, got %d", c, want, got)
				}
			}
		}
	}
}

// Where an organisation is required nobody calls for themselves, so that no limit of an organisation
// can be stepped round.
func TestWhereAnOrganisationIsRequired(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user, org := uuid.NewString(), uuid.NewString()
	own, bound := i.newKey(user, nil, "ADMIN", "USER"), i.newKey(user, nil, "USER")
	i.bind(bound, org, "red")
	inOrg := claimsOf(user, "USER")
	inOrg["org"] = org
	for credential, want := range map[string]int{own: 403, bound: 200, sign(t, claimsOf(user, "ADMIN", "USER"), nil): 403,
		sign(t, inOrg, nil): 200} {
		if got := statusOf(t, s, request("/v1/models", bearer(credential), attributes.ContextOrg, attributes.OrgRequired)); got != want {
			t.Errorf("want %d, got %d", want, got)
		}
		if got := statusOf(t, s, request("/v1/models", bearer(credential))); got != 200 {
			t.Errorf("elsewhere: want 200, got %d", got)
		}
	}
}

// identityOf is what a service reads from the answer.
func identityOf(t *testing.T, s *Service, resp *auth.CheckResponse) principal.Principal {
	t.Helper()
	keys, err := jwks.Parse(s.published)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		p, err := principal.NewVerifier("tokensvc", constant(key)).Verify(headersOf(resp.GetOkResponse())[attributes.HeaderIdentity])
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Fatal("no key is published")
	return principal.Principal{}
}

func TestWhatServicesLearnOfTheCaller(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user, org := uuid.NewString(), uuid.NewString()
	key := i.newKey(user, nil, "USER")
	i.bind(key, org, "red")
	claims := claimsOf(user, "ADMIN", "USER")
	claims["client_id"], claims["scope"], claims["org"], claims["team"] = "app", "tokens.read  openid", org, "red"
	own := claimsOf(user, "USER")
	own["client_id"] = firstParty
	for name, c := range map[string]struct {
		credential string
		want       principal.Principal
	}{
		"a key of an organisation": {key, principal.Principal{UserID: user, OrgID: org, Team: "red", Roles: []string{"USER"}, Tier: "USER"}},
		"a client's token": {sign(t, claims, nil), principal.Principal{UserID: user, OrgID: org, Team: "red", Client: "app",
			Scope: "tokens.read openid", Roles: []string{"USER"}, Tier: "USER"}},
		"a login": {sign(t, own, nil), principal.Principal{UserID: user, Roles: []string{"USER"}, Tier: "USER"}},
	} {
		resp, err := s.Check(t.Context(), request("/api/v1/tokens/quota", bearer(c.credential), attributes.ContextAudience, "tokensvc"))
		if err != nil || resp.GetOkResponse() == nil {
			t.Fatalf("%s: %v, %v", name, resp, err)
		}
		got := identityOf(t, s, resp)
		if c.want.KeyID = got.KeyID; got.UserID != c.want.UserID || got.OrgID != c.want.OrgID || got.Team != c.want.Team ||
			got.Client != c.want.Client ||
			got.Scope != c.want.Scope || got.Tier != c.want.Tier || !slices.Equal(got.Roles, c.want.Roles) {
			t.Errorf("%s: want %+v, got %+v", name, c.want, got)
		}
		fields := resp.GetDynamicMetadata().GetFields()
		if fields[attributes.Org].GetStringValue() != c.want.OrgID || fields[attributes.Team].GetStringValue() != c.want.Team {
			t.Errorf("%s: metadata %v", name, fields)
		}
	}
	i.bind(key, "not an id", "")
	other := i.newKey(user, nil, "USER")
	i.bind(other, "ACME", "red")
	if got := statusOf(t, s, request("/v1/models", bearer(other))); got != http.StatusServiceUnavailable {
		t.Errorf("identity answers nonsense: want 503, got %d", got)
	}
}

func TestOAuth2EndpointsReadTheirOwnCredentials(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	key := i.newKey(uuid.NewString(), nil, "USER")
	for name, c := range map[string]struct {
		path    string
		headers map[string]string
		want    int
		kept    bool
	}{
		"a client by Basic":            {"/oauth2/token", map[string]string{"authorization": "Basic YTpi"}, 200, true},
		"an expired token at userinfo": {"/oauth2/userinfo", bearer("expired"), 200, true},
		"a key beside it must be good": {"/oauth2/token", map[string]string{"authorization": "Basic YTpi", "x-api-key": "leaky_x"}, 401,
			false},
		"a good key beside it":               {"/oauth2/token", map[string]string{"authorization": "Basic YTpi", "x-api-key": key}, 200, true},
		"Basic on another public path":       {"/api/v1/auth/login", map[string]string{"authorization": "Basic YTpi"}, 200, false},
		"a bad token on another public path": {"/api/v1/auth/refresh", bearer("expired"), 401, false},
		"nothing":                            {"/oauth2/jwks", nil, 200, false},
	} {
		req := request(c.path, c.headers, attributes.ContextRule, attributes.RulePublic, attributes.ContextAudience, "identity")
		if got := statusOf(t, s, req); got != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, got)
			continue
		}
		resp, err := s.Check(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		removed := resp.GetOkResponse().GetHeadersToRemove()
		if c.want == 200 && slices.Contains(removed, "authorization") == c.kept || c.want == 200 && !slices.Contains(removed, "x-api-key") {
			t.Errorf("%s: removed %v", name, removed)
		}
	}
	if got := statusOf(t, s, request("/oauth2/clients", map[string]string{"authorization": "Basic YTpi"})); got != http.StatusUnauthorized {
		t.Errorf("a path below /oauth2/ that is not public: want 401, got %d", got)
	}
}

func TestKeysOff(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	off := true
	s := ready(t, launch(t, i, "", func(c *Config) { c.KeysOff = func() bool { return off } }))
	user := uuid.NewString()
	key, token := i.newKey(user, nil, "USER"), "Bearer "+sign(t, claimsOf(user, "USER"), nil)
	for name, c := range map[string]struct {
		headers map[string]string
		rule    string
		want    int
	}{
		"a key":                  {map[string]string{"x-api-key": key}, attributes.RuleAuthenticated, 401},
		"a key as bearer":        {bearer(key), attributes.RuleAuthenticated, 401},
		"a key on a public path": {map[string]string{"x-api-key": "nonsense"}, attributes.RulePublic, 200},
		"a token":                {map[string]string{"authorization": token}, attributes.RuleAuthenticated, 200},
		"a token beside any keys": {map[string]string{"authorization": token, "x-api-key": "a", "x-goog-api-key": "b"},
			attributes.RuleAuthenticated, 200},
	} {
		if got := statusOf(t, s, request("/v1/models", c.headers, attributes.ContextRule, c.rule)); got != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, got)
		}
	}
	if i.lookups.Load() != 0 {
		t.Error("a key was looked up")
	}
	resp, err := s.Check(t.Context(), request("/v1/models?key="+key, map[string]string{"authorization": token}))
	if err != nil || !slices.Equal(resp.GetOkResponse().GetQueryParametersToRemove(), []string{"key"}) || strings.Contains(resp.String(),
		key) {
		t.Errorf("an ignored key must not go upstream: %v, %v", resp, err)
	}
	off = false
	if got := statusOf(t, s, request("/v1/models", map[string]string{"x-api-key": key})); got != http.StatusOK {
		t.Errorf("on again: want 200, got %d", got)
	}
}
