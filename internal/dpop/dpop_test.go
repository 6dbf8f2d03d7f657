package dpop_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
)

const (
	url   = "https://gw.example/api/v1/me"
	token = "an.access.token"
)

func ath(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// sign makes a proof of claims.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, typ string, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType(jose.ContentType(typ))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func elliptical(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// good are the claims of a proof for the request of these tests.
func good(now time.Time, change map[string]any) map[string]any {
	claims := map[string]any{"jti": "one", "htm": "GET", "htu": url, "iat": now.Unix(), "ath": ath(token)}
	for name, value := range change {
		claims[name] = value
	}
	return claims
}

func TestProofs(t *testing.T) {
	t.Parallel()
	now, ec := time.Now(), elliptical(t)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	strong, weak := rsaKey(t, 2048), rsaKey(t, 1024)
	by := func(change map[string]any) string { return sign(t, jose.ES256, ec, "dpop+jwt", good(now, change)) }
	parts := strings.Split(by(nil), ".")
	other := strings.Split(sign(t, jose.ES256, elliptical(t), "dpop+jwt", good(now, nil)), ".")
	for name, c := range map[string]struct {
		proof string
		good  bool
	}{
		"ES256":                  {by(nil), true},
		"RS256":                  {sign(t, jose.RS256, strong, "dpop+jwt", good(now, nil)), true},
		"PS256":                  {sign(t, jose.PS256, strong, "dpop+jwt", good(now, nil)), true},
		"EdDSA":                  {sign(t, jose.EdDSA, edwards, "dpop+jwt", good(now, nil)), true},
		"with the scheme's port": {by(map[string]any{"htu": "https://GW.example:443/api/v1/me"}), true},
		"with a query":           {by(map[string]any{"htu": url + "?a=b#c"}), true},
		"a little old":           {by(map[string]any{"iat": now.Add(-50 * time.Second).Unix()}), true},
		"a little ahead":         {by(map[string]any{"iat": now.Add(20 * time.Second).Unix()}), true},

		"old":               {by(map[string]any{"iat": now.Add(-2 * time.Minute).Unix()}), false},
		"of the future":     {by(map[string]any{"iat": now.Add(time.Minute).Unix()}), false},
		"another method":    {by(map[string]any{"htm": "POST"}), false},
		"another path":      {by(map[string]any{"htu": url + "/x"}), false},
		"another host":      {by(map[string]any{"htu": "https://evil.example/api/v1/me"}), false},
		"another scheme":    {by(map[string]any{"htu": "http://gw.example/api/v1/me"}), false},
		"another token":     {by(map[string]any{"ath": ath("other")}), false},
		"no token's hash":   {by(map[string]any{"ath": ""}), false},
		"no id":             {by(map[string]any{"jti": ""}), false},
		"a long id":         {by(map[string]any{"jti": strings.Repeat("x", 129)}), false},
		"an id of a number": {by(map[string]any{"jti": 1}), false},
		"another type":      {sign(t, jose.ES256, ec, "JWT", good(now, nil)), false},
		"a weak key":        {sign(t, jose.RS256, weak, "dpop+jwt", good(now, nil)), false},
		"a shared secret":   {sign(t, jose.HS256, []byte(strings.Repeat("k", 32)), "dpop+jwt", good(now, nil)), false},
		"another's key":     {other[0] + "." + parts[1] + "." + parts[2], false},
		"no signature":      {parts[0] + "." + parts[1] + ".", false},
		"no JWT":            {"x", false},
		"nothing":           {"", false},
		"too long":          {by(map[string]any{"x": strings.Repeat("x", 8<<10)}), false},
		"signed by nobody":  {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"dpop+jwt"}`)) + "." + parts[1] + ".", false},
	} {
		proof, err := dpop.Check(c.proof, dpop.Request{Method: "GET", URL: url, Token: token}, now)
		if (err == nil) != c.good || err != nil && !errors.Is(err, dpop.ErrProof) {
			t.Errorf("%s: want it taken %v, got %v", name, c.good, err)
		}
		if c.good && (len(proof.Thumbprint) != 43 || proof.ID != "one" || !proof.Expires.After(now)) {
			t.Errorf("%s: want a thumbprint, the id and an end, got %+v", name, proof)
		}
	}
}

func FuzzCheck(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add(sign(f, jose.ES256, elliptical(f), "dpop+jwt", good(now, nil)))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := dpop.Check(text, dpop.Request{Method: "GET", URL: url, Token: token}, now); err == nil && p.Thumbprint == "" {
			t.Error("a proof without a key was taken")
		}
	})
}
