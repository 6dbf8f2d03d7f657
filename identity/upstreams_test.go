package identity

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/upstreamtest"
)

// company is identity with an upstream provider.
type company struct {
	*bench
	acme   *upstreamtest.Provider
	site   string // where browsers find it
	client string // an application that people sign in to
}

// startCompany runs identity with a provider called Acme; change may set it up otherwise.
func startCompany(t *testing.T, change func(*Config)) *company {
	t.Helper()
	acme := upstreamtest.New(t)
	cfg, signer := settings(t, testenv.Postgres(t))
	at := listen(t)
	cfg.Auth.PublicURL = "http://" + at.Addr().String()
	addUpstream(&cfg, "Acme", acme)
	if change != nil {
		change(&cfg)
	}
	c := &company{bench: launchAt(t, cfg, signer, at), acme: acme, site: cfg.Auth.PublicURL}
	c.waitReady()
	root := admin()
	if _, err := c.store.pool.Exec(t.Context(), `INSERT INTO users (id, username, email, password_hash) VALUES ($1, 'boss', 'boss@example.org', '')`,
		root.UserID); err != nil {
		t.Fatal(err)
	}
	made := c.call("POST", "/api/v1/admin/clients", `{"name":"app","public":true,"redirectUris":["https://app.example/callback"],
		"grantTypes":["authorization_code","refresh_token","urn:ietf:params:oauth:grant-type:device_code"],"scopes":["openid","profile","email","offline_access"]}`, root)
	c.client, _ = made.body["clientId"].(string)
	if c.client == "" {
		t.Fatalf("no client: %d %s", made.status, made.text)
	}
	return c
}

func addUpstream(cfg *Config, name string, p *upstreamtest.Provider) {
	cfg.Auth.Upstreams = append(cfg.Auth.Upstreams, config.AuthUpstream{Name: name, Issuer: p.URL, ClientID: upstreamtest.ClientID,
		Scopes: []string{"openid"}, Claims: config.UpstreamClaims{Username: "preferred_username", Email: "email", Groups: "groups"},
		Groups: []config.UpstreamGroup{{Group: "gold", Role: "GOLD"}}})
	cfg.Upstreams = append(cfg.Upstreams, upstreamtest.Secret)
}

// browser is one person's, who signs in by a provider.
type browser struct {
	*company
	http *http.Client
	by   string
}

