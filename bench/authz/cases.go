package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

// benchCase is one kind of check.
type benchCase struct {
	name   string
	floor  string // the case it is compared with: an empty Check that is asked the same
	server string
	warm   []byte // sent before the clock starts; may be nil
	begin  func(o options) (source, error)
}

// Names of the cases that others are compared with: a token is some 600 bytes longer than
// a key, which the wire carries for either.
const (
	floorKey = "empty Check, asked by key"
	floorJWT = "empty Check, asked by JWT"
)

func cases(id *identity) []benchCase {
	user := uuid.New()
	key, token := check(apikey.New(user), ""), check(id.token(jwt.SigningMethodRS256, user), "")
	again := func(name, floor, server string, message []byte) benchCase {
		return benchCase{name: name, floor: floor, server: server, warm: message, begin: func(options) (source,
			error) {
			return func() []byte { return message }, nil
		}}
	}
	first := func(name string, method jwt.SigningMethod) benchCase {
		return benchCase{name: name, floor: floorJWT, server: serverAuthz, begin: func(o options) (source, error) {
			messages := make([][]byte, o.first)
			for n := range messages {
				messages[n] = check(id.token(method, user), "")
			}
			n := 0
			return func() []byte {
				if n++; n > len(messages) {
					return nil
				}
				return messages[n-1]
			}, nil
		}}
	}
	return []benchCase{
		again(floorKey, floorKey, serverEmpty, key),
		again(floorJWT, floorJWT, serverEmpty, token),
		again("empty Check on grpc-go", floorKey, serverGRPC, key),
		again("cached key", floorKey, serverAuthz, key),
		again("RS256 JWT seen again", floorJWT, serverAuthz, token),
		again("EdDSA JWT seen again", floorJWT, serverAuthz, check(id.token(jwt.SigningMethodEdDSA, user), "")),
		again("cached key, signed identity", floorKey, serverAuthz, check(apikey.New(user), "tokensvc")),
		first("RS256 JWT first seen", jwt.SigningMethodRS256),
		first("EdDSA JWT first seen", jwt.SigningMethodEdDSA),
		{name: "uncached key", floor: floorKey, server: serverAuthz, begin: func(options) (source,
			error) {
			return func() []byte { return check(apikey.New(user), "") }, nil
		}},
	}
}

// check is what Envoy asks about a call by an SDK.
func check(credential, audience string) []byte {
	extensions := map[string]string{attributes.ContextRule: attributes.RuleAuthenticated, attributes.ContextFamily: attributes.FamilyOpenAI}
	if audience != "" {
		extensions[attributes.ContextAudience] = audience
	}
	headers := map[string]string{":method": "POST", ":path": "/v1/chat/completions", ":authority": "127.0.0.1:8080", ":scheme": "http",
		"accept":          "application/json",
		"accept-encoding": "gzip, deflate", "content-type": "application/json", "content-length": "4180", "user-agent": "OpenAI/Python 2.8.1",
		"x-stainless-lang": "python",
		"x-stainless-os":   "Linux", "x-stainless-arch": "x64", "x-stainless-runtime": "CPython", "x-stainless-retry-count": "0",
		"x-forwarded-proto": "http",
		"x-forwarded-for":   "127.0.0.1", "x-request-id": uuid.NewString(), "authorization": "Bearer " + credential}
	wire, err := proto.Marshal(&auth.CheckRequest{Attributes: &auth.AttributeContext{ContextExtensions: extensions,
		Request: &auth.AttributeContext_Request{
			Http: &auth.AttributeContext_HttpRequest{Id: "1", Method: "POST", Path: "/v1/chat/completions", Host: "127.0.0.1:8080", Scheme: "http",
				Protocol: "HTTP/1.1", Headers: headers}}}})
	if err != nil {
		panic(err) // plain texts always encode
	}
	return wire
}

// identity is a small one: every key is good.
type identity struct {
	server *httptest.Server
	rsa    *rsa.PrivateKey
	ed     ed25519.PrivateKey
}

func newIdentity() (*identity, error) {
	id := &identity{}
	var err error
	if id.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	if _, id.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	keys := map[string]any{"keys": []map[string]string{
		{"kty": "RSA", "use": "sig", "kid": "RS256", "n": b64(id.rsa.N.Bytes()), "e": b64(big.NewInt(int64(id.rsa.E)).Bytes())},
		{"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": "EdDSA", "x": b64(id.ed.Public().(ed25519.PublicKey))}}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /oauth2/jwks", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(keys) })
	mux.HandleFunc("GET "+revocation.Path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(revocation.List{}) })
	mux.HandleFunc("GET /api/v1/auth/api-keys/validate", func(w http.ResponseWriter, r *http.Request) {
		user, err := apikey.Parse(r.Header.Get("X-Api-Key"))
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"userId": user, "keyId": uuid.New(), "roles": []string{"USER"}})
	})
	id.server = httptest.NewServer(mux)
	return id, nil
}

// token is an access token like those of a login.
func (id *identity) token(method jwt.SigningMethod, user uuid.UUID) string {
	now := time.Now()
	t := jwt.NewWithClaims(method, jwt.MapClaims{"iss": "leaky-tokens-auth", "aud": "leaky-tokens", "sub": user.String(),
		"roles": []string{"USER"}, "jti": uuid.NewString(),
		"sid": uuid.NewString(), "ver": 1, "client_id": "leaky", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	t.Header["kid"], t.Header["typ"] = method.Alg(), "at+jwt"
	var key any = id.rsa
	if method == jwt.SigningMethodEdDSA {
		key = id.ed
	}
	signed, err := t.SignedString(key)
	if err != nil {
		panic(err) // both keys are ours and fit
	}
	return signed
}
