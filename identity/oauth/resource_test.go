package oauth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"
)

const otherResource = "https://mcp.example/sse"

// audience is that of an access token.
func (b *bench) audience(token string) []string {
	b.t.Helper()
	claims, err := b.read(token)
	if err != nil {
		b.t.Fatal(err)
	}
	return claims.Audience
}

// TestTokensAreForTheResourcesThatWereAskedFor, in every flow, and for fewer if a token asks for fewer.
func TestTokensAreForTheResourcesThatWereAskedFor(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.cfg.Resources = []string{otherResource}
	b.user("ann")
	m := b.app(web())
	cfg := b.config(m, "openid", "tokens.read", "offline_access")
	verifier := oauth2.GenerateVerifier()
	authorize := cfg.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)) + "&" + url.Values{"resource": {b.url + "/v1", otherResource}}.Encode()
	code := b.allow(authorize, "ann").Get("code")
	basic := func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) }
	redeem := func(resource ...string) reply {
		return b.post("/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier},
			"redirect_uri": {callback}, "resource": resource}, basic)
	}
	wantError(t, redeem("https://mcp.example/other"), 400, "invalid_target")
	first := redeem() // a refused resource did not cost the code
	if first.status != http.StatusOK {
		t.Fatalf("%d %s", first.status, first.text)
	}
	if got := b.audience(first.body["access_token"].(string)); !slices.Equal(got, []string{b.url + "/v1", otherResource}) {
		t.Errorf("want both, got %v", got)
	}
	refresh := func(token any, resource ...string) reply {
		return b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.(string)}, "resource": resource}, basic)
	}
	wantError(t, refresh(first.body["refresh_token"], b.url), 400, "invalid_target")
	one := refresh(first.body["refresh_token"], otherResource)
	if got := b.audience(one.body["access_token"].(string)); !slices.Equal(got, []string{otherResource}) {
		t.Errorf("want the one asked for, got %v", got)
	}
	userinfo := b.request("GET", "/oauth2/userinfo", http.NoBody)
	userinfo.Header.Set("Authorization", "Bearer "+one.body["access_token"].(string))
	if r := b.send(userinfo); r.status != http.StatusUnauthorized || !strings.Contains(r.header.Get("WWW-Authenticate"),
		`resource_metadata="`+b.url+`/.well-known/oauth-protected-resource"`) {
		t.Errorf("a token for another resource at userinfo: %d %v", r.status, r.header)
	}
	all := refresh(one.body["refresh_token"])
	if got := b.audience(all.body["access_token"].(string)); len(got) != 2 {
		t.Errorf("the grant keeps all, got %v", got)
	}
	if r := b.introspectAs(m, one.body["access_token"].(string)); r.body["active"] != true || !slices.Equal(r.body["aud"].([]any), []any{otherResource}) {
		t.Errorf("introspection tells where it may be used: %s", r.text)
	}
	phone := tv(b)
	asked := b.post("/oauth2/device_authorization", url.Values{"client_id": {phone.ID}, "client_secret": {phone.Secret}, "resource": {otherResource}})
	if asked.status != http.StatusOK {
		t.Errorf("device: %d %s", asked.status, asked.text)
	}
}

func TestResourcesThatAreNone(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.cfg.Resources = []string{otherResource}
	job := b.app(registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"}})
	for name, c := range map[string]struct {
		resources []string
		want      []string // audience; nil: invalid_target
	}{
		"none":                {nil, []string{"leaky-tokens"}},
		"an empty one":        {[]string{""}, []string{"leaky-tokens"}},
		"the gateway":         {[]string{b.url}, []string{b.url}},
		"the gateway's slash": {[]string{b.url + "/"}, []string{b.url + "/"}},
		"one of ours":         {[]string{otherResource}, []string{otherResource}},
		"the same twice":      {[]string{otherResource, otherResource}, []string{otherResource}},
		"unknown":             {[]string{"https://elsewhere.example"}, nil},
		"one unknown":         {[]string{b.url, "https://elsewhere.example"}, nil},
		"a longer host":       {[]string{b.url + ".evil.example"}, nil},
		"a fragment":          {[]string{b.url + "#x"}, nil},
		"an empty fragment":   {[]string{b.url + "#"}, nil},
		"no URI":              {[]string{"mcp"}, nil},
		"a space":             {[]string{b.url + "/a b"}, nil},
		"too long":            {[]string{b.url + "/" + strings.Repeat("x", 500)}, nil},
		"too many":            {many(b.url, 11), nil},
		"a NUL":               {[]string{b.url + "/\x00"}, nil},
	} {
		r := b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "resource": c.resources},
			func(r *http.Request) { r.SetBasicAuth(job.ID, job.Secret) })
		if c.want == nil {
			wantError(t, r, 400, "invalid_target")
			continue
		}
		if r.status != http.StatusOK {
			t.Errorf("%s: %d %s", name, r.status, r.text)
			continue
		}
		if got := b.audience(r.body["access_token"].(string)); !slices.Equal(got, c.want) {
			t.Errorf("%s: want %v, got %v", name, c.want, got)
		}
	}
	m := b.app(web())
	back := b.landed(b.get("/oauth2/authorize", asked(m, url.Values{"resource": {"https://elsewhere.example"}})))
	if back.Get("error") != "invalid_target" || back.Get("state") == "" {
		t.Errorf("authorize: %v", back)
	}
}

func many(base string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = base + "/" + strings.Repeat("x", i+1)
	}
	return all
}

// TestAProtectedResourceSaysWhereTokensComeFrom, of the gateway and of each path of it (RFC 9728).
func TestAProtectedResourceSaysWhereTokensComeFrom(t *testing.T) {
	t.Parallel()
	b := start(t)
	for path, resource := range map[string]string{"": "", "/v1": "/v1", "/v1/chat/completions": "/v1/chat/completions",
		"/a%22b": "/a%22b"} {
		r := b.get("/.well-known/oauth-protected-resource"+path, nil)
		servers, _ := r.body["authorization_servers"].([]any)
		if r.status != http.StatusOK || r.body["resource"] != b.url+resource || len(servers) != 1 || servers[0] != b.url ||
			r.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v %s", path, r.status, r.header, r.text)
		}
	}
}
