package e2e

import (
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// visitor is a browser without scripts. A cookie of the console is for https, or for this machine, which
// net/http/cookiejar does not know; so it keeps them itself.
type visitor struct {
	name, password string

	origin  string
	cookies map[string]string
}

// seen is what it sees of a page.
type seen struct {
	status int
	header http.Header
	text   string
	at     string // path and query
}

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	return &visitor{name: registered(t).Username, password: "correct horse 9", origin: running.Gateway, cookies: map[string]string{}}
}

// once sends one request, as a page of the origin would.
func (v *visitor) once(t *testing.T, method, to string, form url.Values, header ...string) seen {
	t.Helper()
	if strings.HasPrefix(to, "/") {
		to = v.origin + to
	}
	req, err := http.NewRequestWithContext(t.Context(), method, to, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Origin", v.origin)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range v.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range res.Cookies() {
		if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("cookie %s is not strict: %v", c.Name, c)
		}
		if v.cookies[c.Name] = c.Value; c.MaxAge < 0 {
			delete(v.cookies, c.Name)
		}
	}
	return seen{res.StatusCode, res.Header, string(text), req.URL.RequestURI()}
}

// follow goes where answers lead.
func (v *visitor) follow(t *testing.T, s seen) seen {
	t.Helper()
	for range 8 {
		if s.status != http.StatusSeeOther {
			return s
		}
		s = v.once(t, http.MethodGet, s.header.Get("Location"), nil)
	}
	t.Fatalf("%s leads nowhere", s.at)
	return s
}

func (v *visitor) get(t *testing.T, path string) seen {
	t.Helper()
	return v.follow(t, v.once(t, http.MethodGet, path, nil))
}

func (v *visitor) post(t *testing.T, path string, form url.Values) seen {
	t.Helper()
	return v.follow(t, v.once(t, http.MethodPost, path, form))
}

// signIn goes through the page where people sign in.
func (v *visitor) signIn(t *testing.T, next string) seen {
	t.Helper()
	asked := v.get(t, "/console/login?"+url.Values{"next": {next}}.Encode())
	sealed := regexp.MustCompile(`name="form" value="([^"]+)"`).FindStringSubmatch(asked.text)
	if asked.status != 200 || sealed == nil || !strings.Contains(asked.text, "Sign in to the console") {
		t.Fatalf("want the page to sign in at, got %d %s", asked.status, asked.text)
	}
	form := url.Values{"form": {html.UnescapeString(sealed[1])}, "username": {v.name}, "password": {v.password}, "decision": {"allow"}}
	return v.follow(t, v.once(t, http.MethodPost, running.Gateway+"/oauth2/authorize", form, "Origin", running.Gateway))
}

// TestConsole: sign in, make a key, call with it, see the call, revoke the key, buy, sign out.
func TestConsole(t *testing.T) {
	t.Parallel()
	v := newVisitor(t)
	if s := v.get(t, "/console/keys"); s.status != 401 || !strings.Contains(s.text, "/console/login?next=%2Fconsole%2Fkeys") {
		t.Fatalf("want a way to sign in, got %d %s", s.status, s.text)
	}
	if s := v.signIn(t, "/console/keys"); s.status != 200 || s.at != "/console/keys" {
		t.Fatalf("want the keys, got %d at %s: %s", s.status, s.at, s.text)
	}
	if s := v.get(t, "/console/"); !strings.Contains(s.text, "Make your first call") || !strings.Contains(s.text, "curl "+running.Gateway) {
		t.Errorf("want the call to copy, got %s", s.text)
	}
	hostile := `<script>alert("key")</script>`
	made := v.post(t, "/console/keys", url.Values{"name": {hostile}, "life": {"30"}})
	key := regexp.MustCompile(`leaky_[0-9a-f-]{36}_[0-9a-f]{48}`).FindString(made.text)
	if key == "" || strings.Contains(made.text, hostile) || !strings.Contains(made.text, "&lt;script&gt;") {
		t.Fatalf("want the key once, and its name as text, got %d %s", made.status, made.text)
	}
	if s := v.get(t, "/console/keys"); strings.Contains(s.text, key) {
		t.Error("the secret is shown a second time")
	}
	_, header, _, err := running.Send(t.Context(), "POST", "/v1/chat/completions", key, map[string]any{"model": "gpt-4o-mini",
		"messages": []map[string]string{{"role": "user", "content": "hello [[tokens=17]]"}}})
	if err != nil {
		t.Fatal(err)
	}
	call := header.Get("X-Request-Id")
	testenv.Eventually(t, "the call in the console", func() bool {
		return strings.Contains(v.get(t, "/console/requests?provider=openai").text, call)
	})
	if s := v.get(t, "/console/requests/"+call); s.status != 200 || !strings.Contains(s.text, "Settled at") || !strings.Contains(s.text, "17 out") {
		t.Errorf("want what became of the call, got %d %s", s.status, s.text)
	}
	if s := v.get(t, "/console/live?first=1"); !strings.Contains(s.text, "Your first call arrived") {
		t.Errorf("the first page does not turn green: %s", s.text)
	}
	if s := v.get(t, "/console/usage.csv"); !strings.Contains(s.text, call) || !strings.HasPrefix(s.header.Get("Content-Type"), "text/csv") {
		t.Errorf("want the call as CSV, got %d %s", s.status, s.text)
	}
	id := regexp.MustCompile(`name="key" value="([0-9a-f-]{36})"`).FindStringSubmatch(v.get(t, "/console/keys").text)
	if id == nil {
		t.Fatal("the key is not listed")
	}
	v.post(t, "/console/keys/revoke", url.Values{"key": {id[1]}})
	testenv.Eventually(t, "the key to end", func() bool {
		status, err := running.Call(t.Context(), "GET", "/v1/models", key, nil, nil)
		return err == nil && status == 401
	})
	buyThere(t, v)
	if s := v.post(t, "/console/logout", nil); s.status != 401 || len(v.cookies) > 0 {
		t.Errorf("want to be signed out, got %d with %v", s.status, v.cookies)
	}
}

