package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const (
	callback    = "https://app.example/callback"
	grantDevice = "urn:ietf:params:oauth:grant-type:device_code"
)

// app is a registered OAuth2 client.
type app struct {
	ClientID, ClientSecret string
}

func (a app) basic() []string {
	return []string{"Authorization", oauthBasic(a.ClientID, a.ClientSecret), "Content-Type", "application/x-www-form-urlencoded"}
}

func newApp(t *testing.T, root stacktest.Account, settings map[string]any) app {
	t.Helper()
	var made app
	mustCall(t, 201, "POST", "/api/v1/admin/clients", root.JWT, settings, &made)
	return made
}

func webApp(change map[string]any) map[string]any {
	settings := map[string]any{"name": "Web <app>", "redirectUris": []string{callback, "http://127.0.0.1/cb"},
		"grantTypes": []string{"authorization_code", "refresh_token", grantDevice},
		"scopes":     []string{"openid", "profile", "email", "tokens.read", "tokens.write", "analytics.read", "admin", "offline_access"}}
	for name, value := range change {
		settings[name] = value
	}
	return settings
}

func jobApp(scopes ...string) map[string]any {
	return map[string]any{"name": "job", "grantTypes": []string{"client_credentials"}, "scopes": scopes}
}

func discovered(t *testing.T) *oidc.Provider {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), running.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

func (a app) config(t *testing.T, scopes ...string) *oauth2.Config {
	t.Helper()
	return &oauth2.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, Endpoint: discovered(t).Endpoint(), RedirectURL: callback,
		Scopes: scopes}
}

// gateway cuts the gateway's address from a URL.
func pathOf(t *testing.T, address string) string {
	t.Helper()
	path, ours := strings.CutPrefix(address, running.Gateway)
	if !ours {
		t.Fatalf("%s is not at the gateway", address)
	}
	return path
}

var sealed = regexp.MustCompile(`<input type="hidden" name="form" value="([^"]+)"`)

// fillIn posts a page's form as a browser without scripts does.
func fillIn(t *testing.T, page answer, path string, fields url.Values) answer {
	t.Helper()
	form := sealed.FindStringSubmatch(page.text)
	if page.status != 200 || form == nil {
		t.Fatalf("want a page with a form, got %d %s", page.status, page.text)
	}
	if strings.Contains(page.text, "<script") || page.header.Get("Set-Cookie") != "" {
		t.Error("the page has a script or sets a cookie")
	}
	fields.Set("form", html.UnescapeString(form[1]))
	return post(t, path, fields, "Origin", running.Gateway, "Sec-Fetch-Site", "same-origin")
}

// post sends a form.
func post(t *testing.T, path string, fields url.Values, header ...string) answer {
	t.Helper()
	return request(t, "POST", path, "", fields.Encode(), append([]string{"Content-Type", "application/x-www-form-urlencoded"}, header...)...)
}

// shown is the page that a form is answered with, by way of a redirect (303).
func shown(t *testing.T, a answer) answer {
	t.Helper()
	to := a.header.Get("Location")
	if a.status != 303 || !strings.HasPrefix(to, "/oauth2/") {
		t.Fatalf("want a redirect to a page, got %d %q %s", a.status, to, a.text)
	}
	return request(t, "GET", to, "", nil)
}

// consent signs in on the page of an authorization request and gives what the client learns.
func consent(t *testing.T, authorize string, who person) url.Values {
	t.Helper()
	page := request(t, "GET", pathOf(t, authorize), "", nil)
	return landed(t, fillIn(t, page, "/oauth2/authorize", url.Values{"username": {who.name}, "password": {who.password},
		"decision": {"allow"}}))
}

// landed are the parameters that the client gets by way of the browser.
func landed(t *testing.T, a answer) url.Values {
	t.Helper()
	to, err := url.Parse(a.header.Get("Location"))
	if err != nil || a.status != 303 {
		t.Fatalf("want a redirect, got %d %q %s", a.status, a.header.Get("Location"), a.text)
	}
	if !strings.HasPrefix(a.header.Get("Location"), callback+"?") || to.Query().Get("iss") != running.Gateway {
		t.Errorf("want the callback and iss (RFC 9207), got %q", a.header.Get("Location"))
	}
	return to.Query()
}