// browser opens one, which follows no redirect by itself.
func (c *company) browser() *browser {
	c.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return &browser{company: c, by: "Acme", http: &http.Client{Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// open gets an address, or sends a form there.
func (b *browser) open(to string, form url.Values) reply {
	b.t.Helper()
	if strings.HasPrefix(to, "/") {
		to = b.url + to
	}
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if form != nil {
		method, body = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, to, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", b.site)
	}
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if strings.HasPrefix(to, b.url) && resp.StatusCode >= 500 {
		b.t.Errorf("%s: %d %s", to, resp.StatusCode, text)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, text: string(text)}
	_ = json.Unmarshal(text, &r.body)
	return r
}

const verifier = "0123456789012345678901234567890123456789012"

// leave chooses Acme on the page of the application, and gives where the browser is sent.
func (b *browser) leave() reply {
	b.t.Helper()
	page := b.open("/oauth2/authorize?"+url.Values{"client_id": {b.client}, "response_type": {"code"}, "state": {"mine"},
		"redirect_uri": {"https://app.example/callback"}, "code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)},
		"code_challenge_method": {"S256"}, "scope": {"openid profile email offline_access"}}.Encode(), nil)
	form := hiddenForm.FindStringSubmatch(page.text)
	if form == nil || !strings.Contains(page.text, "Sign in by "+b.by) {
		b.t.Fatalf("no such button: %d %s", page.status, page.text)
	}
	return b.open("/oauth2/authorize", url.Values{"form": {form[1]}, "username": {""}, "password": {""}, "upstream": {b.by}})
}

// back signs in at Acme, and gives the address of ours that it sends the browser back to.
func (b *browser) back() string {
	b.t.Helper()
	left := b.leave()
	if left.status != http.StatusSeeOther || !strings.HasPrefix(left.header.Get("Location"), b.acme.URL+"/authorize?") {
		b.t.Fatalf("want to go to Acme, got %d %s %s", left.status, left.header.Get("Location"), left.text)
	}
	return b.open(left.header.Get("Location"), nil).header.Get("Location")
}

// shown follows redirects to pages of ours.
func (b *browser) shown(r reply) reply {
	b.t.Helper()
	for r.status == http.StatusSeeOther && strings.HasPrefix(r.header.Get("Location"), "/") {
		r = b.open(r.header.Get("Location"), nil)
	}
	return r
}

// redeem gives the tokens of the code that the application got.
func (b *browser) redeem(landed reply) reply {
	b.t.Helper()
	to, err := url.Parse(landed.header.Get("Location"))
	if err != nil || landed.status != http.StatusSeeOther || to.Host != "app.example" || to.Query().Get("state") != "mine" ||
		to.Query().Get("code") == "" {
		b.t.Fatalf("want the application's code, got %d %s %s", landed.status, to, b.shown(landed).text)
	}
	tokens := b.form("/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {b.client}, "code": {to.Query().Get("code")},
		"redirect_uri": {"https://app.example/callback"}, "code_verifier": {verifier}})
	if tokens.status != http.StatusOK {
		b.t.Fatalf("redeem: %d %s", tokens.status, tokens.text)
	}
	return tokens
}

// signIn signs in by Acme and gives who that is here, as userinfo says.
func (b *browser) signIn() map[string]any {
	b.t.Helper()
	tokens := b.redeem(b.open(b.back(), nil))
	return b.whoIs(tokens.body["access_token"].(string))
}

func (b *browser) whoIs(access string) map[string]any {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.url+"/oauth2/userinfo", http.NoBody)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+access)
	return b.send(req).body
}

// claims sets what Acme says of who signs in next.
func (c *company) claims(said map[string]any) {
	c.acme.Change(func(b *upstreamtest.Behaviour) { b.Claims = said })
}