// buyThere buys tokens, the same order twice, and looks for the balance.
func buyThere(t *testing.T, v *visitor) {
	t.Helper()
	order := regexp.MustCompile(`name="order" value="([^"]+)"`).FindStringSubmatch(v.get(t, "/console/balance").text)
	if order == nil {
		t.Fatal("there is no form to buy with")
	}
	form := url.Values{"provider": {"openai"}, "tokens": {"5000"}, "order": {order[1]}}
	first, second := v.post(t, "/console/balance/buy", form), v.post(t, "/console/balance/buy", form)
	if first.status != 200 || first.at != second.at {
		t.Fatalf("one order is one purchase, got %d %s and %s: %s", first.status, first.at, second.at, first.text)
	}
	testenv.Eventually(t, "the purchase to complete", func() bool {
		return strings.Contains(v.get(t, first.at).text, "tokens of openai are yours")
	})
	testenv.Eventually(t, "the balance", func() bool {
		return strings.Contains(v.get(t, "/console/balance?provider=openai").text, "5\u202f000</p><p class=\"sub\">tokens left of 5\u202f000")
	})
}

// TestConsoleKeepsOthersOut: no write from another site, no forged session, no page of an ADMIN for others,
// no answer of a sign-in that began elsewhere, and nothing inline anywhere.
func TestConsoleKeepsOthersOut(t *testing.T) {
	t.Parallel()
	v := newVisitor(t)
	v.signIn(t, "//evil.example/")
	for name, header := range map[string][]string{"another site": {"Origin", "https://evil.example"}, "no origin": {"Origin", ""},
		"a hidden one": {"Origin", "null"}, "a frame of it": {"Sec-Fetch-Site", "cross-site"}, "another port": {"Origin", "http://127.0.0.1:1"}} {
		if s := v.once(t, "POST", "/console/keys", url.Values{"name": {"x"}, "life": {"0"}}, header...); s.status != 403 {
			t.Errorf("%s writes: %d", name, s.status)
		}
	}
	for path, want := range map[string]int{"/console/system": 403, "/console/requests/..%2f": 404, "/console/nowhere": 404, "/console/usage?range=1y": 400,
		"/console/usage?of=all": 403, "/console/usage?of=" + uuid.NewString(): 403, "/console/requests/x?of=me": 404,
		"/console/balance?account=x": 400, "/console/orgs/" + uuid.NewString(): 403, "/console/usage?" + strings.Repeat("x", 5000): 414} {
		s := v.get(t, path)
		if s.status != want && (want != 404 || s.status != 400) {
			t.Errorf("%s: want %d, got %d %s", path, want, s.status, s.text)
		}
	}
	for _, path := range []string{"/console/", "/console/keys", "/console/limits", "/console/orgs", "/console/usage", "/console/balance"} {
		s := v.get(t, path)
		policy := s.header.Get("Content-Security-Policy")
		if s.status != 200 || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "default-src 'none'") {
			t.Errorf("%s: %d, policy %q", path, s.status, policy)
		}
		if s.header.Get("Cache-Control") != "no-store" || regexp.MustCompile(`(?i)<script>|\son[a-z]+=|\sstyle=|<style`).MatchString(s.text) {
			t.Errorf("%s may be kept, or has something inline", path)
		}
		if found := regexp.MustCompile(`(?:src|href|action)="(?:https?:)?//[^"]*`).FindString(s.text); found != "" {
			t.Errorf("%s leads elsewhere: %s", path, found)
		}
	}
	for name, cookie := range map[string]string{"forged": "AAAA", "long": strings.Repeat("A", 5000), "of the sign-in": v.cookies["__Host-leaky-console"][:40]} {
		other := &visitor{origin: v.origin, cookies: map[string]string{"__Host-leaky-console": cookie}}
		if s := other.get(t, "/console/"); s.status != 401 {
			t.Errorf("a session that is %s: want 401, got %d", name, s.status)
		}
	}
	stranger := &visitor{origin: v.origin, cookies: map[string]string{}}
	if s := stranger.get(t, "/console/callback?code=x&state=y"); s.status != 400 {
		t.Errorf("an answer that nobody asked for: want 400, got %d", s.status)
	}
}

// TestConsoleClientIsOurs: nobody is registered for its rights, and its answers go to its own pages alone.
func TestConsoleClientIsOurs(t *testing.T) {
	t.Parallel()
	admin := newAccount(t, "ADMIN")
	if status, err := running.Call(t.Context(), "POST", "/api/v1/admin/clients", admin.JWT, map[string]any{"name": "x", "public": true,
		"grantTypes": []string{"authorization_code"}, "redirectUris": []string{"http://127.0.0.1/x"}, "scopes": []string{"account"}}, nil); err != nil || status != 400 {
		t.Errorf("a client with the scope of the console: want 400, got %d, %v", status, err)
	}
	v := newVisitor(t)
	q := url.Values{"response_type": {"code"}, "client_id": {"leaky-console"}, "scope": {"account"}, "code_challenge_method": {"S256"},
		"code_challenge": {strings.Repeat("a", 43)}, "redirect_uri": {"http://127.0.0.1:1/console/callback"}}
	if s := v.get(t, "/oauth2/authorize?"+q.Encode()); s.status != 400 {
		t.Errorf("another port of this machine gets the answer: %d", s.status)
	}
}
