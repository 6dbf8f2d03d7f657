package oauth

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

// discover is go-oidc's view of the provider, which compares issuer and address.
func (b *bench) discover() *oidc.Provider {
	b.t.Helper()
	p, err := oidc.NewProvider(b.t.Context(), b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *bench) config(m made, scopes ...string) *oauth2.Config {
	return &oauth2.Config{ClientID: m.ID, ClientSecret: m.Secret, Endpoint: b.discover().Endpoint(), RedirectURL: callback, Scopes: scopes}
}

// login runs the code flow with golang.org/x/oauth2.
func (b *bench) login(cfg *oauth2.Config, user string, options ...oauth2.AuthCodeOption) *oauth2.Token {
	b.t.Helper()
	verifier := oauth2.GenerateVerifier()
	back := b.allow(cfg.AuthCodeURL("the state", append(options, oauth2.S256ChallengeOption(verifier))...), user)
	if back.Get("state") != "the state" || back.Get("code") == "" {
		b.t.Fatalf("want code and state, got %v", back)
	}
	token, err := cfg.Exchange(b.t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

func TestCodeFlowWithOIDC(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.user("ann")
	m := b.app(web())
	cfg := b.config(m, "openid", "profile", "email", "tokens.read", "offline_access")
	token := b.login(cfg, "ann", oauth2.SetAuthURLParam("nonce", "the nonce"))
	if token.RefreshToken == "" || token.Extra("scope") != "openid profile email tokens.read offline_access" {
		t.Fatalf("want a refresh token and all scopes, got %v %v", token.RefreshToken != "", token.Extra("scope"))
	}
	raw, _ := token.Extra("id_token").(string)
	provider := b.discover()
	id, err := provider.Verifier(&oidc.Config{ClientID: m.ID}).Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != ann.String() || id.Nonce != "the nonce" || id.VerifyAccessToken(token.AccessToken) != nil {
		t.Errorf("subject %s, nonce %s, at_hash: %v", id.Subject, id.Nonce, id.VerifyAccessToken(token.AccessToken))
	}
	var more struct {
		AuthTime int64 `json:"auth_time"`
	}
	if err := id.Claims(&more); err != nil || more.AuthTime == 0 {
		t.Errorf("auth_time: %d, %v", more.AuthTime, err)
	}
	info, err := provider.UserInfo(t.Context(), oauth2.StaticTokenSource(token))
	if err != nil || info.Subject != ann.String() || info.Email != "ann@example.org" || info.EmailVerified {
		t.Fatalf("userinfo: %+v, %v", info, err)
	}
	claims, err := b.read(token.AccessToken)
	if err != nil || claims.ClientID != m.ID || claims.Issuer != b.url || claims.Family == "" || claims.Generation == 0 ||
		slices.Contains(claims.Roles, "ADMIN") {
		t.Fatalf("access token: %+v, %v", claims, err)
	}
	if _, err := b.read(raw); err == nil {
		t.Error("an ID token was taken for an access token")
	}
}

func TestRefreshRotatesAndReuseEndsTheFamily(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m := b.app(web())
	cfg := b.config(m, "openid", "tokens.read", "tokens.write", "offline_access")
	first := b.login(cfg, "ann")
	second, err := cfg.TokenSource(t.Context(), &oauth2.Token{RefreshToken: first.RefreshToken}).Token()
	if err != nil || second.RefreshToken == first.RefreshToken || second.Extra("id_token") == nil {
		t.Fatalf("want another refresh token and an ID token, got %+v, %v", second, err)
	}
	basic := func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) }
	part := b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {second.RefreshToken},
		"scope": {"tokens.read"}}, basic)
	if part.status != http.StatusOK || part.body["scope"] != "tokens.read" || part.body["id_token"] != nil {
		t.Fatalf("narrowed: %d %s", part.status, part.text)
	}
	third := part.body["refresh_token"].(string)
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {third},
		"scope": {"tokens.read admin"}}, basic), 400, "invalid_scope")
	whole := b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {third}}, basic)
	if whole.status != http.StatusOK || whole.body["scope"] != "openid tokens.read tokens.write offline_access" {
		t.Fatalf("the next one keeps the whole scope: %d %s", whole.status, whole.text)
	}
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.RefreshToken}}, basic), 400,
		"invalid_grant")
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"},
		"refresh_token": {whole.body["refresh_token"].(string)}}, basic), 400, "invalid_grant")
	claims, _ := b.read(first.AccessToken)
	if !b.told(revocation.Family, claims.Family) {
		t.Error("the family's end was not announced")
	}
}

func TestRefreshTokensComeWithOfflineAccessAlone(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m := b.app(web())
	if token := b.login(b.config(m, "openid"), "ann"); token.RefreshToken != "" {
		t.Error("a refresh token without offline_access")
	}
	if token := b.login(b.config(m), "ann"); token.RefreshToken != "" ||
		token.Extra("scope") != "openid profile email tokens.read tokens.write" {
		t.Errorf("without a scope: got %v", token.Extra("scope"))
	}
}

