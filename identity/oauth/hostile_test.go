package oauth

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

// asked is a sound authorization request; change makes it unsound.
func asked(m made, change url.Values) url.Values {
	q := url.Values{"client_id": {m.ID}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid tokens.read"},
		"state":          {"s"},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(strings.Repeat("v", 43))}, "code_challenge_method": {"S256"}}
	for name, values := range change {
		if len(values) == 0 {
			q.Del(name)
			continue
		}
		q[name] = values
	}
	return q
}

func TestAuthorizeTellsTheUserAndNotTheRedirect(t *testing.T) {
	t.Parallel()
	b := start(t)
	m := b.app(web())
	for name, change := range map[string]url.Values{
		"no client":            {"client_id": nil},
		"unknown client":       {"client_id": {"app-unknown"}},
		"malformed client":     {"client_id": {"a' OR 1=1 --"}},
		"NUL in client":        {"client_id": {"a\x00b"}},
		"client twice":         {"client_id": {m.ID, m.ID}},
		"no redirect":          {"redirect_uri": nil},
		"redirect twice":       {"redirect_uri": {callback, "https://evil.example/"}},
		"foreign redirect":     {"redirect_uri": {"https://evil.example/callback"}},
		"longer path":          {"redirect_uri": {callback + "/more"}},
		"dots":                 {"redirect_uri": {callback + "/../evil"}},
		"query added":          {"redirect_uri": {callback + "?next=https://evil.example"}},
		"fragment":             {"redirect_uri": {callback + "#x"}},
		"user name":            {"redirect_uri": {"https://app.example@evil.example/callback"}},
		"backslash":            {"redirect_uri": {`https://app.example\@evil.example/callback`}},
		"upper-case host":      {"redirect_uri": {"https://APP.example/callback"}},
		"port added":           {"redirect_uri": {"https://app.example:443/callback"}},
		"http":                 {"redirect_uri": {"http://app.example/callback"}},
		"sub-domain":           {"redirect_uri": {"https://app.example.evil.example/callback"}},
		"scheme-relative":      {"redirect_uri": {"//evil.example"}},
		"script":               {"redirect_uri": {"javascript:alert(1)"}},
		"line break":           {"redirect_uri": {callback + "\r\nSet-Cookie: a=b"}},
		"localhost for loop":   {"redirect_uri": {"http://localhost/cb"}},
		"path on loopback":     {"redirect_uri": {"http://127.0.0.1:8080/other"}},
		"other loopback":       {"redirect_uri": {"http://127.0.0.2:8080/cb"}},
		"loopback name trick":  {"redirect_uri": {"http://127.0.0.1.evil.example:80/cb"}},
		"loopback user trick":  {"redirect_uri": {"http://127.0.0.1:80@evil.example/cb"}},
		"too long":             {"redirect_uri": {callback + strings.Repeat("x", 3000)}},
		"parameters too large": {"login_hint": {strings.Repeat("x", maxForm)}},
	} {
		r := b.get("/oauth2/authorize", asked(m, change))
		if r.status != http.StatusBadRequest || r.header.Get("Location") != "" || !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: want a page with 400, got %d to %q", name, r.status, r.header.Get("Location"))
		}
		if strings.Contains(r.text, "evil") || strings.Contains(r.text, "alert(1)") {
			t.Errorf("%s: the page repeats what was sent", name)
		}
	}
}

