package identity

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/upstreamtest"
)

// logged is what was logged, for who looks for a secret in it.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// at answers one path of a provider instead of it.
func at(path string, answer http.HandlerFunc) func(*upstreamtest.Behaviour) {
	return func(b *upstreamtest.Behaviour) {
		b.Answer = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != path {
				return false
			}
			answer(w, r)
			return true
		}
	}
}

func claimed(name string, value any) func(*upstreamtest.Behaviour) {
	return func(b *upstreamtest.Behaviour) { b.Claims = map[string]any{name: value} }
}

func described(name string, value any) func(*upstreamtest.Behaviour) {
	return func(b *upstreamtest.Behaviour) { b.Metadata = map[string]any{name: value} }
}

// endless never ends, but for who listened to enough.
func endless(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"issuer":"`))
	for range 64 {
		if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
			return
		}
	}
}

// Whatever a provider does, the person sees a page that says so, nobody is signed in, nothing is kept, and
// the log has the reason and no secret.
func TestProvidersThatMisbehaveSignNobodyIn(t *testing.T) {
	t.Parallel()
	const untrusted = "answered in a way that cannot be trusted"
	elsewhere := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
	}
	cases := map[string]struct {
		does func(*upstreamtest.Behaviour)
		says string
		log  string
	}{
		"metadata that redirect":      {at("/.well-known/openid-configuration", elsewhere), untrusted, "302"},
		"metadata without end":        {at("/.well-known/openid-configuration", endless), "Acme", "too long"},
		"metadata that are no JSON":   {at("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }), untrusted, "metadata"},
		"metadata of another issuer":  {described("issuer", "https://other.example"), untrusted, "issuer"},
		"an address in plain":         {described("token_endpoint", "http://acme.example/token"), untrusted, "token_endpoint that is not https"},
		"an address of a script":      {described("authorization_endpoint", "javascript:alert(1)"), untrusted, "authorization_endpoint"},
		"no keys":                     {described("jwks_uri", nil), untrusted, "jwks_uri"},
		"an error":                    {at("/token", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }), untrusted, "500"},
		"a token endpoint that moved": {at("/token", elsewhere), untrusted, "302"},
		"tokens without end":          {at("/token", endless), "Acme", "code was not redeemed"},
		"no ID token": {at("/token", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token":"x","token_type":"Bearer"}`)
		}), untrusted, "no ID token"},
		"keys that cannot be had":    {at("/keys", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }), untrusted, "404"},
		"a forged signature":         {func(b *upstreamtest.Behaviour) { b.Forged = true }, untrusted, "signature"},
		"another issuer":             {claimed("iss", "https://other.example"), untrusted, "different provider"},
		"another audience":           {claimed("aud", "somebody"), untrusted, "audience"},
		"several audiences":          {claimed("aud", []string{upstreamtest.ClientID, "somebody"}), untrusted, "azp"},
		"another party":              {claimed("azp", "somebody"), untrusted, "azp"},
		"a party that is no text":    {claimed("azp", 7), untrusted, "azp"},
		"the nonce of another login": {claimed("nonce", "another"), untrusted, "nonce"},
		"no nonce":                   {claimed("nonce", nil), untrusted, "nonce"},
		"an old token":               {claimed("exp", time.Now().Add(-time.Hour).Unix()), untrusted, "expired"},
		"nobody":                     {claimed("sub", ""), untrusted, "sub"},
		"a long subject":             {claimed("sub", strings.Repeat("x", 256)), untrusted, "sub"},
		"a subject with controls":    {claimed("sub", "a\x00b"), untrusted, "sub"},
		"a subject that is no text":  {claimed("sub", []int{1}), untrusted, "ID token"},
		"a name that is no text":     {claimed("preferred_username", map[string]any{"a": 1}), untrusted, "preferred_username is no text"},
		"a name without end":         {claimed("preferred_username", strings.Repeat("x", 201)), untrusted, "preferred_username is longer"},
		"groups that are no list":    {claimed("groups", map[string]any{"a": 1}), untrusted, "groups is no list"},
		"groups that are no texts":   {claimed("groups", []any{"a", 1}), untrusted, "groups is no list"},
		"ten thousand groups":        {claimed("groups", make([]string, 10_000)), untrusted, "at most 1000"},
		"groups kept elsewhere": {func(b *upstreamtest.Behaviour) {
			b.Claims = map[string]any{"_claim_names": map[string]string{"groups": "a"},
				"_claim_sources": map[string]any{"a": map[string]string{"endpoint": "https://graph.example/groups"}}}
		}, untrusted, "too many"},
		"userinfo of somebody else": {func(b *upstreamtest.Behaviour) {
			b.UserInfo, b.Claims = map[string]any{"sub": "9"}, map[string]any{"email": nil}
		}, untrusted, "somebody else"},
		"an access token of another ID": {claimed("at_hash", "AAAA"), untrusted, "at_hash"},
	}
	log, providers := &logged{}, map[string]*upstreamtest.Provider{}
	company := startCompany(t, func(cfg *Config) {
		cfg.Log = slog.New(slog.NewTextHandler(log, nil))
		for name, c := range cases {
			providers[name] = upstreamtest.New(t)
			providers[name].Change(c.does)
			addUpstream(cfg, name, providers[name])
		}
	})
	users := company.count(`SELECT count(*) FROM users`)
	for name, c := range cases {
		b := company.browser()
		b.by = name
		left := b.leave()
		if to := left.header.Get("Location"); strings.HasPrefix(to, providers[name].URL) {
			left = b.open(b.open(to, nil).header.Get("Location"), nil)
		}
		page := b.shown(left)
		if page.status != http.StatusForbidden || !strings.Contains(page.text, c.says) || !strings.Contains(page.text, "Sign in by "+name) {
			t.Errorf("%s: want the page again that says %q, got %d %s", name, c.says, page.status, page.text)
		}
		line := ""
		for text := range strings.Lines(log.String()) {
			if strings.Contains(text, name+": ") {
				line = text
			}
		}
		if !strings.Contains(line, c.log) || len(line) > 1000 {
			t.Errorf("%s: want a log that says %q, got %s", name, c.log, line)
		}
	}
	if n := company.count(`SELECT count(*) FROM users`) - users; n != 0 {
		t.Errorf("%d accounts were made", n)
	}
	if n := company.count(`SELECT (SELECT count(*) FROM upstream_logins) + (SELECT count(*) FROM oauth_codes)`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if strings.Contains(log.String(), upstreamtest.Secret) {
		t.Error("the log has our secret")
	}
	if who := company.browser().signIn(); who["preferred_username"] != "ann" {
		t.Errorf("who misbehaves costs others their login: %v", who)
	}
}

