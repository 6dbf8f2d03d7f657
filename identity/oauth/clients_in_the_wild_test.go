package oauth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// What client libraries do that nobody here wrote.

// A public client may send an empty secret (RFC 6749 section 2.3.1), as golang.org/x/oauth2 does by
// Basic at its first try.
func TestAnEmptySecretIsNone(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	n := web()
	n.Public = true
	m := b.app(n)
	basic := func(r *http.Request) { r.SetBasicAuth(m.ID, "") }
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}
	for range 50 { // and is no guess
		wantError(t, b.post("/oauth2/token", form, basic), 400, "invalid_grant")
	}
	form.Set("client_id", m.ID)
	form.Set("client_secret", "")
	wantError(t, b.post("/oauth2/token", form), 400, "invalid_grant")
	wantError(t, b.post("/oauth2/token", form, func(r *http.Request) { r.SetBasicAuth(m.ID, "x") }), 401, "invalid_client")
	form.Set("client_secret", "x")
	wantError(t, b.post("/oauth2/token", form), 401, "invalid_client")
	confidential := b.app(web())
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}},
		func(r *http.Request) { r.SetBasicAuth(confidential.ID, "") }), 401, "invalid_client")
	cfg := b.config(m, "tokens.read") // its style of authentication is found by trying
	cfg.RedirectURL = callback
	count := b.countTokens(cfg)
	if token := b.login(cfg, "ann"); token.AccessToken == "" || *count != 1 {
		t.Errorf("want a token by the first request, got it after %d", *count)
	}
}

// countTokens counts requests to the token endpoint that a login by cfg makes.
func (b *bench) countTokens(cfg *oauth2.Config) *int {
	count := new(int)
	previous := b.server.Config.Handler
	b.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oauth2/token" {
			*count++
		}
		previous.ServeHTTP(w, r)
	})
	return count
}

// Wrong client secrets turn nobody away, not those who make them either.
func TestClientSecretsAreNotThrottled(t *testing.T) {
	t.Parallel()
	b := start(t)
	m := b.app(registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"}})
	form := url.Values{"grant_type": {"client_credentials"}}
	for range 40 {
		wantError(t, b.post("/oauth2/token", form, func(r *http.Request) { r.SetBasicAuth(m.ID, "wrong") }), 401, "invalid_client")
	}
	for range 200 {
		if r := b.post("/oauth2/token", form, func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) }); r.status != http.StatusOK {
			t.Fatalf("the right secret: %d %s", r.status, r.text)
		}
	}
}

// A state comes back, whatever its length and whatever went wrong (RFC 6749 section 4.1.2.1).
func TestTheStateComesBack(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m := b.app(web())
	for name, state := range map[string]string{"short": "s", "4 kB": strings.Repeat("s", 4<<10), "8 kB": strings.Repeat("s", 8<<10),
		"JSON": `{"next":"/a?b=c&d"}`} {
		page := b.get("/oauth2/authorize", asked(m, url.Values{"state": {state}}))
		if page.status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, page.status, page.header.Get("Location"))
		}
		again := b.post("/oauth2/authorize", url.Values{"form": {sealedIn(t, page)}, "username": {"ann"}, "password": {"wrong"},
			"decision": {"allow"}})
		back := b.landed(b.post("/oauth2/authorize", url.Values{"form": {sealedIn(t, again)}, "username": {"ann"}, "password": {password},
			"decision": {"allow"}}))
		if back.Get("state") != state || back.Get("code") == "" {
			t.Errorf("%s: got a state of %d bytes and code %q", name, len(back.Get("state")), back.Get("code"))
		}
	}
	for name, change := range map[string]url.Values{
		"too long":          {"state": {strings.Repeat("s", 9<<10)}},
		"no challenge":      {"state": {strings.Repeat("s", 4<<10)}, "code_challenge": {""}},
		"unicode":           {"state": {"é"}},
		"prompt none":       {"state": {"s"}, "prompt": {"none"}},
		"another parameter": {"state": {"s"}, "nonce": {"a", "b"}},
	} {
		back := b.landed(b.get("/oauth2/authorize", asked(m, change)))
		if back.Get("error") == "" || back.Get("state") != change.Get("state") {
			t.Errorf("%s: error %q, state of %d bytes", name, back.Get("error"), len(back.Get("state")))
		}
	}
}

func TestAuthorizationRequestsByTheBook(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	b.user("bob")
	m, other := b.app(web()), b.app(web())
	cfg := b.config(m, "openid", "tokens.read", "a-scope-of-tomorrow")
	token := b.login(cfg, "bob")
	if got := token.Extra("scope"); got != "openid tokens.read" {
		t.Errorf("an unknown scope is left out: got %v", got)
	}
	hint := token.Extra("id_token").(string)
	page := b.get("/oauth2/authorize", asked(m, url.Values{"id_token_hint": {hint}, "scope": {"openid"}}))
	if !strings.Contains(page.text, `value="bob"`) {
		t.Errorf("the hinted user is not filled in: %d %s", page.status, page.text)
	}
	answer := func(user string, page reply) reply {
		return b.post("/oauth2/authorize", url.Values{"form": {sealedIn(t, page)}, "username": {user}, "password": {password},
			"decision": {"allow"}})
	}
	r := answer("ann", page)
	if r.status != http.StatusForbidden || !strings.Contains(r.text, "asked for another account") {
		t.Fatalf("ann signs in where bob was hinted: %d %s", r.status, r.text)
	}
	if back := b.landed(answer("bob", r)); back.Get("code") == "" {
		t.Errorf("bob: %v", back)
	}
	foreign := b.login(b.config(other, "openid"), "bob").Extra("id_token").(string)
	for name, c := range map[string]struct {
		change url.Values
		want   string
	}{
		"prompt none and login":  {url.Values{"prompt": {"none login"}}, "invalid_request"},
		"prompt none":            {url.Values{"prompt": {"none"}}, "login_required"},
		"a hint of nonsense":     {url.Values{"id_token_hint": {"x.y.z"}}, "invalid_request"},
		"another client's hint":  {url.Values{"id_token_hint": {foreign}}, "invalid_request"},
		"an access token":        {url.Values{"id_token_hint": {token.AccessToken}}, "invalid_request"},
		"none of the scopes":     {url.Values{"scope": {"nonsense"}}, "invalid_scope"},
		"a scope it has not got": {url.Values{"scope": {"openid analytics.read"}}, "invalid_scope"},
	} {
		if back := b.landed(b.get("/oauth2/authorize", asked(m, c.change))); back.Get("error") != c.want {
			t.Errorf("%s: want %s, got %v", name, c.want, back)
		}
	}
}

