// Package prover is a client of the tests that has a key and proves it with each request (RFC 9449).
package prover

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Prover has a key.
type Prover struct {
	tb     testing.TB
	signer jose.Signer
	// Thumbprint of the key, as a token that is bound to it names it.
	Thumbprint string
}

// New makes a key.
func New(tb testing.TB) *Prover {
	tb.Helper()
	p := &Prover{tb: tb}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err == nil {
		p.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key},
			(&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
	}
	if err != nil {
		tb.Fatal(err)
	}
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		tb.Fatal(err)
	}
	p.Thumbprint = base64.RawURLEncoding.EncodeToString(sum)
	return p
}

// Proof is one for a request, with the access token beside it if there is one.
func (p *Prover) Proof(method, url, token string) string {
	p.tb.Helper()
	claims := map[string]any{"jti": rand.Text(), "htm": method, "htu": url, "iat": time.Now().Unix()}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	text, err := json.Marshal(claims)
	if err != nil {
		p.tb.Fatal(err)
	}
	signed, err := p.signer.Sign(text)
	if err != nil {
		p.tb.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		p.tb.Fatal(err)
	}
	return compact
}