func TestAuthorizeTellsTheClient(t *testing.T) {
	t.Parallel()
	b := start(t)
	m := b.app(web())
	device := web()
	device.GrantTypes, device.RedirectURIs, device.Scopes = []string{grantDevice}, nil, []string{"openid"}
	for name, c := range map[string]struct {
		change url.Values
		code   string
	}{
		"no response_type":      {url.Values{"response_type": nil}, "invalid_request"},
		"implicit":              {url.Values{"response_type": {"token"}}, "unsupported_response_type"},
		"hybrid":                {url.Values{"response_type": {"code id_token"}}, "unsupported_response_type"},
		"response_type twice":   {url.Values{"response_type": {"code", "code"}}, "invalid_request"},
		"fragment mode":         {url.Values{"response_mode": {"fragment"}}, "invalid_request"},
		"no PKCE":               {url.Values{"code_challenge": nil, "code_challenge_method": nil}, "invalid_request"},
		"PKCE plain":            {url.Values{"code_challenge_method": {"plain"}}, "invalid_request"},
		"PKCE without method":   {url.Values{"code_challenge_method": nil}, "invalid_request"},
		"short challenge":       {url.Values{"code_challenge": {"abc"}}, "invalid_request"},
		"odd challenge":         {url.Values{"code_challenge": {strings.Repeat("!", 43)}}, "invalid_request"},
		"unknown scope":         {url.Values{"scope": {"everything"}}, "invalid_scope"},
		"unregistered scope":    {url.Values{"scope": {"analytics.read"}}, "invalid_scope"},
		"scope twice":           {url.Values{"scope": {"openid", "admin"}}, "invalid_request"},
		"unknown thing twice":   {url.Values{"extra": {"1", "2"}}, "invalid_request"},
		"no session":            {url.Values{"prompt": {"none"}}, "login_required"},
		"request object":        {url.Values{"request": {"ey.."}}, "request_not_supported"},
		"request_uri":           {url.Values{"request_uri": {"https://evil.example/r"}}, "request_uri_not_supported"},
		"long state":            {url.Values{"state": {strings.Repeat("s", maxState+1)}}, "invalid_request"},
		"line break in state":   {url.Values{"state": {"a\r\nLocation: https://evil.example"}}, "invalid_request"},
		"unicode in state":      {url.Values{"state": {"é"}}, "invalid_request"},
		"long nonce":            {url.Values{"nonce": {strings.Repeat("n", maxNonce+1)}}, "invalid_request"},
		"NUL in nonce":          {url.Values{"nonce": {"a\x00"}}, "invalid_request"},
		"value far too long":    {url.Values{"login_hint": {strings.Repeat("x", maxValue+1)}}, "invalid_request"},
		"bytes that aren't UTF": {url.Values{"login_hint": {"\xff"}}, "invalid_request"},
	} {
		back := b.landed(b.get("/oauth2/authorize", asked(m, c.change)))
		if back.Get("error") != c.code || back.Get("code") != "" {
			t.Errorf("%s: want %s, got %v", name, c.code, back)
		}
		if _, changed := c.change["state"]; !changed && back.Get("state") != "s" {
			t.Errorf("%s: the state is gone: %v", name, back)
		}
	}
}