// authorized runs the code flow with golang.org/x/oauth2.
func authorized(t *testing.T, cfg *oauth2.Config, who person, options ...oauth2.AuthCodeOption) *oauth2.Token {
	t.Helper()
	verifier := oauth2.GenerateVerifier()
	back := consent(t, cfg.AuthCodeURL("the state", append(options, oauth2.S256ChallengeOption(verifier))...), who)
	if back.Get("state") != "the state" {
		t.Fatalf("the state is gone: %v", back)
	}
	token, err := cfg.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// refusedBy checks an answer of RFC 6749, 5.2.
func refusedBy(t *testing.T, a answer, status int, code string) {
	t.Helper()
	var body struct{ Error string }
	if a.into(t, &body); a.status != status || body.Error != code {
		t.Errorf("want %d %s, got %d %s", status, code, a.status, a.text)
	}
	if why := leak(a); why != "" {
		t.Error(why)
	}
}

// Contract §21: authorization_code with PKCE, OpenID Connect, refresh_token and re-use.
func TestCodeFlow(t *testing.T) {
	t.Parallel()
	ann, root := newPerson(t), newAccount(t, "ADMIN")
	web := newApp(t, root, webApp(nil))
	cfg := web.config(t, "openid", "profile", "email", "tokens.read", "offline_access")
	token := authorized(t, cfg, ann, oauth2.SetAuthURLParam("nonce", "the nonce"))
	raw, _ := token.Extra("id_token").(string)
	id, err := discovered(t).Verifier(&oidc.Config{ClientID: web.ClientID}).Verify(t.Context(), raw)
	if err != nil || id.Subject != ann.id || id.Nonce != "the nonce" || id.VerifyAccessToken(token.AccessToken) != nil {
		t.Fatalf("ID token: %+v, %v", id, err)
	}
	info, err := discovered(t).UserInfo(t.Context(), oauth2.StaticTokenSource(token))
	if err != nil || info.Subject != ann.id || info.Email != ann.name+"@example.com" {
		t.Errorf("userinfo: %+v, %v", info, err)
	}
	if a := request(t, "GET", "/api/v1/me", token.AccessToken, nil); a.status != 200 || !strings.Contains(a.text, ann.id) {
		t.Errorf("the access token at the API: %d %s", a.status, a.text)
	}
	wantProblem(t, request(t, "GET", "/api/v1/me", raw, nil), 401, "")
	second, err := cfg.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
	if err != nil || second.RefreshToken == token.RefreshToken {
		t.Fatalf("refresh: %v", err)
	}
	replay := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}}
	refusedBy(t, post(t, "/oauth2/token", replay, web.basic()...), 400, "invalid_grant")
	replay.Set("refresh_token", second.RefreshToken)
	refusedBy(t, post(t, "/oauth2/token", replay, web.basic()...), 400, "invalid_grant")
	refusedSoon(t, second.AccessToken, "the access token of a replayed family")
}

// Contract A8 and §21: client_credentials with the client of the predecessor, scopes, and where the secret may stand.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	root := newAccount(t, "ADMIN")
	job := newApp(t, root, jobApp("tokens.read", "analytics.read"))
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams} {
		cfg := clientcredentials.Config{ClientID: job.ClientID, ClientSecret: job.ClientSecret, TokenURL: running.Gateway + "/oauth2/token",
			AuthStyle: style}
		token, err := cfg.Token(t.Context())
		if err != nil || token.RefreshToken != "" || token.Extra("scope") != "tokens.read analytics.read" {
			t.Fatalf("%+v, %v", token, err)
		}
		if a := request(t, "GET", "/api/v1/tokens/status", token.AccessToken, nil); a.status != 200 {
			t.Errorf("%d %s", a.status, a.text)
		}
	}
	wrong := clientcredentials.Config{ClientID: job.ClientID, ClientSecret: "wrong", TokenURL: running.Gateway + "/oauth2/token",
		AuthStyle: oauth2.AuthStyleInHeader}
	_, err := wrong.Token(t.Context())
	if failed, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || failed.Response.StatusCode != 401 ||
		failed.ErrorCode != "invalid_client" {
		t.Errorf("a wrong secret: %v", err)
	}
}

