package oauth

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const left = "https://app.example/left"

// leavingApp is a client whose users may sign out.
func leavingApp() registration {
	n := web()
	n.LogoutRedirectURIs = []string{left, "http://127.0.0.1/left"}
	return n
}

func TestSigningOut(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m, other := b.app(leavingApp()), b.app(leavingApp())
	cfg := b.config(m, "openid", "tokens.read", "offline_access")
	token := b.login(cfg, "ann")
	hint, _ := token.Extra("id_token").(string)
	refresh := func() reply {
		return b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}}, func(r *http.Request) {
			r.SetBasicAuth(m.ID, m.Secret)
		})
	}
	var metadata struct {
		At string `json:"end_session_endpoint"`
	}
	if err := b.discover().Claims(&metadata); err != nil || metadata.At != b.url+logoutPath {
		t.Fatalf("want the endpoint in the metadata, got %q, %v", metadata.At, err)
	}
	for name, form := range map[string]url.Values{
		"a URI that is not registered": {"id_token_hint": {hint}, "post_logout_redirect_uri": {"https://evil.example/"}},
		"a redirect URI of sign-in":    {"id_token_hint": {hint}, "post_logout_redirect_uri": {callback}},
		"another client":               {"id_token_hint": {hint}, "client_id": {other.ID}, "post_logout_redirect_uri": {left}},
		"no client":                    {"post_logout_redirect_uri": {left}},
		"an unknown client":            {"client_id": {"nobody"}, "post_logout_redirect_uri": {left}},
		"an access token":              {"id_token_hint": {token.AccessToken}},
		"nonsense":                     {"id_token_hint": {"x.y.z"}},
		"another signature":            {"id_token_hint": {hint[:len(hint)-8] + "AAAAAAAA"}},
		"a long state":                 {"id_token_hint": {hint}, "post_logout_redirect_uri": {left}, "state": {strings.Repeat("x", maxState+1)}},
		"a parameter twice":            {"id_token_hint": {hint, hint}},
	} {
		if r := b.get(logoutPath, form); r.status != http.StatusBadRequest || r.header.Get("Location") != "" ||
			!strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: want a page that says so, got %d %s %s", name, r.status, r.header.Get("Location"), r.text)
		}
	}
	if r := refresh(); r.status != http.StatusOK {
		t.Fatalf("after requests that were refused: want the grant alive, got %d %s", r.status, r.text)
	} else {
		token.RefreshToken, _ = r.body["refresh_token"].(string)
	}
	r := b.get(logoutPath, url.Values{"id_token_hint": {hint}, "post_logout_redirect_uri": {"http://127.0.0.1:1234/left"}, "state": {"the state"}})
	if r.status != http.StatusSeeOther || r.header.Get("Location") != "http://127.0.0.1:1234/left?state=the+state" {
		t.Errorf("want the way back with the state, got %d %s %s", r.status, r.header.Get("Location"), r.text)
	}
	wantError(t, refresh(), 400, "invalid_grant")
	if claims, _ := b.read(token.AccessToken); !b.told(revocation.Family, claims.Family) {
		t.Error("the access token was not revoked")
	}
	if r := b.post(logoutPath, url.Values{"id_token_hint": {hint}}); r.status != http.StatusOK || !strings.Contains(r.text, "Signed out") {
		t.Errorf("again, by a form: want a page, got %d %s", r.status, r.text)
	}
	if r := b.get(logoutPath, nil); r.status != http.StatusOK {
		t.Errorf("without anything: want a page, got %d %s", r.status, r.text)
	}
	if r := b.get(logoutPath, url.Values{"client_id": {m.ID}, "post_logout_redirect_uri": {left}}); r.header.Get("Location") != left+"?" &&
		r.header.Get("Location") != left {
		t.Errorf("a client that names itself: want the way back, got %d %s", r.status, r.header.Get("Location"))
	}
}