func TestWhatTheUserAnswers(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m := b.app(web())
	page := b.get("/oauth2/authorize", asked(m, url.Values{"scope": {"admin"}, "login_hint": {`"><script>`}}))
	if strings.Contains(page.text, "<script") || !strings.Contains(page.text, "&lt;script") {
		t.Error("the hint is not escaped")
	}
	policy := page.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("want %q in %q", want, policy)
		}
	}
	// Browsers would hold the application's own redirects to it, and stay on the page.
	if strings.Contains(policy, "form-action") {
		t.Errorf("form-action in %q", policy)
	}
	if got := page.header.Get("Cross-Origin-Opener-Policy"); got != "" {
		t.Errorf("a popup loses its opener: %q", got)
	}
	if page.header.Get("Cache-Control") != "no-store" || page.header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("headers: %v", page.header)
	}
	form := sealedIn(t, page)
	answer := func(change url.Values, more ...func(*http.Request)) reply {
		f := url.Values{"form": {form}, "username": {"ann"}, "password": {password}, "decision": {"allow"}}
		for name, values := range change {
			f[name] = values
		}
		return b.post("/oauth2/authorize", f, more...)
	}
	for name, c := range map[string]struct {
		change url.Values
		status int
	}{
		"wrong password":    {url.Values{"password": {"wrong"}}, 403},
		"unknown user":      {url.Values{"username": {"nobody"}}, 403},
		"no password":       {url.Values{"password": {""}}, 400},
		"NUL":               {url.Values{"username": {"ann\x00"}}, 400},
		"name twice":        {url.Values{"username": {"ann", "bob"}}, 400},
		"throttled":         {url.Values{"username": {"throttled"}}, 429},
		"busy":              {url.Values{"username": {"busy"}}, 503},
		"changed form":      {url.Values{"form": {form[:len(form)-1]}}, 400},
		"invented form":     {url.Values{"form": {"AAAA"}}, 400},
		"very long name":    {url.Values{"username": {strings.Repeat("a", 5000)}}, 403},
		"quotes":            {url.Values{"username": {`' OR 1=1 --`}}, 403},
		"a page too large":  {url.Values{"password": {strings.Repeat("x", maxForm)}}, 413},
		"a password so-so":  {url.Values{"password": {strings.Repeat("x", maxValue+1)}}, 400},
		"markup in a name":  {url.Values{"username": {"<script>"}, "password": {"x"}}, 403},
		"form twice":        {url.Values{"form": {form, form}}, 400},
		"an empty decision": {url.Values{"decision": {""}}, 303},
	} {
		r := answer(c.change)
		if r.status != c.status || strings.Contains(r.text, "<script") || strings.Contains(r.header.Get("Location"), "code=") {
			t.Errorf("%s: want %d, got %d %s", name, c.status, r.status, r.header.Get("Location"))
		}
	}
	if r := answer(nil, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }); r.status != http.StatusBadRequest {
		t.Errorf("from another site: %d", r.status)
	}
	if r := answer(nil, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }); r.status != http.StatusBadRequest {
		t.Errorf("from another origin: %d", r.status)
	}
	if back := b.landed(answer(url.Values{"decision": {"deny"}, "username": {""}})); back.Get("error") != "access_denied" ||
		back.Get("state") != "s" {
		t.Errorf("refused: %v", back)
	}
	if back := b.landed(answer(nil)); back.Get("error") != "invalid_scope" {
		t.Errorf("a USER gives admin away: %v", back)
	}
	old, err := b.forms.seal(kindAuthorize, request{ClientID: m.ID, Redirect: callback}, time.Now().Add(-2*formLife))
	if err != nil {
		t.Fatal(err)
	}
	if r := answer(url.Values{"form": {old}}); r.status != http.StatusOK || !strings.Contains(r.text, "open for a long time") ||
		sealedIn(t, r) == old {
		t.Errorf("a page that was open for long: want it once more, got %d %s", r.status, r.text)
	}
	other, err := b.forms.seal(kindDevice, request{ClientID: m.ID, Redirect: callback}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r := answer(url.Values{"form": {other}}); r.status != http.StatusBadRequest {
		t.Errorf("another page's form: %d", r.status)
	}
}

func TestAuthorizationRequestsMayBePosted(t *testing.T) {
	t.Parallel()
	b := start(t)
	m := b.app(web())
	r := b.post("/oauth2/authorize", asked(m, nil), func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
	if r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.text)
	}
	sealedIn(t, r)
}

// code gets a code for a client, with the verifier vvv....
func (b *bench) code(m made, user string) string {
	b.t.Helper()
	code := b.allow(b.url+"/oauth2/authorize?"+asked(m, url.Values{"scope": {"openid tokens.read offline_access"}}).Encode(), user).Get("code")
	if code == "" {
		b.t.Fatal("no code")
	}
	return code
}

