package e2e

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/upstreamtest"
)

// acme is the company's own provider, at which people of the shared stack may sign in. TestMain starts it.
var acme *upstreamtest.Provider

// signedInBy has people sign in by a provider whose groups are teams.
func signedInBy(p *upstreamtest.Provider) stacktest.Option {
	return stacktest.Edit("check_timeout: 10s}", fmt.Sprintf("check_timeout: 10s,\n"+
		"  upstreams: [{name: Acme, issuer: %q, client_id: %s, client_secret_env: ACME_SECRET, organisation: Acme}]}", p.URL, upstreamtest.ClientID))
}

// TestAnUpstreamLoginSpendsUnderItsTeam: from the page of an application to the company's provider and
// back, to a call of a model, which stands on the books of the person's team.
func TestAnUpstreamLoginSpendsUnderItsTeam(t *testing.T) {
	t.Parallel()
	root := newAccount(t, "ADMIN")
	team := "team-" + newName()
	acme.Change(func(b *upstreamtest.Behaviour) {
		b.Claims = map[string]any{"sub": team, "preferred_username": "ann." + team, "groups": []string{team}}
	})
	cfg := newApp(t, root, webApp(map[string]any{"scopes": []string{"openid", "profile", "models.call"}})).config(t, "openid", "profile", "models.call")
	verifier := oauth2.GenerateVerifier()
	page := request(t, "GET", pathOf(t, cfg.AuthCodeURL("x", oauth2.S256ChallengeOption(verifier))), "", nil)
	if !strings.Contains(page.text, "Sign in by Acme and allow") {
		t.Fatalf("no such button: %d %s", page.status, page.text)
	}
	left := fillIn(t, page, "/oauth2/authorize", url.Values{"upstream": {"Acme"}})
	cookie, _, _ := strings.Cut(left.header.Get("Set-Cookie"), ";")
	back := pathOf(t, sentOn(t, left.header.Get("Location")))
	if a := request(t, "GET", back, "", nil); a.status != 400 || !strings.Contains(a.text, "began in another browser") {
		t.Errorf("without the cookie: %d %s", a.status, a.text)
	}
	code := landed(t, request(t, "GET", back, "", nil, "Cookie", cookie)).Get("code")
	token, err := cfg.Exchange(t.Context(), code, oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	called := request(t, "POST", "/v1/chat/completions", token.AccessToken,
		`{"model":"gpt-4o-mini","max_tokens":20,"messages":[{"role":"user","content":"hello"}]}`)
	if called.status != 200 {
		t.Fatalf("%d %s", called.status, called.text)
	}
	var who struct{ Sub string }
	request(t, "GET", "/oauth2/userinfo", token.AccessToken, nil).into(t, &who)
	testenv.Eventually(t, "the call on the team's books", func() bool {
		sums := request(t, "GET", "/api/v1/analytics/report?provider=openai&groupBy=team&userId="+who.Sub, root.JWT, nil)
		return sums.status == 200 && strings.Contains(sums.text, `"`+team+`"`)
	})
	again := request(t, "GET", back, "", nil, "Cookie", cookie)
	if again.status != 400 || !strings.Contains(html.UnescapeString(again.text), "used before") {
		t.Errorf("the same answer once more: %d %s", again.status, again.text)
	}
}

// sentOn opens a page of the provider, and gives where it sends the browser.
func sentOn(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Location")
}
