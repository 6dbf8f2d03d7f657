package oauth

import (
	"net/http"
	"net/url"
	"testing"

	"golang.org/x/oauth2"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/prover"
)

// proving adds a proof for the token endpoint.
func (b *bench) proving(p *prover.Prover) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("DPoP", p.Proof("POST", b.url+"/oauth2/token", "")) }
}

// redeemable lets ann allow a public client, and gives the form that redeems the code.
func (b *bench) redeemable(m made, options ...oauth2.AuthCodeOption) url.Values {
	b.t.Helper()
	verifier := oauth2.GenerateVerifier()
	cfg := b.config(m, "openid", "tokens.read", "offline_access")
	back := b.allow(cfg.AuthCodeURL("s", append(options, oauth2.S256ChallengeOption(verifier))...), "ann")
	return url.Values{"grant_type": {"authorization_code"}, "code": {back.Get("code")}, "code_verifier": {verifier}, "redirect_uri": {callback},
		"client_id": {m.ID}}
}

func TestTokensBoundToAKey(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	n := web()
	n.Public, n.DPoP = true, true
	m := b.app(n)
	mine, other := prover.New(t), prover.New(t)

	wantError(t, b.post("/oauth2/token", b.redeemable(m)), 400, "invalid_dpop_proof") // the client is registered so
	got := b.post("/oauth2/token", b.redeemable(m), b.proving(mine))
	if got.status != http.StatusOK || got.body["token_type"] != "DPoP" {
		t.Fatalf("want a bound token, got %d %s", got.status, got.text)
	}
	access, _ := got.body["access_token"].(string)
	refresh, _ := got.body["refresh_token"].(string)
	if claims, err := b.read(access); err != nil || claims.Key() != mine.Thumbprint {
		t.Errorf("cnf: want %s, got %q, %v", mine.Thumbprint, claims.Key(), err)
	}
	userinfo := func(scheme, token, proof string) reply {
		r := b.request("GET", "/oauth2/userinfo", http.NoBody)
		r.Header.Set("Authorization", scheme+" "+token)
		if proof != "" {
			r.Header.Set("DPoP", proof)
		}
		return b.send(r)
	}
	at := b.url + "/oauth2/userinfo"
	if r := userinfo("DPoP", access, mine.Proof("GET", at, access)); r.status != http.StatusOK {
		t.Errorf("userinfo with a proof: %d %s", r.status, r.text)
	}
	once := mine.Proof("GET", at, access)
	for name, r := range map[string]reply{
		"stolen":              userinfo("Bearer", access, ""),
		"stolen with a proof": userinfo("Bearer", access, mine.Proof("GET", at, access)),
		"without a proof":     userinfo("DPoP", access, ""),
		"another's proof":     userinfo("DPoP", access, other.Proof("GET", at, access)),
		"for another request": userinfo("DPoP", access, mine.Proof("POST", at, access)),
		"for another token":   userinfo("DPoP", access, mine.Proof("GET", at, "x")),
		"used":                func() reply { userinfo("DPoP", access, once); return userinfo("DPoP", access, once) }(),
	} {
		if r.status != http.StatusUnauthorized || r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: want 401 with a challenge, got %d %s", name, r.status, r.text)
		}
	}
	renew := func(change ...func(*http.Request)) reply {
		return b.post("/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {m.ID}}, change...)
	}
	wantError(t, renew(b.proving(other)), 400, "invalid_grant")
	wantError(t, renew(), 400, "invalid_dpop_proof")
	if r := renew(b.proving(mine)); r.status != http.StatusOK || r.body["token_type"] != "DPoP" {
		t.Errorf("renewed with the key: %d %s", r.status, r.text)
	}
}

func TestACodeBoundToAKey(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.user("ann")
	n := web()
	n.Public = true
	m := b.app(n)
	mine, other := prover.New(t), prover.New(t)
	bound := oauth2.SetAuthURLParam("dpop_jkt", mine.Thumbprint)
	wantError(t, b.post("/oauth2/token", b.redeemable(m, bound)), 400, "invalid_grant")
	wantError(t, b.post("/oauth2/token", b.redeemable(m, bound), b.proving(other)), 400, "invalid_grant")
	if r := b.post("/oauth2/token", b.redeemable(m, bound), b.proving(mine)); r.status != http.StatusOK || r.body["token_type"] != "DPoP" {
		t.Errorf("with the key: %d %s", r.status, r.text)
	}
	// Who is not registered so may leave it.
	if r := b.post("/oauth2/token", b.redeemable(m)); r.status != http.StatusOK || r.body["token_type"] != "Bearer" {
		t.Errorf("without a key: %d %s", r.status, r.text)
	}
}

func TestAServicesTokenBoundToAKeyIsIntrospectedSo(t *testing.T) {
	t.Parallel()
	b := start(t)
	m := b.app(registration{Name: "job", GrantTypes: []string{grantClient}, Scopes: []string{"tokens.read"}, DPoP: true})
	basic, mine := func(r *http.Request) { r.SetBasicAuth(m.ID, m.Secret) }, prover.New(t)
	form := url.Values{"grant_type": {"client_credentials"}}
	wantError(t, b.post("/oauth2/token", form, basic), 400, "invalid_dpop_proof")
	twice := func(r *http.Request) { r.Header.Add("DPoP", "x") }
	wantError(t, b.post("/oauth2/token", form, basic, b.proving(mine), twice), 400, "invalid_dpop_proof")
	got := b.post("/oauth2/token", form, basic, b.proving(mine))
	access, _ := got.body["access_token"].(string)
	told := b.introspectAs(m, access)
	if cnf, _ := told.body["cnf"].(map[string]any); told.body["token_type"] != "DPoP" || cnf["jkt"] != mine.Thumbprint {
		t.Errorf("introspection: want the key, got %s", told.text)
	}
}
