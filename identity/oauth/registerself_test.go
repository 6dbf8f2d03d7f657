package oauth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// registerClient is RFC 7591.
func (b *bench) registerClient(metadata any) reply {
	b.t.Helper()
	text, ok := metadata.(string)
	if !ok {
		raw, err := json.Marshal(metadata)
		if err != nil {
			b.t.Fatal(err)
		}
		text = string(raw)
	}
	req := b.request("POST", "/oauth2/register", strings.NewReader(text))
	req.Header.Set("Content-Type", "application/json")
	return b.send(req)
}

// TestAClientRegistersItself where that is open, signs in, and cannot buy.
func TestAClientRegistersItself(t *testing.T) {
	t.Parallel()
	b := startWith(t, func(c *Config) { c.Registration, c.Schemes = config.ClientsOpen, []string{"cursor"} })
	b.user("ann")
	made := b.registerClient(map[string]any{"client_name": "Agent", "redirect_uris": []string{"http://localhost/callback", "cursor://app/cb"},
		"grant_types": []string{"authorization_code", "refresh_token", "client_credentials"}, "token_endpoint_auth_method": "none",
		"scope": "openid models.call tokens.write admin offline_access", "software_id": "x"})
	if made.status != http.StatusCreated || made.body["scope"] != "openid models.call offline_access" || made.body["client_secret"] != nil ||
		len(made.body["grant_types"].([]any)) != 2 || made.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Fatalf("%d %s", made.status, made.text)
	}
	id := made.body["client_id"].(string)
	cfg := &oauth2.Config{ClientID: id, Endpoint: b.discover().Endpoint(), RedirectURL: "http://localhost:49152/callback",
		Scopes: []string{"openid", "models.call", "offline_access"}}
	page := b.get("/oauth2/authorize", asked(made2(id), url.Values{"redirect_uri": {"cursor://app/cb"}, "scope": {"openid"}}))
	if page.status != http.StatusOK || !strings.Contains(page.text, "registered itself") {
		t.Errorf("the page does not say who vouches for it: %d %s", page.status, page.text)
	}
	if token := b.login(cfg, "ann"); token.RefreshToken == "" || token.Extra("scope") != "openid models.call offline_access" {
		t.Errorf("got %v", token.Extra("scope"))
	}
	if r := b.get("/.well-known/oauth-authorization-server", nil); r.body["registration_endpoint"] != b.url+"/oauth2/register" {
		t.Errorf("metadata: %s", r.text)
	}
	for name, c := range map[string]struct {
		metadata any
		status   int
		code     string
	}{
		"no JSON":              {"{", 400, codeInvalidMetadata},
		"no redirect":          {map[string]any{"client_name": "x"}, 400, codeInvalidRedirect},
		"http elsewhere":       {map[string]any{"redirect_uris": []string{"http://a.example/cb"}}, 400, codeInvalidRedirect},
		"another scheme":       {map[string]any{"redirect_uris": []string{"myapp://cb"}}, 400, codeInvalidRedirect},
		"javascript":           {map[string]any{"redirect_uris": []string{"javascript:alert(1)"}}, 400, codeInvalidRedirect},
		"many redirects":       {map[string]any{"redirect_uris": manyURIs(1000)}, 400, codeInvalidRedirect},
		"10 000 redirects":     {map[string]any{"redirect_uris": manyURIs(10_000)}, 413, codeInvalidMetadata},
		"1 MB":                 {`{"client_name":"` + strings.Repeat("x", 1<<20) + `"}`, 413, codeInvalidMetadata},
		"a key":                {map[string]any{"redirect_uris": []string{callback}, "token_endpoint_auth_method": "private_key_jwt"}, 400, codeInvalidMetadata},
		"implicit":             {map[string]any{"redirect_uris": []string{callback}, "response_types": []string{"token"}}, 400, codeInvalidMetadata},
		"only what it may not": {map[string]any{"redirect_uris": []string{callback}, "scope": "admin"}, 400, codeInvalidMetadata},
		"a name with a NUL":    {map[string]any{"redirect_uris": []string{callback}, "client_name": "a\x00b"}, 400, codeInvalidMetadata},
	} {
		if r := b.registerClient(c.metadata); r.status != c.status || r.body["error"] != c.code {
			t.Errorf("%s: want %d %s, got %d %.300s", name, c.status, c.code, r.status, r.text)
		}
	}
	confidential := b.registerClient(map[string]any{"redirect_uris": []string{callback}})
	if confidential.status != http.StatusCreated || len(confidential.body["client_secret"].(string)) != 43 || confidential.body["client_secret_expires_at"] != 0.0 {
		t.Errorf("by default a client has a secret: %d %s", confidential.status, confidential.text)
	}
}

