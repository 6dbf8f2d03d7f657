package oauth

import (
	"errors"
	"fmt"
	"net/http"

	"time"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
)

// tokenType is that of tokens bound to a key, or of those that whoever has them may use.
func tokenType(key string) string {
	if key != "" {
		return dpop.Scheme
	}
	return "Bearer"
}

// proven is the thumbprint of the key that a client proves to have (RFC 9449 section 5), empty without a
// proof. A client may bring one always, and one that is registered so must.
func (p *Provider) proven(r *http.Request, c identitydb.OauthClient, path string) (string, error) {
	key, err := p.proof(r, path, "")
	if err == nil && key == "" && c.Dpop {
		return "", refuse(codeInvalidProof, "the client is registered to prove a key with each request (RFC 9449)")
	}
	return key, err
}

// proof checks the header DPoP of a request for one of our paths, with the token beside it if there is
// one, and remembers it: none counts twice.
func (p *Provider) proof(r *http.Request, path, token string) (string, error) {
	headers := r.Header.Values(dpop.Header)
	switch {
	case len(headers) == 0:
		return "", nil
	case len(headers) > 1:
		return "", refuse(codeInvalidProof, "more than one DPoP header")
	}
	proof, err := dpop.Check(headers[0], dpop.Request{Method: r.Method, URL: p.cfg.Issuer + path, Token: token}, time.Now())
	if err != nil {
		return "", refuse(codeInvalidProof, "%s", err)
	}
	n, err := p.db.OAuthUseAssertion(r.Context(), identitydb.OAuthUseAssertionParams{Hash: hashed("dpop " + proof.Thumbprint + " " + proof.ID),
		ExpiresAt: proof.Expires})
	if err != nil {
		return "", fmt.Errorf("remember proof: %w", err)
	}
	if n == 0 {
		return "", refuse(codeInvalidProof, "the proof was used before")
	}
	return proof.Thumbprint, nil
}

// holds is errDead unless a token that is bound to a key comes by the scheme DPoP with a proof of that
// key, and one that is not bound by Bearer (RFC 9449 sections 7.1 and 7.2).
func (p *Provider) holds(r *http.Request, claims grants.Claims, token string, bound bool) error {
	if !bound || claims.Key() == "" {
		return errDead
	}
	key, err := p.proof(r, "/oauth2/userinfo", token)
	if refused, ok := errors.AsType[*protocolError](err); ok {
		refused.status, refused.challenge = http.StatusUnauthorized, `DPoP realm="leaky-tokens", error="invalid_dpop_proof"`
		return refused
	}
	if err == nil && key != claims.Key() {
		return errDead
	}
	return err
}