// What was wrong with a provider is over once it is mended.
func TestAProviderMends(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	c.acme.Change(described("issuer", "https://other.example"))
	b := c.browser()
	if page := b.shown(b.leave()); page.status != http.StatusForbidden {
		t.Fatalf("%d %s", page.status, page.text)
	}
	c.acme.Change(func(b *upstreamtest.Behaviour) { *b = upstreamtest.Behaviour{} })
	testenv.Eventually(t, "sent to Acme", func() bool { return strings.HasPrefix(b.leave().header.Get("Location"), c.acme.URL) })
	b.signIn()
}

// One that is down is told apart, and what is slow is not waited for.
func TestAProviderThatIsDown(t *testing.T) {
	t.Parallel()
	c := startCompany(t, func(cfg *Config) { cfg.Auth.Upstreams[0].Issuer = "http://127.0.0.1:1" })
	b := c.browser()
	if page := b.shown(b.leave()); page.status != http.StatusForbidden || !strings.Contains(page.text, "Acme does not answer at the moment") {
		t.Errorf("%d %s", page.status, page.text)
	}
	slow := startCompany(t, nil)
	released := make(chan struct{})
	defer close(released)
	slow.acme.Change(at("/token", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-released:
		}
	}))
	b = slow.browser()
	if page := b.shown(b.open(b.back(), nil)); page.status != http.StatusForbidden || !strings.Contains(page.text, "Acme does not answer at the moment") {
		t.Errorf("%d %s", page.status, page.text)
	}
}