// With one redirect URI registered a client may leave it out, at both endpoints alike.
func TestARedirectURIMayBeLeftOut(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	n := web()
	n.RedirectURIs = []string{callback}
	one, two := b.app(n), b.app(web())
	verifier := oauth2.GenerateVerifier()
	code := func(m made, redirect string) string {
		t.Helper()
		q := asked(m, url.Values{"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}, "scope": {"tokens.read"}})
		q.Set("redirect_uri", redirect)
		r := b.allow("/oauth2/authorize?"+q.Encode(), "ann")
		return r.Get("code")
	}
	redeem := func(m made, code, redirect string) reply {
		return b.post("/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
			"code_verifier": {verifier}}, func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) })
	}
	for _, redirect := range []string{"", callback} {
		if r := redeem(one, code(one, ""), redirect); r.status != http.StatusOK {
			t.Errorf("left out, then %q: %d %s", redirect, r.status, r.text)
		}
	}
	wantError(t, redeem(one, code(one, ""), "https://evil.example/"), 400, "invalid_grant")
	wantError(t, redeem(one, code(one, callback), ""), 400, "invalid_request")
	q := asked(two, nil)
	q.Del("redirect_uri")
	if r := b.get("/oauth2/authorize", q); r.status != http.StatusBadRequest {
		t.Errorf("with two registered: %d", r.status)
	}
}

// Each form is answered by a redirect, so that "back" and "reload" show a page.
func TestFormsAreAnsweredByRedirects(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann.of.the.forms")
	m := b.app(web())
	page := b.get("/oauth2/authorize", asked(m, nil))
	grant := b.post("/oauth2/device_authorization", url.Values{"client_id": {m.ID}, "client_secret": {m.Secret}, "scope": {"tokens.read"}})
	code := grant.body["user_code"].(string)
	device := b.post("/oauth2/device", url.Values{"user_code": {code}})
	for name, c := range map[string]struct {
		path   string
		form   url.Values
		status int
		shows  string
	}{
		"a wrong password":           {"/oauth2/authorize", url.Values{"form": {sealedIn(t, page)}, "username": {"ann.of.the.forms"}, "password": {"x"}, "decision": {"allow"}}, 403, wrongPassword},
		"too many attempts":          {"/oauth2/authorize", url.Values{"form": {sealedIn(t, page)}, "username": {"throttled"}, "password": {"x"}, "decision": {"allow"}}, 429, "Try again in 7 seconds."},
		"too busy":                   {"/oauth2/authorize", url.Values{"form": {sealedIn(t, page)}, "username": {"busy"}, "password": {"x"}, "decision": {"allow"}}, 503, "Too many people"},
		"an unknown code":            {"/oauth2/device", url.Values{"user_code": {"BCDF-GHJK"}}, 400, "not known or has expired"},
		"a malformed code":           {"/oauth2/device", url.Values{"user_code": {"x"}}, 400, "eight letters"},
		"a code":                     {"/oauth2/device", url.Values{"user_code": {code}}, 200, "Connect <strong>"},
		"a device, a wrong password": {"/oauth2/device", url.Values{"form": {sealedIn(t, device)}, "username": {"ann.of.the.forms"}, "password": {"x"}, "decision": {"allow"}}, 403, wrongPassword},
	} {
		req := b.request("POST", c.path, strings.NewReader(c.form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r := b.send(req)
		to := r.header.Get("Location")
		if r.status != http.StatusSeeOther || !strings.HasPrefix(to, c.path+"?") || strings.Contains(to, "forms") {
			t.Errorf("%s: %d %q", name, r.status, to)
			continue
		}
		for range 2 { // and once more, by reload
			if shown := b.send(b.request("GET", to, http.NoBody)); shown.status != c.status || !strings.Contains(shown.text, c.shows) {
				t.Errorf("%s: %d %s", name, shown.status, shown.text)
			}
		}
	}
	if later("x", 1) != "x Try again in a second." {
		t.Errorf("got %q", later("x", 1))
	}
	if r := b.get("/oauth2/device", nil); strings.Contains(r.text, "placeholder") {
		t.Error("a placeholder looks typed in")
	}
	old, err := b.forms.seal(kindAgain, anotherTry{Request: request{ClientID: m.ID, Redirect: callback}, Status: 403,
		Login: loginFields{Problem: wrongPassword}}, time.Now().Add(-2*formLife))
	if err != nil {
		t.Fatal(err)
	}
	if r := b.get("/oauth2/authorize", url.Values{"page": {old}}); r.status != 200 || strings.Contains(r.text, wrongPassword) {
		t.Errorf("an old page: %d %s", r.status, r.text)
	}
	if r := b.get("/oauth2/authorize", url.Values{"page": {"x"}}); r.status != 400 {
		t.Errorf("a page that is not ours: %d", r.status)
	}
}