// Contract §21: the device flow, with slow_down for who polls too fast (RFC 8628, 3.5).
func TestDeviceFlow(t *testing.T) {
	t.Parallel()
	ann, root := newPerson(t), newAccount(t, "ADMIN")
	tv := newApp(t, root, webApp(map[string]any{"public": true}))
	cfg := tv.config(t, "openid", "tokens.read")
	device, err := cfg.DeviceAuth(t.Context())
	if err != nil || device.UserCode == "" || device.Interval < 5 {
		t.Fatalf("%+v, %v", device, err)
	}
	poll := url.Values{"grant_type": {grantDevice}, "client_id": {tv.ClientID}, "device_code": {device.DeviceCode}}
	refusedBy(t, post(t, "/oauth2/token", poll), 400, "authorization_pending")
	testenv.Eventually(t, "who polls too fast is told to slow down", func() bool {
		a := post(t, "/oauth2/token", poll)
		if strings.Contains(a.text, "authorization_pending") { // the machine took the interval between the two
			return false
		}
		refusedBy(t, a, 400, "slow_down")
		return true
	})

	device, err = cfg.DeviceAuth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	page := request(t, "GET", pathOf(t, device.VerificationURIComplete), "", nil)
	if page.status != 200 || !strings.Contains(page.text, device.UserCode) {
		t.Fatalf("%d %s", page.status, page.text)
	}
	enter := func(code string) answer {
		t.Helper()
		return shown(t, post(t, "/oauth2/device", url.Values{"user_code": {code}}, "Origin", running.Gateway))
	}
	if a := enter("nothing"); a.status != 400 || !strings.Contains(a.text, "A code looks like") {
		t.Errorf("a malformed code: %d %s", a.status, a.text)
	}
	page = enter(strings.ToLower(device.UserCode))
	if !strings.Contains(page.text, "Web &lt;app&gt;") || !strings.Contains(page.text, "tokens.read") {
		t.Errorf("client and scopes are not shown: %s", page.text)
	}
	allow := func(password string) answer {
		t.Helper()
		return shown(t, fillIn(t, page, "/oauth2/device", url.Values{"username": {ann.name}, "password": {password}, "decision": {"allow"}}))
	}
	if a := allow("wrong horse 1"); a.status != 403 || !strings.Contains(a.text, "password is wrong") {
		t.Errorf("a wrong password: %d %s", a.status, a.text)
	}
	if a := allow(ann.password); a.status != 200 || !strings.Contains(a.text, "The device is connected") {
		t.Fatalf("%d %s", a.status, a.text)
	}
	token, err := cfg.DeviceAccessToken(context.WithoutCancel(t.Context()), device)
	if err != nil {
		t.Fatal(err)
	}
	if a := request(t, "GET", "/api/v1/me", token.AccessToken, nil); a.status != 200 || !strings.Contains(a.text, ann.id) {
		t.Errorf("%d %s", a.status, a.text)
	}
	poll.Set("device_code", device.DeviceCode)
	refusedBy(t, post(t, "/oauth2/token", poll), 400, "invalid_grant")
}

