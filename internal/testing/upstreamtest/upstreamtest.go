// Package upstreamtest is an OpenID provider for tests, which signs with keys of its own, asks nobody
// for a password, and can be told to misbehave.
package upstreamtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What we are called there.
const (
	ClientID = "leaky"
	Secret   = "s3cret & more"
)

// Behaviour is what a provider does; tests change it.
type Behaviour struct {
	Claims   map[string]any // of the ID token; nil for one takes it away
	UserInfo map[string]any // what userinfo answers; nil: there is no such endpoint
	Metadata map[string]any // instead of what it would say
	// Answer takes a request instead of the provider, if it returns true.
	Answer func(w http.ResponseWriter, r *http.Request) bool
	Forged bool // ID tokens are signed by a key that is not the published one
	Ended  bool // refresh tokens are refused
}

// Provider is a running one.
type Provider struct {
	URL string

	server *httptest.Server

	mu        sync.Mutex
	does      Behaviour
	keys      []*ecdsa.PrivateKey
	codes     map[string]url.Values // authorization requests
	refreshes map[string]bool
	asked     map[string]int // requests, by path
}

// New starts a provider that ends with the test.
func New(t *testing.T) *Provider {
	t.Helper()
	p := Start()
	t.Cleanup(p.Close)
	return p
}

// Start starts a provider, which Close ends.
func Start() *Provider {
	p := &Provider{codes: map[string]url.Values{}, refreshes: map[string]bool{}, asked: map[string]int{}}
	p.Rotate()
	p.server = httptest.NewServer(p)
	p.URL = p.server.URL
	return p
}

// Close ends it.
func (p *Provider) Close() { p.server.Close() }

// Change changes what it does from now on.
func (p *Provider) Change(f func(*Behaviour)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.does)
}

// Rotate makes a new key, by which all is signed from now on; the old ones are gone.
func (p *Provider) Rotate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = append(p.keys, newKey())
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // crypto/rand never fails since Go 1.24
	}
	return key
}

// Knows says whether a text is a refresh token that is good.
func (p *Provider) Knows(refresh string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refreshes[refresh]
}

// Asked is how often a path was asked for.
func (p *Provider) Asked(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

// ServeHTTP is the provider.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[r.URL.Path]++
	answer := p.does.Answer
	p.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		p.metadata(w)
	case "/keys":
		p.keySet(w)
	case "/authorize":
		code := rand.Text()
		p.codes[code] = r.URL.Query()
		http.Redirect(w, r, r.FormValue("redirect_uri")+"?"+url.Values{"code": {code}, "state": {r.FormValue("state")}, "iss": {p.URL}}.Encode(),
			http.StatusFound)
	case "/token":
		p.token(w, r)
	case "/userinfo":
		write(w, http.StatusOK, p.does.UserInfo)
	default:
		http.NotFound(w, r)
	}
}

func (p *Provider) metadata(w http.ResponseWriter) {
	m := map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
		"jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}, "response_types_supported": []string{"code"},
		"subject_types_supported": []string{"public"}}
	if p.does.UserInfo != nil {
		m["userinfo_endpoint"] = p.URL + "/userinfo"
	}
	maps.Copy(m, p.does.Metadata)
	write(w, http.StatusOK, m)
}

func kid(key *ecdsa.PrivateKey) string {
	sum := sha256.Sum256(key.X.Bytes())
	return base64.RawURLEncoding.EncodeToString(sum[:8])
}

// keySet has the newest key alone.
func (p *Provider) keySet(w http.ResponseWriter) {
	key := p.keys[len(p.keys)-1]
	coordinate := func(b []byte) string {
		return base64.RawURLEncoding.EncodeToString(append(make([]byte, 32-len(b)), b...))
	}
	write(w, http.StatusOK, map[string]any{"keys": []any{map[string]string{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
		"kid": kid(key), "x": coordinate(key.X.Bytes()), "y": coordinate(key.Y.Bytes())}}})
}

// token redeems codes and refresh tokens, of the one client that it knows.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	if id, _ = url.QueryUnescape(id); id != ClientID {
		write(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	if secret, _ = url.QueryUnescape(secret); secret != Secret {
		write(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client", "error_description": "not " + secret})
		return
	}
	request, scope := url.Values{}, ""
	switch r.FormValue("grant_type") {
	case "authorization_code":
		request = p.codes[r.FormValue("code")]
		delete(p.codes, r.FormValue("code"))
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if request == nil || request.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) ||
			request.Get("redirect_uri") != r.FormValue("redirect_uri") {
			write(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
			return
		}
		scope = request.Get("scope")
	case "refresh_token":
		if p.does.Ended || !p.refreshes[r.FormValue("refresh_token")] {
			write(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
			return
		}
		delete(p.refreshes, r.FormValue("refresh_token"))
		scope = "offline_access"
	}
	answer := map[string]any{"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 300,
		"id_token": p.idToken(request.Get("nonce"))}
	if slices.Contains(strings.Fields(scope), "offline_access") {
		refresh := rand.Text()
		p.refreshes[refresh] = true
		answer["refresh_token"] = refresh
	}
	write(w, http.StatusOK, answer)
}

func (p *Provider) idToken(nonce string) string {
	claims := jwt.MapClaims{"iss": p.URL, "aud": ClientID, "sub": "1", "exp": time.Now().Add(time.Minute).Unix(), "iat": time.Now().Unix(),
		"preferred_username": "ann", "email": "ann@acme.example"}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	maps.Copy(claims, p.does.Claims)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	key := p.keys[len(p.keys)-1]
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	t.Header["kid"] = kid(key)
	if p.does.Forged {
		key = newKey()
	}
	text, err := t.SignedString(key)
	if err != nil {
		panic(err)
	}
	return text
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