// hearing is a client's endpoint of back-channel logout.
type hearing struct {
	*httptest.Server
	tokens  chan string
	refusal atomic.Int64 // status to answer, once
}

func newHearing(t *testing.T) *hearing {
	t.Helper()
	h := &hearing{tokens: make(chan string, 8)}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(text))
		h.tokens <- form.Get("logout_token")
		if status := h.refusal.Swap(0); status != 0 {
			w.WriteHeader(int(status))
		}
	}))
	t.Cleanup(h.Close)
	return h
}

// TestClientsHearThatAGrantHasEnded whatever ended it, again where the first time failed.
func TestClientsHearThatAGrantHasEnded(t *testing.T) {
	t.Parallel()
	b := startWith(t, func(c *Config) { c.TellClients = true })
	go func() { _ = b.Run(t.Context()) }()
	ann := b.user("ann")
	h := newHearing(t)
	n := leavingApp()
	n.LogoutURI = h.URL + "/hear"
	m := b.app(n)
	h.refusal.Store(http.StatusServiceUnavailable)
	for _, end := range []func(hint, refresh string){
		func(hint, _ string) { b.get(logoutPath, url.Values{"id_token_hint": {hint}}) },
		func(_, refresh string) {
			b.post("/oauth2/revoke", url.Values{"token": {refresh}}, func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) })
		},
	} {
		token := b.login(b.config(m, "openid", "offline_access"), "ann")
		claims, err := b.read(token.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		hint, _ := token.Extra("id_token").(string)
		end(hint, token.RefreshToken)
		var last string
		testenv.Eventually(t, "the client hears it", func() bool {
			select {
			case last = <-h.tokens: // one that was refused comes again, maybe later
				var about jwt.MapClaims
				_, _, err := jwt.NewParser().ParseUnverified(last, &about)
				return err == nil && about["sid"] == claims.Family
			default:
				return false
			}
		})
		told, err := b.discover().Verifier(&oidc.Config{ClientID: m.ID}).Verify(t.Context(), last)
		if err != nil {
			t.Fatal(err)
		}
		var more struct {
			Session string         `json:"sid"`
			Nonce   string         `json:"nonce"`
			Events  map[string]any `json:"events"`
		}
		if err := told.Claims(&more); err != nil || told.Subject != ann.String() || more.Session != claims.Family || more.Nonce != "" ||
			more.Events[logoutEvent] == nil {
			t.Errorf("want a logout token of the grant, got %+v of %s, %v", more, told.Subject, err)
		}
	}
	testenv.Eventually(t, "nothing is left to tell", func() bool {
		var left int
		err := b.pool.QueryRow(t.Context(), "SELECT count(*) FROM oauth_logouts").Scan(&left)
		return err == nil && left == 0
	})
}

func TestLogoutAddressesAreChecked(t *testing.T) {
	t.Parallel()
	b := start(t) // without the switch
	admin := b.user("root", "ADMIN")
	for name, change := range map[string]func(*registration){
		"told without the switch": func(n *registration) { n.LogoutURI = "https://app.example/hear" },
		"no URI":                  func(n *registration) { n.LogoutRedirectURIs = []string{"x"} },
		"a script":                func(n *registration) { n.LogoutRedirectURIs = []string{"javascript:alert(1)"} },
		"twice":                   func(n *registration) { n.LogoutRedirectURIs = []string{left, left} },
		"too many": func(n *registration) {
			for i := range maxRedirects + 1 {
				n.LogoutRedirectURIs = append(n.LogoutRedirectURIs, left+strings.Repeat("x", i))
			}
		},
	} {
		n := web()
		change(&n)
		if r := b.api("POST", "/api/v1/admin/clients", n, admin); r.status != http.StatusBadRequest || !strings.Contains(r.text, "ogout") {
			t.Errorf("%s: want 400 that names the field, got %d %s", name, r.status, r.text)
		}
	}
}
