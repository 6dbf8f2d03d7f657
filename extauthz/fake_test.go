package extauthz

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// issuerKey signs the tokens of all fake issuers; making one takes a while.
var issuerKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// issuerEd signs EdDSA tokens.
var issuerEd = sync.OnceValue(func() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

const (
	issuerKID  = "key-1"
	issuerKID2 = "key-ed"
)

// issuer is identity as extauthz sees it: a key set, a directory of API keys and what was revoked.
type issuer struct {
	url     string
	server  *httptest.Server
	mu      sync.Mutex
	keys    map[string]validity
	listed  []revocation.Revocation
	status  atomic.Int64 // when set, every answer
	lookups atomic.Int64
	fetches atomic.Int64
	before  func() // called on each lookup after the key was found; may be nil
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{keys: map[string]validity{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /oauth2/jwks", i.jwks)
	mux.HandleFunc("GET /api/v1/auth/api-keys/validate", i.validate)
	mux.HandleFunc("GET "+revocation.Path, i.revocations)
	i.server = httptest.NewServer(mux)
	i.url = i.server.URL
	t.Cleanup(i.server.Close)
	return i
}

// broken answers with the status that the test set.
func (i *issuer) broken(w http.ResponseWriter) bool {
	status := int(i.status.Load())
	if status != 0 {
		w.WriteHeader(status)
	}
	return status != 0
}

func (i *issuer) jwks(w http.ResponseWriter, _ *http.Request) {
	i.fetches.Add(1)
	if i.broken(w) {
		return
	}
	b64 := base64.RawURLEncoding.EncodeToString
	pub := issuerKey().PublicKey
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{
		{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": issuerKID, "n": b64(pub.N.Bytes()), "e": b64(big.NewInt(int64(pub.E)).Bytes())},
		{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": issuerKID2, "x": b64(issuerEd().Public().(ed25519.PublicKey))},
	}})
}

func (i *issuer) validate(w http.ResponseWriter, r *http.Request) {
	i.lookups.Add(1)
	if i.broken(w) {
		return
	}
	i.mu.Lock()
	v, ok := i.keys[r.Header.Get("X-Api-Key")]
	i.mu.Unlock()
	if i.before != nil {
		i.before()
	}
	if !ok || v.Message != "" {
		w.WriteHeader(http.StatusUnauthorized)
	}
	_ = json.NewEncoder(w).Encode(v)
}

func (i *issuer) revocations(w http.ResponseWriter, _ *http.Request) {
	if i.broken(w) {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	_ = json.NewEncoder(w).Encode(revocation.List{Revocations: i.listed})
}

// newKey gives a key of the user to the directory.
func (i *issuer) newKey(user string, expires *time.Time, roles ...string) string {
	key := apikey.New(uuid.MustParse(user))
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys[key] = validity{UserID: user, KeyID: uuid.NewString(), ExpiresAt: expires, Roles: roles}
	return key
}

// bind makes a key act for an organisation.
func (i *issuer) bind(key, org, team string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	v := i.keys[key]
	v.OrgID, v.Team = org, team
	i.keys[key] = v
}

// revoke ends a key, in the directory and on the list.
func (i *issuer) revoke(key string) revocation.Revocation {
	r := revocation.Revocation{Kind: revocation.Key, ID: apikey.Hash(key), Until: time.Now().Add(time.Minute)}
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.keys, key)
	i.listed = append(i.listed, r)
	return r
}

// list puts a revocation on the list.
func (i *issuer) list(r revocation.Revocation) revocation.Revocation {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.listed = append(i.listed, r)
	return r
}

// claimsOf are those of a good token; tests change what they are about.
func claimsOf(user string, roles ...string) jwt.MapClaims {
	now := time.Now()
	return jwt.MapClaims{"sub": user, "iss": "leaky-tokens-auth", "aud": "leaky-tokens", "roles": roles, "jti": uuid.NewString(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}
}

func sign(t testing.TB, claims jwt.Claims, header map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"], token.Header["typ"] = issuerKID, "at+jwt"
	for name, value := range header {
		if token.Header[name] = value; value == nil {
			delete(token.Header, name)
		}
	}
	signed, err := token.SignedString(issuerKey())
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func signEd(t testing.TB, claims jwt.Claims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims)
	token.Header["kid"], token.Header["typ"] = issuerKID2, "at+jwt"
	signed, err := token.SignedString(issuerEd())
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// launch runs extauthz against the issuer until the test ends.
func launch(t testing.TB, i *issuer, natsURL string, changes ...func(*Config)) *Service {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Identity: i.url, NATS: natsURL, Auth: c.Auth, Tiers: c.Tiers, SigningKey: private, PublicIssuer: publicIssuer,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
	for _, change := range changes {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error("run:", err)
		}
	})
	return s
}

// publicIssuer is the iss of OAuth2 tokens.
const publicIssuer = "http://127.0.0.1:8080"

func ready(t testing.TB, s *Service) *Service {
	t.Helper()
	testenv.Eventually(t, "keys and revocations are fetched", func() bool { return s.Ready(context.Background()) == nil })
	return s
}

// request is what Envoy asks about a call on a route of the OpenAI family.
func request(path string, headers map[string]string, extensions ...string) *auth.CheckRequest {
	context := map[string]string{attributes.ContextRule: attributes.RuleAuthenticated, attributes.ContextFamily: attributes.FamilyOpenAI}
	for i := 0; i < len(extensions); i += 2 {
		context[extensions[i]] = extensions[i+1]
	}
	all := map[string]string{":method": "POST", ":path": path, "x-request-id": "req-1"}
	for name, value := range headers {
		all[name] = value
	}
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{ContextExtensions: context,
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "POST", Path: path, Headers: all}}}}
}

// statusOf is the HTTP status Envoy would answer with; 200 for a call that goes on.
func statusOf(t testing.TB, s *Service, req *auth.CheckRequest) int {
	t.Helper()
	resp, err := s.Check(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	if denied := resp.GetDeniedResponse(); denied != nil {
		return int(denied.GetStatus().GetCode())
	}
	if resp.GetOkResponse() == nil || resp.GetStatus().GetCode() != 0 {
		t.Fatalf("neither ok nor denied: %v", resp)
	}
	return http.StatusOK
}

func bearer(token string) map[string]string {
	return map[string]string{"authorization": "Bearer " + token}
}
