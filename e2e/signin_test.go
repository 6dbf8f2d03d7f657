package e2e

import (
	"net/url"
	"strings"
	"testing"
)

// TestClientsAreCountedApart: a client that has used up its requests leaves those of another at the
// same address alone, and what it is told is an answer of OAuth2.
func TestClientsAreCountedApart(t *testing.T) {
	t.Parallel()
	root := newAccount(t, "ADMIN")
	busy, calm := newApp(t, root, jobApp("tokens.read")), newApp(t, root, jobApp("tokens.read"))
	introspect := func(a app) answer {
		return request(t, "POST", "/oauth2/introspect", "", url.Values{"token": {"x"}}.Encode(), a.basic()...)
	}
	var over answer
	for range 250 {
		if over = introspect(busy); over.status != 200 {
			break
		}
	}
	refusedBy(t, over, 429, "temporarily_unavailable")
	if over.header.Get("Retry-After") == "" {
		t.Errorf("want a wait, got %v", over.header)
	}
	if a := introspect(calm); a.status != 200 {
		t.Errorf("the other client pays: %d %s", a.status, a.text)
	}
	for path, status := range map[string]int{"/oauth2/nowhere": 404, "/oauth2/token": 405} {
		refusedBy(t, request(t, "GET", path, "", nil), status, "invalid_request")
	}
}

// TestPagesOfOtherOriginsSignIn through the gateway: the browser asks first, without a credential.
func TestPagesOfOtherOriginsSignIn(t *testing.T) {
	t.Parallel()
	newApp(t, newAccount(t, "ADMIN"), webApp(map[string]any{"redirectUris": []string{"https://spa.example/callback"}}))
	for path, want := range map[string]string{"/oauth2/token": "https://spa.example", "/oauth2/userinfo": "https://spa.example",
		"/.well-known/openid-configuration": "*", "/oauth2/jwks": "*", "/v1/chat/completions": "", "/api/v1/me": ""} {
		asked := request(t, "OPTIONS", path, "", nil, "Origin", "https://spa.example", "Access-Control-Request-Method", "POST")
		if asked.status >= 300 || asked.header.Get("Access-Control-Allow-Origin") != want {
			t.Errorf("preflight of %s: want %q, got %d %v", path, want, asked.status, asked.header)
		}
		if !strings.HasPrefix(path, "/oauth2/") {
			continue
		}
		got := request(t, "POST", path, "", "grant_type=x", "Origin", "https://spa.example", "Content-Type", "application/x-www-form-urlencoded")
		if path != "/oauth2/jwks" && got.header.Get("Access-Control-Allow-Origin") != want {
			t.Errorf("%s: want %q, got %d %v", path, want, got.status, got.header)
		}
	}
}
