package oauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
)

// TestEditingAClientLeavesItsTokens: what it may have shrinks with the next refresh.
func TestEditingAClientLeavesItsTokens(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	root := b.user("root", "ADMIN")
	m := b.app(web())
	token := b.login(b.config(m, "openid", "tokens.read", "tokens.write", "offline_access"), "ann")
	path := "/api/v1/admin/clients/" + m.ID
	edited := b.api("PATCH", path, map[string]any{"name": "Dashboard", "scopes": []string{"openid", "tokens.read", "offline_access"},
		"redirectUris": []string{"https://new.example/cb"}}, root)
	if edited.status != http.StatusOK || edited.body["name"] != "Dashboard" || strings.Contains(edited.text, "clientSecret") ||
		len(edited.body["grantTypes"].([]any)) != 3 {
		t.Fatalf("%d %s", edited.status, edited.text)
	}
	if r := b.introspectAs(m, token.AccessToken); r.body["active"] != true {
		t.Errorf("the token ended: %s", r.text)
	}
	refreshed := b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}},
		func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) })
	if refreshed.status != http.StatusOK || refreshed.body["scope"] != "openid tokens.read offline_access" {
		t.Errorf("want what the client may still have, got %d %s", refreshed.status, refreshed.text)
	}
	if r := b.get("/oauth2/authorize", asked(m, nil)); r.status != http.StatusBadRequest {
		t.Errorf("the old redirect URI: %d", r.status)
	}
	if r := b.from("https://new.example", "OPTIONS", "/oauth2/token", nil); r.header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("the new origin may not read: %v", r.header)
	}
	for name, c := range map[string]struct {
		body   any
		status int
	}{
		"a bad URI":        {map[string]any{"redirectUris": []string{"http://new.example/cb"}}, 400},
		"10 000 URIs":      {map[string]any{"redirectUris": manyURIs(10_000)}, 413},
		"21 URIs":          {map[string]any{"redirectUris": manyURIs(21)}, 400},
		"an empty name":    {map[string]any{"name": ""}, 400},
		"an unknown one":   {map[string]any{"scopes": []string{"everything"}}, 400},
		"keys for none":    {map[string]any{"jwks": map[string]any{"keys": []any{}}}, 400},
		"nothing":          {map[string]any{}, 200},
		"no code any more": {map[string]any{"grantTypes": []string{"client_credentials"}}, 400}, // with redirect URIs
	} {
		if r := b.api("PATCH", path, c.body, root); r.status != c.status {
			t.Errorf("%s: want %d, got %d %s", name, c.status, r.status, r.text)
		}
	}
	for _, id := range []string{"app-none", "%00"} {
		if r := b.api("PATCH", "/api/v1/admin/clients/"+id, map[string]any{}, root); r.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", id, r.status, r.text)
		}
	}
}

func manyURIs(n int) []string {
	uris := make([]string, n)
	for i := range uris {
		uris[i] = "https://a.example/" + strings.Repeat("x", i%50)
	}
	return uris
}

func TestNameAndEmailInTheIDTokenByClient(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	for _, wanted := range []bool{false, true} {
		app := web()
		app.IDTokenClaims = wanted
		m := b.app(app)
		token := b.login(b.config(m, "openid", "profile", "email"), "ann")
		id, err := b.discover().Verifier(&oidc.Config{ClientID: m.ID}).Verify(t.Context(), token.Extra("id_token").(string))
		if err != nil {
			t.Fatal(err)
		}
		var claims map[string]any
		if err := id.Claims(&claims); err != nil {
			t.Fatal(err)
		}
		if got := claims["email"] == "ann@example.org" && claims["preferred_username"] == "ann" && claims["email_verified"] == false; got != wanted {
			t.Errorf("want them: %v, got %v", wanted, claims)
		}
	}
}

// keyed is a client that proves itself by a key.
type keyed struct {
	made
	key *ecdsa.PrivateKey
}

func (b *bench) keyed(n registration) keyed {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "one"}})
	if err != nil {
		b.t.Fatal(err)
	}
	if n.JWKS, err = json.Marshal(map[string]any{"keys": []any{jwk.Marshal()}}); err != nil {
		b.t.Fatal(err)
	}
	return keyed{b.app(n), key}
}

// assertion is one of the client, changed.
func (b *bench) assertion(k keyed, change jwt.MapClaims) string {
	b.t.Helper()
	claims := jwt.MapClaims{"iss": k.ID, "sub": k.ID, "aud": b.url, "jti": rand.Text(), "iat": time.Now().Unix(),
		"exp": time.Now().Add(time.Minute).Unix()}
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = "one"
	text, err := token.SignedString(k.key)
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

func (b *bench) asserted(assertion string, more url.Values) reply {
	b.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {assertionType}, "client_assertion": {assertion}}
	for name, values := range more {
		form[name] = values
	}
	return b.post("/oauth2/token", form)
}