func TestACodeIsGoodOnceForItsClientWithItsProof(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m, thief := b.app(web()), b.app(web())
	redeem := func(as made, code string, change url.Values) reply {
		f := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback},
			"code_verifier": {strings.Repeat("v", 43)},
			"client_id":     {as.ID}, "client_secret": {as.Secret}}
		for name, values := range change {
			f[name] = values
		}
		return b.post("/oauth2/token", f)
	}
	for name, c := range map[string]struct {
		as     made
		change url.Values
		code   string
		burnt  bool
	}{
		"second client":  {thief, nil, "invalid_grant", true},
		"wrong verifier": {m, url.Values{"code_verifier": {strings.Repeat("w", 43)}}, "invalid_grant", true},
		"challenge as proof": {m, url.Values{"code_verifier": {oauth2.S256ChallengeFromVerifier(strings.Repeat("v", 43))}}, "invalid_grant",
			true},
		"foreign redirect": {m, url.Values{"redirect_uri": {"http://127.0.0.1/cb"}}, "invalid_grant", true},
		"no verifier":      {m, url.Values{"code_verifier": {""}}, "invalid_request", false},
		"no redirect":      {m, url.Values{"redirect_uri": {""}}, "invalid_request", false},
		"no code":          {m, url.Values{"code": {""}}, "invalid_request", false},
		"short verifier":   {m, url.Values{"code_verifier": {"v"}}, "invalid_request", false},
		"NUL in the code":  {m, url.Values{"code": {"a\x00"}}, "invalid_request", false},
		"unknown code":     {m, url.Values{"code": {"unknown"}}, "invalid_grant", false},
	} {
		code := b.code(m, "ann")
		wantError(t, redeem(c.as, code, c.change), 400, c.code)
		if r := redeem(m, code, nil); (r.status != http.StatusOK) != c.burnt {
			t.Errorf("%s: burnt is to be %t, then got %d %s", name, c.burnt, r.status, r.text)
		}
	}
	late := b.code(m, "ann")
	if _, err := b.pool.Exec(t.Context(), `UPDATE oauth_codes SET expires_at = now() WHERE code_hash = $1`, hashed(late)); err != nil {
		t.Fatal(err)
	}
	wantError(t, redeem(m, late, nil), 400, "invalid_grant")

	code := b.code(m, "ann")
	first := redeem(m, code, nil)
	wantError(t, redeem(thief, code, nil), 400, "invalid_grant")
	access, _ := first.body["access_token"].(string)
	claims, err := b.read(access)
	if err != nil || !b.told(revocation.Family, claims.Family) {
		t.Errorf("a second use did not end what the first gave: %v", err)
	}
	wantError(t, b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.body["refresh_token"].(string)},
		"client_id": {m.ID}, "client_secret": {m.Secret}}), 400, "invalid_grant")
}

func TestOfManyWhoRedeemOneCodeAtOnceOneGetsTokensAndTheyEnd(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	m := b.app(web())
	code := b.code(m, "ann")
	var mu sync.Mutex
	var wg sync.WaitGroup
	var won []string
	for range 20 {
		wg.Go(func() {
			r := b.post("/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback},
				"code_verifier": {strings.Repeat("v", 43)},
				"client_id":     {m.ID}, "client_secret": {m.Secret}})
			mu.Lock()
			defer mu.Unlock()
			if r.status == http.StatusOK {
				won = append(won, r.body["access_token"].(string))
			}
		})
	}
	wg.Wait()
	if len(won) > 1 {
		t.Fatalf("%d got tokens for one code", len(won))
	}
	for _, access := range won {
		if r := b.introspectAs(m, access); r.body["active"] != false {
			t.Error("a family whose code was used twice lives")
		}
	}
}