func TestCodeFlowOfAPublicNativeApp(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	n := web()
	n.Public = true
	m := b.app(n)
	cfg := b.config(m, "tokens.read")
	cfg.RedirectURL = "http://127.0.0.1:54321/cb" // whichever port was free (RFC 8252)
	if m.Secret != "" {
		t.Error("a public client has a secret")
	}
	if token := b.login(cfg, "ann"); token.AccessToken == "" {
		t.Error("no token")
	}
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	b := start(t)
	m := b.app(registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read", "tokens.write", "admin"}})
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams} {
		cfg := clientcredentials.Config{ClientID: m.ID, ClientSecret: m.Secret, TokenURL: b.url + "/oauth2/token", AuthStyle: style}
		token, err := cfg.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		claims, err := b.read(token.AccessToken)
		if err != nil || claims.ClientID != m.ID || claims.Scope != "tokens.read tokens.write" || token.RefreshToken != "" {
			t.Fatalf("want no admin scope for a service account, and no refresh token: %+v, %v", claims, err)
		}
	}
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {m.ID}, "client_secret": {m.Secret},
		"scope": {"admin"}}), 400, "invalid_scope")
	var hash string
	if err := b.pool.QueryRow(t.Context(), `SELECT u.password_hash FROM users u JOIN oauth_clients c ON c.owner_id = u.id WHERE c.id = $1`,
		m.ID).Scan(&hash); err != nil || hash != "" {
		t.Errorf("a service account has a password: %q, %v", hash, err)
	}
}

func TestClientOfAnAdministratorMayHaveTheScopeAdmin(t *testing.T) {
	t.Parallel()
	b := start(t)
	root := b.user("root", "ADMIN")
	m := b.app(registration{Name: "ops", GrantTypes: []string{grantClient}, Scopes: []string{"admin"}, OwnerID: root.String()})
	r := b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {m.ID}, "client_secret": {m.Secret}})
	access, _ := r.body["access_token"].(string)
	claims, err := b.read(access)
	if err != nil || claims.Scope != "admin" || !slices.Contains(claims.Roles, "ADMIN") || claims.Subject != root.String() {
		t.Fatalf("%+v, %v: %s", claims, err, r.text)
	}
}

func TestDeviceFlow(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.user("ann")
	n := web()
	n.Public = true
	m := b.app(n)
	cfg := b.config(m, "openid", "tokens.read", "offline_access")
	cfg.ClientSecret = ""
	device, err := cfg.DeviceAuth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if device.Interval != 1 || len(device.UserCode) != 9 || device.VerificationURI != b.url+"/oauth2/device" ||
		!strings.Contains(device.VerificationURIComplete, device.UserCode) {
		t.Fatalf("%+v", device)
	}
	got := make(chan *oauth2.Token, 1)
	go func() {
		token, err := cfg.DeviceAccessToken(context.WithoutCancel(t.Context()), device)
		if err != nil {
			t.Error(err)
		}
		got <- token
	}()
	if page := b.send(b.request("GET", device.VerificationURIComplete, http.NoBody)); !strings.Contains(page.text, device.UserCode) {
		t.Errorf("the code is not filled in: %s", page.text)
	}
	page := b.post("/oauth2/device", url.Values{"user_code": {strings.ToLower(device.UserCode)}})
	if !strings.Contains(page.text, "Web &lt;app&gt; &amp; co") || !strings.Contains(page.text, "tokens.read") {
		t.Fatalf("client and scopes are not shown: %s", page.text)
	}
	done := b.post("/oauth2/device", url.Values{"form": {sealedIn(t, page)}, "username": {"ann"}, "password": {password},
		"decision": {"allow"}})
	if done.status != http.StatusOK || !strings.Contains(done.text, "connected") {
		t.Fatalf("%d %s", done.status, done.text)
	}
	token := <-got
	if t.Failed() {
		return
	}
	claims, err := b.read(token.AccessToken)
	if err != nil || claims.Subject != ann.String() || token.RefreshToken == "" || token.Extra("id_token") == nil {
		t.Fatalf("%+v, %v", claims, err)
	}
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {grantDevice}, "client_id": {m.ID}, "device_code": {device.DeviceCode}}),
		400, "invalid_grant")
	if r := b.post("/oauth2/device", url.Values{"user_code": {device.UserCode}}); r.status != http.StatusBadRequest {
		t.Errorf("a used user code: %d", r.status)
	}
}

// introspect asks about a token as a client.
func (b *bench) introspectAs(m made, token string) reply {
	b.t.Helper()
	return b.post("/oauth2/introspect", url.Values{"token": {token}}, func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) })
}

