package oauth

import (
	"crypto/rand"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRedirectMatching(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		registered, given string
		want              bool
	}{
		{"https://a.example/cb", "https://a.example/cb", true},
		{"https://a.example/cb?x=1", "https://a.example/cb?x=1", true},
		{"https://a.example/cb", "https://a.example/cb?", false},
		{"https://a.example/cb", "https://a.example/cb/", false},
		{"https://a.example", "https://a.example/", false},
		{"https://a.example/%63b", "https://a.example/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:1/cb", true},
		{"http://127.0.0.1:80/cb", "http://127.0.0.1:65535/cb", true},
		{"http://127.0.0.1/cb", "http://127.0.0.1:99999999/cb", true}, // goes nowhere, and not elsewhere
		{"http://[::1]/cb", "http://[::1]:8080/cb", true},
		{"http://[::1]/cb", "http://127.0.0.1:8080/cb", false},
		{"http://127.0.0.1/cb", "http://127.0.0.1:/cb", true},
		{"http://127.0.0.1/cb", "http://127.0.0.1:8080/cb?x", false},
		{"http://127.0.0.1/cb", "https://127.0.0.1:8080/cb", false},
		{"https://127.0.0.1/cb", "https://127.0.0.1:8080/cb", false},
		{"http://localhost/cb", "http://localhost:8080/cb", true},
		{"http://localhost/cb", "http://127.0.0.1:8080/cb", false},
		{"http://localhost/cb", "http://localhost.evil.example:8080/cb", false},
		{"cursor://app/cb", "cursor://app/cb", true},
		{"http://localhost:1/cb", "http://localhost:1/cb", true},
		{"com.example.app:/cb", "com.example.app:/cb", true},
		{"com.example.app:/cb", "com.example.app:/other", false},
	} {
		if got := matchRedirect([]string{c.registered}, c.given); got != c.want {
			t.Errorf("%s against %s: want %t, got %t", c.given, c.registered, c.want, got)
		}
	}
}

func TestWhichRedirectsMayBeRegistered(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]bool{
		"https://a.example/cb": true, "https://a.example": true, "https://a.example:8443/cb?x=y": true, "http://127.0.0.1/cb": true,
		"http://[::1]:7/cb":        true,
		"http://localhost:3000/cb": true, "com.example.app:/cb": true, "com.example.app://host/cb": true,
		"": false, "https://": false, "https:///cb": false, "http://a.example/cb": false, "http://127.0.0.1.a.example/cb": false,
		"http://[::ffff:127.0.0.1]/cb": false,
		"javascript:alert(1)":          false, "data:text/html,x": false, "vbscript:x": false, "myapp:/cb": false, "file:///etc/passwd": false,
		"//a.example/cb": false, "/cb": false,
		"https://u:p@a.example/cb": false, "https://a.example/cb#x": false, "https://a.example/cb#": false, "HTTPS://a.example/cb": false,
		"https://a.example/../cb": false,
		"https://a.example/c b":   false, "https://a.example/\ncb": false, `https://a.example\@b.example/`: false, "https://ä.example/cb": false,
		"https://*.example/cb":   false,
		"com.example.app:opaque": false, "https://a.example/" + strings.Repeat("x", maxRedirect): false,
	} {
		if why := checkRedirect(uri); (why == "") != want {
			t.Errorf("%q: want %t, got %q", uri, want, why)
		}
	}
}