func TestTokenEndpointRefusals(t *testing.T) {
	t.Parallel()
	b := start(t)
	m := b.app(registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"}})
	public := web()
	public.Public = true
	app := b.app(public)
	right := url.Values{"grant_type": {"client_credentials"}, "client_id": {m.ID}, "client_secret": {m.Secret}}.Encode()
	basic := func(id, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(id, secret) }
	}
	header := func(values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Authorization"] = values }
	}
	nothing := func(*http.Request) {}
	for name, c := range map[string]struct {
		form   string
		change func(*http.Request)
		status int
		code   string
	}{
		"empty":              {"", nothing, 400, "invalid_request"},
		"no grant type":      {"client_id=" + m.ID, nothing, 400, "invalid_request"},
		"unknown grant type": {strings.Replace(right, "client_credentials", "password", 1), nothing, 400, "unsupported_grant_type"},
		"not registered for it": {strings.Replace(right, "client_credentials", "refresh_token", 1) + "&refresh_token=x", nothing, 400,
			"unauthorized_client"},
		"JSON": {`{"grant_type":"client_credentials"}`, func(r *http.Request) {
			r.Header.Set("Content-Type",
				"application/json")
		}, 400, "invalid_request"},
		"no content type":       {right, func(r *http.Request) { r.Header.Del("Content-Type") }, 400, "invalid_request"},
		"parameters in the URI": {right, func(r *http.Request) { r.URL.RawQuery = "client_secret=x" }, 400, "invalid_request"},
		"grant type twice":      {right + "&grant_type=client_credentials", nothing, 400, "invalid_request"},
		"secret twice":          {right + "&client_secret=x", nothing, 400, "invalid_request"},
		"NUL":                   {right + "&scope=a%00", nothing, 400, "invalid_request"},
		"control character":     {right + "&scope=a%07", nothing, 400, "invalid_request"},
		"broken escape":         {right + "&scope=%zz", nothing, 400, "invalid_request"},
		"not UTF-8":             {right + "&scope=%ff", nothing, 400, "invalid_request"},
		"too many":              {right + strings.Repeat("&a=b", 50), nothing, 400, "invalid_request"},
		"many different":        {right + manyNames(60), nothing, 400, "invalid_request"},
		"too large":             {right + "&a=" + strings.Repeat("x", maxForm), nothing, 413, "invalid_request"},
		"value too long":        {right + "&scope=" + strings.Repeat("x", maxValue+1), nothing, 400, "invalid_request"},
		"unknown scope":         {right + "&scope=everything", nothing, 400, "invalid_scope"},
		"scope not registered":  {right + "&scope=tokens.write", nothing, 400, "invalid_scope"},
		"no client":             {"grant_type=client_credentials", nothing, 401, "invalid_client"},
		"unknown client":        {"grant_type=client_credentials&client_id=app-x&client_secret=y", nothing, 401, "invalid_client"},
		"odd client":            {"grant_type=client_credentials&client_id=%27+OR+1%3D1&client_secret=y", nothing, 401, "invalid_client"},
		"no secret":             {"grant_type=client_credentials&client_id=" + m.ID, nothing, 401, "invalid_client"},
		"wrong secret":          {"grant_type=client_credentials&client_id=" + m.ID + "&client_secret=wrong", nothing, 401, "invalid_client"},
		"wrong secret, basic":   {"grant_type=client_credentials", basic(m.ID, "wrong"), 401, "invalid_client"},
		"two ways":              {right, basic(m.ID, m.Secret), 400, "invalid_request"},
		"two clients":           {"grant_type=client_credentials&client_id=" + app.ID, basic(m.ID, m.Secret), 400, "invalid_request"},
		"two headers":           {"grant_type=client_credentials", header("Basic eDp5", "Basic eDp5"), 400, "invalid_request"},
		"bearer":                {"grant_type=client_credentials", header("Bearer x"), 401, "invalid_client"},
		"broken base64":         {"grant_type=client_credentials", header("Basic !!!"), 401, "invalid_client"},
		"no colon":              {"grant_type=client_credentials", header("Basic eHk="), 401, "invalid_client"},
		"public with a secret": {"grant_type=refresh_token&refresh_token=x&client_id=" + app.ID + "&client_secret=x", nothing, 401,
			"invalid_client"},
		"public for itself":     {"grant_type=client_credentials&client_id=" + app.ID, nothing, 400, "unauthorized_client"},
		"unknown refresh token": {"grant_type=refresh_token&refresh_token=x&client_id=" + app.ID, nothing, 400, "invalid_grant"},
		"no refresh token":      {"grant_type=refresh_token&client_id=" + app.ID, nothing, 400, "invalid_request"},
		"unknown device code": {"grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code=x&client_id=" + app.ID, nothing, 400,
			"invalid_grant"},
		"no device code": {"grant_type=urn:ietf:params:oauth:grant-type:device_code&client_id=" + app.ID, nothing, 400,
			"invalid_request"},
		"an empty secret is absent": {"grant_type=client_credentials&client_secret=&client_id=" + m.ID, nothing, 401, "invalid_client"},
	} {
		r := b.post("/oauth2/token", c.form, c.change)
		t.Run(name, func(t *testing.T) { wantError(t, r, c.status, c.code) })
	}
	if r := b.get("/oauth2/token", nil); r.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", r.status)
	}
}

func manyNames(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("&a" + strings.Repeat("x", i+1) + "=1")
	}
	return b.String()
}