func made2(id string) made { return made{ID: id} }

// TestClientsThatNobodyUsesGo: a day without a first use, a month after the last; others stay.
func TestClientsThatNobodyUsesGo(t *testing.T) {
	t.Parallel()
	b := startWith(t, func(c *Config) { c.Registration = config.ClientsOpen })
	b.user("ann")
	kept := b.app(web())
	never := b.registerClient(map[string]any{"redirect_uris": []string{callback}, "token_endpoint_auth_method": "none"}).body["client_id"].(string)
	used := b.registerClient(map[string]any{"redirect_uris": []string{callback}, "token_endpoint_auth_method": "none"}).body["client_id"].(string)
	b.login(&oauth2.Config{ClientID: used, Endpoint: b.discover().Endpoint(), RedirectURL: callback, Scopes: []string{"openid"}}, "ann")
	there := func() map[string]bool {
		got := map[string]bool{}
		for _, id := range []string{kept.ID, never, used} {
			_, err := b.client(t.Context(), id)
			got[id] = err == nil
		}
		return got
	}
	for after, want := range map[time.Duration][3]bool{time.Hour: {true, true, true}} {
		if err := b.Purge(t.Context(), time.Now().Add(after)); err != nil {
			t.Fatal(err)
		}
		if got := there(); got[kept.ID] != want[0] || got[never] != want[1] || got[used] != want[2] {
			t.Errorf("after %v: %v", after, got)
		}
	}
	if err := b.Purge(t.Context(), time.Now().Add(firstUse+time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := there(); got[never] || !got[used] {
		t.Errorf("after a day: %v", got)
	}
	if err := b.Purge(t.Context(), time.Now().Add(clientIdle+time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := there(); got[used] || !got[kept.ID] {
		t.Errorf("after a month: %v", got)
	}
}

// TestRegistrationIsClosedByDefault, and a document's URL is nobody.
func TestRegistrationIsClosedByDefault(t *testing.T) {
	t.Parallel()
	b := start(t)
	wantError(t, b.registerClient(map[string]any{"redirect_uris": []string{callback}}), 404, "invalid_request")
	if r := b.get("/oauth2/authorize", asked(made2("https://app.example/client.json"), nil)); r.status != http.StatusBadRequest {
		t.Errorf("%d %s", r.status, r.text)
	}
	if r := b.get("/.well-known/oauth-authorization-server", nil); r.body["registration_endpoint"] != nil {
		t.Errorf("metadata: %s", r.text)
	}
}

// TestAClientIsWhatItsDocumentSays: fetched once in a while, and nothing of a bad one is kept.
func TestAClientIsWhatItsDocumentSays(t *testing.T) {
	t.Parallel()
	var fetches atomic.Int64
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetches.Add(1)
		id := server.URL + r.URL.Path
		doc := map[string]any{"client_id": id, "client_name": "Agent <b>", "redirect_uris": []string{"http://127.0.0.1/cb"}, "scope": "openid models.call tokens.write"}
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/redirects.json":
			http.Redirect(w, r, "/good.json", http.StatusFound)
			return
		case "/another.json":
			doc["client_id"] = server.URL + "/good.json"
		case "/endless.json":
			for range 1000 {
				_, _ = w.Write([]byte(strings.Repeat(" ", 1024)))
			}
			return
		case "/html.json":
			w.Header().Set("Content-Type", "text/html")
		case "/secret.json":
			doc["token_endpoint_auth_method"] = "client_secret_basic"
		case "/nowhere.json":
			doc["redirect_uris"] = []string{"http://a.example/cb"}
		case "/gone.json":
			w.WriteHeader(http.StatusNotFound)
		case "/slow.json":
			<-r.Context().Done()
			return
		}
		_ = json.NewEncoder(w).Encode(doc)
	}))
	t.Cleanup(server.Close)
	fetcher := server.Client()
	fetcher.Timeout = time.Minute // for what answers
	fetcher.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	b := startWith(t, func(c *Config) { c.Registration, c.Documents = config.ClientsDocuments, fetcher })
	b.user("ann")
	good := server.URL + "/good.json"
	cfg := &oauth2.Config{ClientID: good, Endpoint: b.discover().Endpoint(), RedirectURL: "http://127.0.0.1:7777/cb", Scopes: []string{"openid", "models.call"}}
	if token := b.login(cfg, "ann"); token.Extra("scope") != "openid models.call" {
		t.Errorf("got %v", token.Extra("scope"))
	}
	page := b.get("/oauth2/authorize", asked(made2(good), url.Values{"redirect_uri": {"http://127.0.0.1:1/cb"}, "scope": {"openid"}}))
	if !strings.Contains(page.text, "Agent &lt;b&gt;") || !strings.Contains(page.text, good) {
		t.Errorf("the page does not say who it is: %d %s", page.status, page.text)
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("want one fetch, got %d", n)
	}
	fetcher.Timeout = time.Second // for what does not
	for _, path := range []string{"/redirects.json", "/another.json", "/endless.json", "/html.json", "/secret.json", "/nowhere.json", "/gone.json",
		"/slow.json", "/", "/good.json?x", "/a/../good.json", "/good.json#x"} {
		for range 2 {
			if r := b.get("/oauth2/authorize", asked(made2(server.URL+path), nil)); r.status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", path, r.status, r.text)
			}
		}
	}
	if n := fetches.Load(); n > 9 {
		t.Errorf("a bad document is fetched again and again: %d fetches", n)
	}
	var kept []string
	if err := b.pool.QueryRow(t.Context(), `SELECT array_agg(id) FROM oauth_clients WHERE registered = 'document'`).Scan(&kept); err != nil ||
		!slices.Equal(kept, []string{good}) {
		t.Errorf("want the good one alone, got %v, %v", kept, err)
	}
	server.Close() // what was known stays for a day
	if _, err := b.pool.Exec(t.Context(), `UPDATE oauth_clients SET fetched_at = now() - interval '2 hours' WHERE registered = 'document'`); err != nil {
		t.Fatal(err)
	}
	if r := b.get("/oauth2/authorize", asked(made2(good), url.Values{"redirect_uri": {"http://127.0.0.1:1/cb"}, "scope": {"openid"}})); r.status != http.StatusOK {
		t.Errorf("within a day: %d %s", r.status, r.text)
	}
	if _, err := b.pool.Exec(t.Context(), `UPDATE oauth_clients SET fetched_at = now() - interval '25 hours' WHERE registered = 'document'`); err != nil {
		t.Fatal(err)
	}
	if r := b.get("/oauth2/authorize", asked(made2(good), url.Values{"redirect_uri": {"http://127.0.0.1:1/cb"}, "scope": {"openid"}})); r.status != http.StatusBadRequest {
		t.Errorf("after a day: %d %s", r.status, r.text)
	}
}

// TestDocumentsAreFetchedFromPublicAddressesAlone, however they are written.
func TestDocumentsAreFetchedFromPublicAddressesAlone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"93.184.216.34": true, "2606:2800:220:1:248:1893:25c8:1946": true, "8.8.8.8": true,
		"127.0.0.1": false, "10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false, "198.18.0.1": false, "192.0.2.1": false, "240.0.0.1": false,
		"::1": false, "::": false, "fe80::1": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false, "::ffff:127.0.0.1": false,
		"::ffff:169.254.169.254": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "::127.0.0.1": false, "2001:db8::1": false, "2001::1": false,
	} {
		if got := publicAddress(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: want %v, got %v", text, want, got)
		}
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	if resp, err := publicClient().Get(server.URL); err == nil { // it must fail at once
		resp.Body.Close()
		t.Error("a loopback address was reached")
	}
}