func TestIntrospection(t *testing.T) {
	t.Parallel()
	b := start(t)
	ann := b.user("ann")
	m, other := b.app(web()), b.app(web())
	server := b.app(registration{Name: "resource server", ResourceServer: true})
	token := b.login(b.config(m, "tokens.read", "offline_access"), "ann")
	for _, text := range []string{token.AccessToken, token.RefreshToken} {
		for name, as := range map[string]made{"own": m, "resource server": server} {
			r := b.introspectAs(as, text)
			if r.body["active"] != true || r.body["sub"] != ann.String() || r.body["client_id"] != m.ID || r.body["username"] != "ann" ||
				r.body["exp"] == nil {
				t.Errorf("%s: %s", name, r.text)
			}
		}
		for name, r := range map[string]reply{"another client's": b.introspectAs(other, text), "cut": b.introspectAs(m, text[:len(text)-1]),
			"nonsense": b.introspectAs(m, "nonsense")} {
			if strings.TrimSpace(r.text) != `{"active":false}` || r.status != http.StatusOK {
				t.Errorf("%s: %d %s", name, r.status, r.text)
			}
		}
	}
	if _, err := b.pool.Exec(t.Context(), `UPDATE users SET generation = generation + 1 WHERE id = $1`, ann); err != nil {
		t.Fatal(err)
	}
	if r := b.introspectAs(m, token.AccessToken); r.body["active"] != false {
		t.Errorf("issued under an older generation: %s", r.text)
	}
	if _, err := b.pool.Exec(t.Context(), `UPDATE users SET disabled_at = now() WHERE id = $1`, ann); err != nil {
		t.Fatal(err)
	}
	if r := b.introspectAs(m, token.RefreshToken); r.body["active"] != false {
		t.Errorf("of a disabled user: %s", r.text)
	}
	wantError(t, b.post("/oauth2/introspect", url.Values{"token": {token.AccessToken}}), 401, "invalid_client")
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m, other := b.app(web()), b.app(web())
	revoke := func(as made, token string) {
		t.Helper()
		r := b.post("/oauth2/revoke", url.Values{"token": {token}, "token_type_hint": {"whatever"}},
			func(r *http.Request) { r.SetBasicAuth(as.ID, as.Secret) })
		if r.status != http.StatusOK || r.text != "" {
			t.Fatalf("revoke: %d %s", r.status, r.text)
		}
	}
	for name, pick := range map[string]func(*oauth2.Token) string{
		"refresh token": func(t *oauth2.Token) string { return t.RefreshToken },
		"access token":  func(t *oauth2.Token) string { return t.AccessToken },
	} {
		token := b.login(b.config(m, "tokens.read", "offline_access"), "ann")
		claims, err := b.read(token.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		revoke(other, pick(token))
		revoke(m, "unknown")
		if r := b.introspectAs(m, token.AccessToken); r.body["active"] != true {
			t.Fatalf("%s: another client could revoke: %s", name, r.text)
		}
		revoke(m, pick(token))
		for _, text := range []string{token.AccessToken, token.RefreshToken} {
			if r := b.introspectAs(m, text); r.body["active"] != false {
				t.Errorf("%s: still active: %s", name, r.text)
			}
		}
		if !b.told(revocation.Family, claims.Family) {
			t.Errorf("%s: not announced", name)
		}
		revoke(m, pick(token))
	}
}

func TestRevokingOneTokenOfAServiceLeavesItsOthers(t *testing.T) {
	t.Parallel()
	b := start(t)
	m := b.app(registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"}})
	var tokens [2]string
	var claims [2]grants.Claims
	for i := range tokens {
		r := b.post("/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {m.ID}, "client_secret": {m.Secret}})
		tokens[i], _ = r.body["access_token"].(string)
		claims[i], _ = b.read(tokens[i])
	}
	b.post("/oauth2/revoke", url.Values{"token": {tokens[0]}, "client_id": {m.ID}, "client_secret": {m.Secret}})
	if a, c := b.introspectAs(m, tokens[0]).body["active"], b.introspectAs(m, tokens[1]).body["active"]; a != false || c != true {
		t.Errorf("want the first dead and the second alive, got %v, %v", a, c)
	}
	if !b.told(revocation.Token, claims[0].ID) || b.told(revocation.Family, claims[0].Family) {
		t.Error("want the one token announced")
	}
}

func TestUserinfoRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	token := b.login(b.config(b.app(web()), "tokens.read"), "ann")
	ask := func(header ...string) reply {
		req := b.request("GET", "/oauth2/userinfo", http.NoBody)
		req.Header["Authorization"] = header
		return b.send(req)
	}
	wantError(t, ask(), 401, "invalid_token")
	wantError(t, ask("Basic eDp5"), 401, "invalid_token")
	wantError(t, ask("Bearer "), 401, "invalid_token")
	wantError(t, ask("Bearer a.b.c"), 401, "invalid_token")
	wantError(t, ask("Bearer x", "Bearer y"), 400, "invalid_request")
	r := ask("Bearer " + token.AccessToken)
	if r.status != http.StatusForbidden || r.body["error"] != "insufficient_scope" || !strings.Contains(r.header.Get("WWW-Authenticate"),
		`scope="openid"`) {
		t.Errorf("without openid: %d %v %s", r.status, r.header, r.text)
	}
}