// count counts what a query finds.
func (c *company) count(query string, args ...any) (n int) {
	c.t.Helper()
	if err := c.store.pool.QueryRow(c.t.Context(), query, args...).Scan(&n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

func TestTheFirstLoginMakesTheAccountAndTheNextFindsIt(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	first := c.browser().signIn()
	c.claims(map[string]any{"preferred_username": "renamed", "email": "other@acme.example"})
	again := c.browser().signIn()
	if first["sub"] == nil || first["sub"] != again["sub"] || first["preferred_username"] != "ann" || again["preferred_username"] != "ann" ||
		first["email"] != "ann@acme.example" {
		t.Fatalf("want one account, got %v and %v", first, again)
	}
	c.claims(map[string]any{"sub": "2"})
	if other := c.browser().signIn(); other["sub"] == first["sub"] {
		t.Fatalf("another subject is another person, got %v", other)
	}
	if n := c.count(`SELECT count(*) FROM audit_log WHERE actor = $1 AND action IN ('user.register', 'session.signin') AND detail->>'upstream' = 'Acme'`,
		first["sub"]); n != 3 {
		t.Errorf("want one registration and two logins in the trail, got %d", n)
	}
	if r := c.call("POST", "/api/v1/auth/login", `{"username":"ann","password":""}`, nil); r.status != http.StatusUnauthorized {
		t.Errorf("the account has a password: %d %s", r.status, r.text)
	}
	if n := c.count(`SELECT count(*) FROM upstream_logins`); n != 0 {
		t.Errorf("%d logins are left", n)
	}
}

// Whoever may choose their name or e-mail at the provider gets no account of somebody here.
func TestNobodyIsTakenForAnother(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	ann := c.join("ann") // ann@example.org
	for i, claims := range []map[string]any{
		{"preferred_username": "ann"}, {"preferred_username": "Ann"}, {"email": "ann@example.org", "email_verified": true},
		{"preferred_username": ann.UserID}, {"preferred_username": "admin"}, {"preferred_username": "client.x"},
		{"preferred_username": nil, "email": nil}, {"preferred_username": "Zoë Müller"}, {"preferred_username": strings.Repeat("x", 200)},
		{"preferred_username": "ann", "email": "x@acme.example", "email_verified": false}, {"email": "no address"},
		{"preferred_username": strings.Repeat("x", 60)},
	} {
		claims["sub"] = "person " + string(rune('a'+i))
		c.claims(claims)
		who := c.browser().signIn()
		name, _ := who["preferred_username"].(string)
		if who["sub"] == ann.UserID || len(checkNewName(name)) > 0 {
			t.Errorf("%v: got %v", claims, who)
		}
		if mail, _ := who["email"].(string); len(checkEmail(mail)) > 0 || mail == "ann@example.org" || claims["email_verified"] == false && mail == claims["email"] {
			t.Errorf("%v: got the address %v", claims, mail)
		}
	}
}

// Another instance of this product is a provider, too: people sign in on its page, by the password that
// they have there.
func TestAnotherInstanceIsTheProvider(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	at := listen(t)
	cfg.Auth.PublicURL = "http://" + at.Addr().String()
	home := launchAt(t, cfg, signer, at)
	home.waitReady()
	home.join("ann")
	root := admin()
	if _, err := home.store.pool.Exec(t.Context(), `INSERT INTO users (id, username, email, password_hash) VALUES ($1, 'boss', 'boss@example.org', '')`,
		root.UserID); err != nil {
		t.Fatal(err)
	}
	var made reply
	c := startCompany(t, func(cfg *Config) {
		made = home.call("POST", "/api/v1/admin/clients", map[string]any{"name": "Branch", "redirectUris": []string{cfg.Auth.PublicURL + "/oauth2/callback"},
			"grantTypes": []string{"authorization_code", "refresh_token"}, "scopes": []string{"openid", "profile", "email", "offline_access"}}, root)
		id, _ := made.body["clientId"].(string)
		secret, _ := made.body["clientSecret"].(string)
		cfg.Auth.Upstreams = append(cfg.Auth.Upstreams, config.AuthUpstream{Name: "Home", Issuer: home.url, ClientID: id,
			Scopes: []string{"openid", "profile", "email"}, Claims: config.UpstreamClaims{Username: "preferred_username", Email: "email"}})
		cfg.Upstreams = append(cfg.Upstreams, secret)
	})
	if made.status != http.StatusCreated {
		t.Fatalf("%d %s", made.status, made.text)
	}
	b := c.browser()
	b.by = "Home"
	there := b.browser()
	there.company = &company{bench: home, site: home.url}
	page := there.open(b.leave().header.Get("Location"), nil)
	form := hiddenForm.FindStringSubmatch(page.text)
	if form == nil {
		t.Fatalf("no page at home: %d %s", page.status, page.text)
	}
	back := there.open("/oauth2/authorize", url.Values{"form": {form[1]}, "username": {"ann"}, "password": {"correct horse"}, "decision": {"allow"}})
	tokens := b.redeem(b.open(back.header.Get("Location"), nil))
	// userinfo had to say it, as the ID token does not; and it says that nobody verified the e-mail.
	if who := b.whoIs(tokens.body["access_token"].(string)); who["preferred_username"] != "ann" || who["email"] == "ann@example.org" {
		t.Errorf("got %v", who)
	}
	page = there.open(b.leave().header.Get("Location"), nil)
	refused := there.open("/oauth2/authorize", url.Values{"form": {hiddenForm.FindStringSubmatch(page.text)[1]}, "decision": {"deny"}})
	if page = b.shown(b.open(refused.header.Get("Location"), nil)); page.status != http.StatusForbidden ||
		!strings.Contains(page.text, "Home did not sign you in (access_denied)") {
		t.Errorf("refused at home: %d %s", page.status, page.text)
	}
}
