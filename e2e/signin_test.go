package e2e

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// TestClientsAreCountedApart: a client that has used up its requests leaves those of another at the
// same address alone, and what it is told is an answer of OAuth2.
func TestClientsAreCountedApart(t *testing.T) {
	t.Parallel()
	withinOneDay(t)
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

// TestA401LeadsToATokenThatWorks: from a refused call to its challenge, from there to the metadata of the
// resource, of the server, and to a token for that resource.
func TestA401LeadsToATokenThatWorks(t *testing.T) {
	t.Parallel()
	job := newApp(t, newAccount(t, "ADMIN"), jobApp("tokens.read"))
	refused := request(t, "GET", "/v1/models", "", nil)
	found := regexp.MustCompile(`^Bearer scope="([^"]+)", resource_metadata="([^"]+)"$`).FindStringSubmatch(refused.header.Get("WWW-Authenticate"))
	if refused.status != 401 || found == nil {
		t.Fatalf("want a challenge that leads on, got %d %v", refused.status, refused.header)
	}
	var resource struct {
		Resource string
		Servers  []string `json:"authorization_servers"`
	}
	request(t, "GET", pathOf(t, found[2]), "", nil).into(t, &resource)
	var server struct {
		Token string `json:"token_endpoint"`
	}
	request(t, "GET", pathOf(t, resource.Servers[0]+"/.well-known/oauth-authorization-server"), "", nil).into(t, &server)
	for _, c := range []struct {
		resources []string
		status    int
	}{{[]string{resource.Resource}, 200}, {[]string{resource.Resource + "/v1", resource.Resource}, 200}, {[]string{"https://elsewhere.example"}, 400}} {
		var token struct {
			Access string `json:"access_token"`
		}
		got := post(t, pathOf(t, server.Token), url.Values{"grant_type": {"client_credentials"}, "scope": {found[1]}, "resource": c.resources},
			job.basic()...)
		if got.status != c.status {
			t.Fatalf("%v: want %d, got %d %s", c.resources, c.status, got.status, got.text)
		}
		if got.into(t, &token); got.status == 200 {
			if a := request(t, "GET", "/v1/models", token.Access, nil); a.status != 200 {
				t.Errorf("%v: the token at the resource: %d %s", c.resources, a.status, a.text)
			}
		}
	}
	bad := request(t, "GET", "/v1/models", "not.a.token", nil)
	if challenge := bad.header.Get("WWW-Authenticate"); bad.status != 401 || !strings.HasPrefix(challenge, `Bearer error="invalid_token", scope=`) {
		t.Errorf("a bad token: %d %q", bad.status, challenge)
	}
	login := request(t, "GET", "/api/v1/auth/api-keys", "", nil)
	if challenge := login.header.Get("WWW-Authenticate"); login.status != 401 || challenge != "Bearer" {
		t.Errorf("where no application may, none is led on: %d %q", login.status, challenge)
	}
}

// TestAGrantTakenBackEndsItsTokens everywhere, within a second.
func TestAGrantTakenBackEndsItsTokens(t *testing.T) {
	t.Parallel()
	ann := newPerson(t)
	web := newApp(t, newAccount(t, "ADMIN"), webApp(nil))
	token := authorized(t, web.config(t, "openid", "tokens.read", "offline_access"), ann)
	login := ann.login(t).Token
	var all []struct{ ClientID string }
	request(t, "GET", "/api/v1/auth/grants", login, nil).into(t, &all)
	if len(all) != 1 || all[0].ClientID != web.ClientID {
		t.Fatalf("want the application, got %+v", all)
	}
	if a := request(t, "GET", "/api/v1/auth/grants", token.AccessToken, nil); a.status != 403 {
		t.Errorf("an application sees what was granted: %d %s", a.status, a.text)
	}
	if a := request(t, "DELETE", "/api/v1/auth/grants?clientId="+web.ClientID, login, nil); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.text)
	}
	refusedSoon(t, token.AccessToken, "the access token of a grant taken back")
	refusedBy(t, post(t, "/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.RefreshToken}}, web.basic()...),
		400, "invalid_grant")
}