func TestParamsAreAddedToTheQueryOfARedirect(t *testing.T) {
	t.Parallel()
	for redirect, want := range map[string]string{
		"https://a.example/cb": "https://a.example/cb?code=1", "https://a.example/cb?x=y": "https://a.example/cb?x=y&code=1",
		"https://a.example/cb?": "https://a.example/cb?code=1", "com.example.app:/cb": "com.example.app:/cb?code=1",
	} {
		if got := withParams(redirect, url.Values{"code": {"1"}}); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

func TestUserCodes(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		code := userCode()
		if readUserCode(shownUserCode(code)) != code || readUserCode(" "+strings.ToLower(code)+" ") != code {
			t.Fatalf("%s is not read back", code)
		}
		seen[code] = true
	}
	if len(seen) != 1000 {
		t.Errorf("want 1000 different codes, got %d", len(seen))
	}
	for _, bad := range []string{"", "BCDF", "BCDF-GHJA", "BCDF-GHJK-L", "BCDFGHJ\x00", "ᏴCDFGHJK"} {
		if got := readUserCode(bad); got != "" {
			t.Errorf("%q was read as %s", bad, got)
		}
	}
}

func TestSealedForms(t *testing.T) {
	t.Parallel()
	keys := make([]byte, 64)
	rand.Read(keys)
	f, err := newForms(keys[:32])
	if err != nil {
		t.Fatal(err)
	}
	other, err := newForms(keys[32:])
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	text, err := f.seal(kindAuthorize, request{ClientID: "a", State: "secret"}, now)
	if err != nil {
		t.Fatal(err)
	}
	var got request
	if err := f.open(kindAuthorize, text, now, &got); err != nil || got.State != "secret" {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, err := range map[string]error{
		"other key": other.open(kindAuthorize, text, now, &got), "other page": f.open(kindDevice, text, now, &got),
		"cut": f.open(kindAuthorize, text[:len(text)-2], now, &got), "empty": f.open(kindAuthorize, "", now, &got),
		"no base64": f.open(kindAuthorize, "!", now, &got),
	} {
		if !errors.Is(err, errForeignForm) {
			t.Errorf("%s: want %v, got %v", name, errForeignForm, err)
		}
	}
	got = request{}
	if err := f.open(kindAuthorize, text, now.Add(formLife+2*time.Second), &got); !errors.Is(err, errLateForm) || got.State != "secret" {
		t.Errorf("too late: want %v and the content, got %v, %+v", errLateForm, err, got)
	}
	if _, err := newForms(keys[:5]); err == nil {
		t.Error("a short key was taken")
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	allowed := []string{"openid", "admin", "offline_access"}
	if got, err := requestedScopes("", allowed); err != nil || !slices.Equal(got, []string{"openid", "admin"}) {
		t.Errorf("by default: %v, %v", got, err)
	}
	if _, err := requestedScopes("", []string{"offline_access"}); err == nil {
		t.Error("a grant without a scope would be bound by roles alone")
	}
	if got, err := grantedScopes([]string{"openid", "admin"}, []string{"USER"}); err != nil || !slices.Equal(got, []string{"openid"}) {
		t.Errorf("of a USER: %v, %v", got, err)
	}
	for _, scopes := range [][]string{{"admin"}, {"admin", "offline_access"}, {}} {
		if got, err := grantedScopes(scopes, []string{"USER"}); err == nil {
			t.Errorf("%v of a USER: want a refusal, got %v", scopes, got)
		}
	}
	for _, scope := range knownScopes() {
		if meaning(scope) == scope {
			t.Errorf("nobody knows what %s means", scope)
		}
	}
}

func TestIssuerMustBeAURL(t *testing.T) {
	t.Parallel()
	for _, issuer := range []string{"", "leaky-tokens-auth", "ftp://a", "https://a/", "https://a?b", "https://u@a", "http://"} {
		if _, err := New(Config{Issuer: issuer, FormKey: make([]byte, 32)}); err == nil {
			t.Errorf("%q was taken", issuer)
		}
	}
}

func FuzzParseParams(f *testing.F) {
	for _, seed := range []string{"", "a=b&c=d", "a=b&a=c", "%zz=1", "a=%00", "&&=&", "a=%ff", "client_id=x;redirect_uri=y"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseParams(text)
		values, strict := url.ParseQuery(text)
		for name, value := range got {
			if value == "" || !plain(value) || !plain(name) || len(value) > maxValue {
				t.Fatalf("%q: %q", name, value)
			}
			if all := values[name]; strict == nil && (len(all) != 1 || all[0] != value) {
				t.Fatalf("%q is read as %q, and by net/url as %q", name, value, all)
			}
		}
		for _, all := range values {
			if strict == nil && len(all) > 1 && err == nil {
				t.Fatalf("a repeated parameter passed: %q", text)
			}
		}
	})
}

func FuzzMatchRedirect(f *testing.F) {
	for _, seed := range []string{"https://app.example/callback", "http://127.0.0.1:8080/cb", "http://[::1]:1/cb",
		"http://127.0.0.1:80@evil.example/cb", "com.example.app:/cb", `http://127.0.0.1:80\@evil/cb`} {
		f.Add(seed)
	}
	registered := []string{"https://app.example/callback", "http://127.0.0.1/cb", "http://[::1]/cb", "com.example.app:/cb"}
	f.Fuzz(func(t *testing.T, given string) {
		if !matchRedirect(registered, given) || slices.Contains(registered, given) {
			return
		}
		u, err := url.Parse(given)
		if err != nil || u.Scheme != "http" || u.User != nil || u.Path != "/cb" || u.RawQuery != "" || u.Fragment != "" ||
			u.Hostname() != "127.0.0.1" && u.Hostname() != "::1" {
			t.Fatalf("%q matched", given)
		}
		if to, err := url.Parse(withParams(given, url.Values{"code": {"1"}})); err != nil || to.Host != u.Host || to.Query().Get("code") != "1" {
			t.Fatalf("%q leads to %v, %v", given, to, err)
		}
	})
}