// Keys may change while somebody is away to sign in.
func TestKeysThatRotateDuringALogin(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	c.browser().signIn()
	b := c.browser()
	left := b.leave()
	c.acme.Rotate()
	tokens := b.redeem(b.open(b.open(left.header.Get("Location"), nil).header.Get("Location"), nil))
	if tokens.body["access_token"] == nil || c.acme.Asked("/keys") != 2 {
		t.Errorf("want the new keys once, asked for %d times: %s", c.acme.Asked("/keys"), tokens.text)
	}
}

// An answer is good once, in the browser that began, and for its own login.
func TestAnswersOfOthers(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	ann, eve := c.browser(), c.browser()
	refused := func(name string, r reply, status int, says string) {
		t.Helper()
		if r = ann.shown(r); r.status != status || !strings.Contains(r.text, says) {
			t.Errorf("%s: want %d and %q, got %d %s", name, status, says, r.status, r.text)
		}
	}
	const over = "This sign-in is over"
	stolen := eve.back()
	refused("eve's answer in ann's browser", ann.open(stolen, nil), 400, over)
	eve.redeem(eve.open(stolen, nil)) // which cost eve nothing
	refused("the same once more", eve.open(stolen, nil), 400, over)
	for name, query := range map[string]string{"no state": "code=x", "no such state": "code=x&state=" + strings.Repeat("a", 43),
		"a state of another form": "code=x&state=..", "two states": "code=x&state=a&state=b", "nothing": "", "controls": "state=%00"} {
		if r := ann.open("/oauth2/callback?"+query, nil); r.status != http.StatusBadRequest || !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: got %d %s", name, r.status, r.text)
		}
	}
	with := func(change func(url.Values)) string {
		to, err := url.Parse(ann.back())
		if err != nil {
			t.Fatal(err)
		}
		q := to.Query()
		change(q)
		to.RawQuery = q.Encode()
		return to.String()
	}
	refused("another issuer", ann.open(with(func(q url.Values) { q.Set("iss", "https://other.example") }), nil), 403, "another provider")
	refused("no code", ann.open(with(func(q url.Values) { q.Del("code") }), nil), 403, "did not sign you in")
	refused("a code of nothing", ann.open(with(func(q url.Values) { q.Set("code", "x") }), nil), 403, "cannot be trusted")
	refused("refused there", ann.open(with(func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") }), nil), 403, "(access_denied)")
	refused("an error that is markup", ann.open(with(func(q url.Values) { q.Set("error", "<b>x") }), nil), 403, "did not sign you in.")
	page := ann.open("/oauth2/callback", url.Values{"state": {"x"}})
	if page.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d %s", page.status, page.text)
	}
	if n := c.count(`SELECT count(*) FROM upstream_logins`); n != 0 {
		t.Errorf("%d logins are left", n)
	}
}

// A form of another site sends nobody away, nor does one that is not ours; and the cookie is bound to
// the host where that can be.
func TestLeavingForAProvider(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	if r := c.browser().open("/oauth2/authorize", url.Values{"form": {"x"}, "upstream": {"Acme"}}); r.status != 400 {
		t.Errorf("a foreign form: %d %s", r.status, r.text)
	}
	left := c.browser().leave()
	to, err := url.Parse(left.header.Get("Location"))
	if q := to.Query(); err != nil || q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" || q.Get("redirect_uri") != c.site+"/oauth2/callback" ||
		q.Get("state") == "" {
		t.Errorf("got %s", to)
	}
	cookie := left.header.Get("Set-Cookie")
	if !strings.HasPrefix(cookie, "leaky-sign-in-") || !strings.Contains(cookie, "Path=/oauth2/callback; Max-Age=600; HttpOnly; SameSite=Lax") {
		t.Errorf("the cookie: %s", cookie)
	}
	safe := startCompany(t, func(cfg *Config) { cfg.Auth.PublicURL = "https://gateway.example" })
	b := safe.browser()
	page := b.form("/oauth2/authorize", url.Values{"client_id": {safe.client}, "response_type": {"code"},
		"redirect_uri": {"https://app.example/callback"}, "code_challenge": {strings.Repeat("a", 43)}, "code_challenge_method": {"S256"}})
	form := hiddenForm.FindStringSubmatch(page.text)
	if form == nil {
		t.Fatalf("%d %s", page.status, page.text)
	}
	cookie = b.open("/oauth2/authorize", url.Values{"form": {form[1]}, "upstream": {"Acme"}}).header.Get("Set-Cookie")
	if !strings.HasPrefix(cookie, "__Host-leaky-sign-in-") || !strings.Contains(cookie, "Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Lax") {
		t.Errorf("the cookie by https: %s", cookie)
	}
	if r := b.open("/oauth2/authorize", url.Values{"form": {form[1]}, "upstream": {"Nobody"}}); r.status != 400 || !strings.Contains(r.text, "Nobody can sign in that way") {
		t.Errorf("no such provider: %d %s", r.status, r.text)
	}
}

// A device is connected by a person of the company as by a password.
func TestADeviceIsConnectedByAnUpstreamLogin(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	device := c.form("/oauth2/device_authorization", url.Values{"client_id": {c.client}, "scope": {"openid profile"}})
	b := c.browser()
	page := b.shown(b.open("/oauth2/device", url.Values{"user_code": {device.body["user_code"].(string)}}))
	form := hiddenForm.FindStringSubmatch(page.text)
	if form == nil || strings.Contains(page.header.Get("Content-Security-Policy"), "form-action") {
		t.Fatalf("%d %s %s", page.status, page.header, page.text)
	}
	left := b.open("/oauth2/device", url.Values{"form": {form[1]}, "upstream": {"Acme"}})
	page = b.shown(b.open(b.open(left.header.Get("Location"), nil).header.Get("Location"), nil))
	if page.status != 200 || !strings.Contains(page.text, "connected") {
		t.Fatalf("%d %s", page.status, page.text)
	}
	tokens := c.form("/oauth2/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {c.client},
		"device_code": {device.body["device_code"].(string)}})
	if tokens.status != 200 {
		t.Fatalf("%d %s", tokens.status, tokens.text)
	}
	if who := b.whoIs(tokens.body["access_token"].(string)); who["preferred_username"] != "ann" {
		t.Errorf("got %v", who)
	}
}

// Many who sign in for the first time at once, some of them the same person, get one account each.
func TestFirstLoginsAtOnce(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	found := map[any]int{}
	for range 8 {
		wg.Go(func() {
			id := c.browser().signIn()["sub"]
			mu.Lock()
			defer mu.Unlock()
			found[id]++
		})
	}
	wg.Wait()
	if len(found) != 1 {
		t.Errorf("want one account, got %v", found)
	}
}

// A disabled account stays out.
func TestADisabledAccountStaysOut(t *testing.T) {
	t.Parallel()
	c := startCompany(t, nil)
	who := c.browser().signIn()
	if r := c.call("POST", "/api/v1/admin/users/"+who["sub"].(string)+"/disable", nil, admin()); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.text)
	}
	b := c.browser()
	if page := b.shown(b.open(b.back(), nil)); page.status != 403 || !strings.Contains(page.text, "account is disabled") {
		t.Errorf("%d %s", page.status, page.text)
	}
}