func TestClientsProveThemselvesByAKey(t *testing.T) {
	t.Parallel()
	b := start(t)
	k := b.keyed(registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"}})
	if k.Secret != "" {
		t.Error("it got a secret beside its keys")
	}
	once := b.assertion(k, nil)
	if r := b.asserted(once, nil); r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.text)
	}
	if r := b.asserted(b.assertion(k, jwt.MapClaims{"aud": []string{b.url + "/oauth2/token"}}), url.Values{"client_id": {k.ID}}); r.status != http.StatusOK {
		t.Errorf("for the endpoint, with the id: %d %s", r.status, r.text)
	}
	now := time.Now()
	stranger := keyed{made: k.made}
	stranger.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for name, assertion := range map[string]string{
		"used before":         once,
		"another audience":    b.assertion(k, jwt.MapClaims{"aud": "https://elsewhere.example"}),
		"no audience":         b.assertion(k, jwt.MapClaims{"aud": nil}),
		"expired":             b.assertion(k, jwt.MapClaims{"exp": now.Add(-time.Hour).Unix()}),
		"for too long":        b.assertion(k, jwt.MapClaims{"exp": now.Add(time.Hour).Unix()}),
		"for ever":            b.assertion(k, jwt.MapClaims{"exp": nil}),
		"without an id":       b.assertion(k, jwt.MapClaims{"jti": nil}),
		"by another issuer":   b.assertion(k, jwt.MapClaims{"iss": "app-other"}),
		"of another client":   b.assertion(k, jwt.MapClaims{"iss": "app-other", "sub": "app-other"}),
		"by another key":      b.assertion(stranger, nil),
		"no JWT":              "nonsense",
		"a NUL in its client": b.assertion(k, jwt.MapClaims{"iss": "a\x00", "sub": "a\x00"}),
	} {
		if r := b.asserted(assertion, nil); r.status != http.StatusUnauthorized || r.body["error"] != "invalid_client" {
			t.Errorf("%s: want invalid_client, got %d %s", name, r.status, r.text)
		}
	}
	for _, more := range map[string]url.Values{"a secret beside it": {"client_secret": {"x"}}, "another id": {"client_id": {"app-x"}},
		"another type": {"client_assertion_type": {"urn:x"}}} {
		wantError(t, b.asserted(b.assertion(k, nil), more), 400, "invalid_request")
	}
	if r := b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {k.ID}}); r.status != http.StatusUnauthorized {
		t.Errorf("without a proof: %d %s", r.status, r.text)
	}
	root := b.user("root", "ADMIN")
	for name, jwks := range map[string]string{"a private key": `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}]}`,
		"a secret": `{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}`, "none": `{"keys":[]}`} {
		r := b.api("POST", "/api/v1/admin/clients", registration{Name: "bad", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"},
			JWKS: json.RawMessage(jwks)}, root)
		if r.status != http.StatusBadRequest || !strings.Contains(r.text, "jwks") {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
}

// TestPushedRequests: the browser carries a name alone, for the client that pushed it.
func TestPushedRequests(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m, other := b.app(web()), b.app(web())
	basic := func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) }
	verifier := oauth2.GenerateVerifier()
	wanted := url.Values{"client_id": {m.ID}, "response_type": {"code"}, "redirect_uri": {callback}, "scope": {"openid tokens.read"},
		"state": {strings.Repeat("s", 4096)}, "code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}, "code_challenge_method": {"S256"}}
	pushed := b.post("/oauth2/par", wanted, basic)
	name, _ := pushed.body["request_uri"].(string)
	if pushed.status != http.StatusCreated || !strings.HasPrefix(name, "urn:ietf:params:oauth:request_uri:") || pushed.body["expires_in"] != 600.0 {
		t.Fatalf("%d %s", pushed.status, pushed.text)
	}
	back := b.allow(b.url+"/oauth2/authorize?"+url.Values{"client_id": {m.ID}, "request_uri": {name}, "scope": {"admin"}}.Encode(), "ann")
	if back.Get("state") != wanted.Get("state") {
		t.Error("want the state that was pushed")
	}
	token := b.post("/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "code": {back.Get("code")}, "redirect_uri": {callback},
		"code_verifier": {verifier}}, basic)
	if token.status != http.StatusOK || token.body["scope"] != "openid tokens.read" {
		t.Errorf("want what was pushed and nothing beside it, got %d %s", token.status, token.text)
	}
	for why, q := range map[string]url.Values{"another client": {"client_id": {other.ID}, "request_uri": {name}},
		"changed": {"client_id": {m.ID}, "request_uri": {name + "A"}}} {
		if r := b.get("/oauth2/authorize", q); r.status != http.StatusBadRequest || r.header.Get("Location") != "" {
			t.Errorf("%s: %d %v", why, r.status, r.header)
		}
	}
	for _, c := range map[string]struct {
		change url.Values
		code   string
	}{"no challenge": {url.Values{"code_challenge": {""}}, "invalid_request"}, "a name in it": {url.Values{"request_uri": {name}}, "invalid_request"},
		"another URI":             {url.Values{"redirect_uri": {"https://evil.example"}}, "invalid_request"},
		"a scope it may not have": {url.Values{"scope": {"analytics.read"}}, "invalid_scope"}} {
		form := url.Values{}
		for n, v := range wanted {
			form[n] = slices.Clone(v)
		}
		for n, v := range c.change {
			form[n] = v
		}
		wantError(t, b.post("/oauth2/par", form, basic), 400, c.code)
	}
	if r := b.post("/oauth2/par", wanted); r.status != http.StatusUnauthorized {
		t.Errorf("without a proof: %d %s", r.status, r.text)
	}
}