// TestScopesBind: what a token was not granted, its bearer cannot do, whoever they are.
func TestScopesBind(t *testing.T) {
	t.Parallel()
	root := newAccount(t, "ADMIN")
	scopes := []string{"models.call", "tokens.read", "tokens.write", "analytics.read", "admin"}
	settings := jobApp(scopes...)
	settings["ownerId"] = root.ID
	job := newApp(t, root, settings)
	tokens := map[string]string{}
	for _, scope := range scopes {
		var got struct {
			Token string `json:"access_token"`
		}
		post(t, "/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "scope": {scope}}, job.basic()...).into(t, &got)
		tokens[scope] = got.Token
	}
	for _, tc := range []struct {
		method, path string
		body         any
		status       int    // for those who may
		allowed      string // scopes
	}{
		{"GET", "/api/v1/me", nil, 200, "tokens.read"},
		{"GET", "/api/v1/tokens/status", nil, 200, "tokens.read"},
		{"POST", "/api/v1/tokens/purchase", "{}", 400, "tokens.write"},
		{"GET", "/api/v1/analytics/health", nil, 200, "analytics.read"},
		{"GET", "/api/v1/admin/users", nil, 200, "admin"},
		{"GET", "/api/v1/admin/audit", nil, 200, "admin"},
		{"GET", "/v1/models", nil, 200, "tokens.read models.call"},
		{"POST", "/v1/chat/completions", okBody, 200, "models.call tokens.write"},
		{"POST", keysPath, "{}", 0, ""}, // a granted token must not turn into a key
		{"POST", "/api/v1/auth/password", `{"current":"a","new":"b"}`, 0, ""},
		{"GET", orgsPath, nil, 0, ""},
	} {
		for _, scope := range scopes {
			a := request(t, tc.method, tc.path, tokens[scope], tc.body)
			if slices.Contains(strings.Fields(tc.allowed), scope) {
				if a.status != tc.status {
					t.Errorf("%s %s with %s: want %d, got %d %s", tc.method, tc.path, scope, tc.status, a.status, a.text)
				}
				continue
			}
			challenge := a.header.Get("WWW-Authenticate")
			told := strings.Contains(challenge, `error="insufficient_scope"`) && strings.Contains(challenge, strings.SplitN(tc.allowed, " ", 2)[0])
			if tc.allowed == "admin" {
				told = strings.Contains(a.text, "your roles") // without the scope the token has no such role either
			}
			if a.status != 403 || !told {
				t.Errorf("%s %s with %s: want 403 insufficient_scope, got %d %q", tc.method, tc.path, scope, a.status, challenge)
			}
		}
	}
}

// Contract §21: introspection and revocation (RFC 7662, RFC 7009).
func TestIntrospectAndRevoke(t *testing.T) {
	t.Parallel()
	ann, root := newPerson(t), newAccount(t, "ADMIN")
	web, other := newApp(t, root, webApp(nil)), newApp(t, root, webApp(nil))
	server := newApp(t, root, map[string]any{"name": "resource server", "resourceServer": true})
	token := authorized(t, web.config(t, "tokens.read", "offline_access"), ann)
	active := func(as app, text string) bool {
		t.Helper()
		var got struct{ Active bool }
		a := post(t, "/oauth2/introspect", url.Values{"token": {text}}, as.basic()...)
		if a.into(t, &got); a.status != 200 || !got.Active && strings.TrimSpace(a.text) != `{"active":false}` {
			t.Errorf("%d %s", a.status, a.text)
		}
		return got.Active
	}
	for _, text := range []string{token.AccessToken, token.RefreshToken} {
		if !active(web, text) || !active(server, text) || active(other, text) || active(web, text+"x") {
			t.Error("a token is active for its client and for resource servers alone")
		}
	}
	refusedBy(t, post(t, "/oauth2/introspect", url.Values{"token": {token.AccessToken}}), 401, "invalid_client")
	for _, as := range []app{other, web} {
		for _, text := range []string{token.RefreshToken, "unknown"} {
			if a := post(t, "/oauth2/revoke", url.Values{"token": {text}}, as.basic()...); a.status != 200 || a.text != "" {
				t.Errorf("revoke: %d %s", a.status, a.text)
			}
		}
		if as == other && !active(web, token.AccessToken) {
			t.Fatal("another client's revocation counts")
		}
	}
	if active(web, token.AccessToken) {
		t.Error("the access token is active after the grant ended")
	}
	refusedSoon(t, token.AccessToken, "an access token whose grant was revoked")
}

// Contract §21: what the two documents promise is there.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		var doc map[string]any
		a := request(t, "GET", path, "", nil)
		if a.into(t, &doc); a.status != 200 || doc["issuer"] != running.Gateway ||
			fmt.Sprint(doc["code_challenge_methods_supported"]) != "[S256]" ||
			fmt.Sprint(doc["response_types_supported"]) != "[code]" || doc["authorization_response_iss_parameter_supported"] != true {
			t.Fatalf("%s: %d %s", path, a.status, a.text)
		}
		for _, grant := range []string{"authorization_code", "client_credentials", "refresh_token", grantDevice} {
			if !slices.Contains(doc["grant_types_supported"].([]any), any(grant)) {
				t.Errorf("%s lacks %s", path, grant)
			}
		}
		for name, address := range doc {
			if !strings.HasSuffix(name, "_endpoint") && name != "jwks_uri" {
				continue
			}
			if a := request(t, "PATCH", pathOf(t, address.(string)), "", nil); a.status != 405 {
				t.Errorf("%s: want it served, and 405 for PATCH, got %d", name, a.status)
			}
		}
	}
}

// oauthBasic is the header of RFC 6749, 2.3.1.
func oauthBasic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

// Contract A8: the predecessor's client is there in development, with a generated secret; and `leaky clients` manages others.
func TestClientsOfDevelopmentAndOfTheCommandLine(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(running.Dir, "secrets", "leaky-client.json"))
	if err != nil {
		t.Fatal(err)
	}
	var known app
	if err := json.Unmarshal(text, &known); err != nil || known.ClientID != "leaky-client" || len(known.ClientSecret) < 32 {
		t.Fatalf("%s, %v", text, err)
	}
	token := func(a app) (*oauth2.Token, error) {
		cfg := clientcredentials.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, TokenURL: running.Gateway + "/oauth2/token",
			AuthStyle: oauth2.AuthStyleInHeader}
		return cfg.Token(t.Context())
	}
	if got, err := token(known); err != nil || got.Extra("scope") != "tokens.read tokens.write" {
		t.Errorf("%+v, %v", got, err)
	}
	leakyJSON := func(dst any, args ...string) {
		t.Helper()
		out, err := running.Leaky(t.Context(), args...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := json.Unmarshal([]byte(out), dst); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	}
	var made, rotated app
	leakyJSON(&made, "clients", "create", "job", "--grant", "client_credentials", "--scope", "tokens.read", "-o", "json")
	if _, err := token(made); err != nil {
		t.Error(err)
	}
	leakyJSON(&rotated, "clients", "rotate-secret", made.ClientID, "-o", "json")
	if _, err := token(made); err == nil {
		t.Error("the old secret is good")
	}
	if _, err := token(rotated); err != nil {
		t.Error(err)
	}
	leaky(t, "clients", "delete", made.ClientID)
	if _, err := token(rotated); err == nil {
		t.Error("a deleted client gets tokens")
	}
}
