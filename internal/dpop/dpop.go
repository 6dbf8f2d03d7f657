// Package dpop is on the request path in extauthz, and beside it in identity: it checks proofs of
// possession (RFC 9449). A token that is bound to a key is good only with a proof, signed by that key
// for this request, so that who steals the token alone has nothing.
package dpop

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// Header carries the proof, Scheme the token in Authorization.
	Header = "dpop"
	Scheme = "DPoP"
	// Life is how old a proof may be, and Ahead how far a client's clock may be before ours.
	Life  = time.Minute
	Ahead = 30 * time.Second
	// longest is the size of a proof that is looked at, in bytes.
	longest = 8 << 10
	// longestID bounds jti, which is remembered.
	longestID = 128
	// Bits of RSA keys: fewer are weak, more cost time that a stranger should not decide about.
	leastBits, mostBits = 2048, 4096
)

// ErrProof says that a proof proves nothing; the rest of the text says why, without its contents.
var ErrProof = errors.New("invalid DPoP proof")

// Methods are the signature algorithms of proofs.
func Methods() []string { return []string{"ES256", "RS256", "PS256", "EdDSA"} }

// Request is what a proof must be for.
type Request struct {
	Method string
	URL    string // the query and the fragment do not count
	Token  string // the access token beside it; empty: there is none
}

// Proof is one that was checked. Who takes it remembers Thumbprint and ID until Expires, as each is good
// once (RFC 9449, 11.1).
type Proof struct {
	Thumbprint string // of the key (RFC 7638, SHA-256), as cnf.jkt has it
	ID         string
	Expires    time.Time
}

// claims are those of a proof (RFC 9449, 4.2).
type claims struct {
	ID     string `json:"jti"`
	Method string `json:"htm"`
	URL    string `json:"htu"`
	Issued int64  `json:"iat"`
	Hash   string `json:"ath"`
}

// Check checks a proof as of now (RFC 9449, 4.3). Whether it was used before is for the caller to say.
func Check(text string, r Request, now time.Time) (Proof, error) {
	refuse := func(why string) (Proof, error) { return Proof{}, fmt.Errorf("%w: %s", ErrProof, why) }
	if len(text) > longest {
		return refuse("it is too long")
	}
	signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256, jose.EdDSA})
	if err != nil || len(signed.Signatures) != 1 {
		return refuse("it is no JWT that one of " + strings.Join(Methods(), ", ") + " signs")
	}
	head := signed.Signatures[0].Protected
	if typ, _ := head.ExtraHeaders[jose.HeaderType].(string); typ != "dpop+jwt" {
		return refuse("its typ is not dpop+jwt")
	}
	key := head.JSONWebKey
	if key == nil || !key.Valid() || !key.IsPublic() || !fair(key.Key) {
		return refuse("it brings no public key of a fair size")
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return refuse("its key did not sign it")
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil || c.ID == "" || len(c.ID) > longestID {
		return refuse("its claims are malformed")
	}
	issued := time.Unix(c.Issued, 0)
	switch {
	case c.Method != r.Method || !sameURL(c.URL, r.URL):
		return refuse("it is for another request")
	case now.Sub(issued) > Life || issued.Sub(now) > Ahead:
		return refuse("it is too old, or of the future")
	case r.Token != "" && subtle.ConstantTimeCompare([]byte(c.Hash), []byte(hash(r.Token))) != 1:
		return refuse("it is for another token")
	}
	print, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return refuse("its key has no thumbprint")
	}
	return Proof{Thumbprint: base64.RawURLEncoding.EncodeToString(print), ID: c.ID, Expires: issued.Add(Life + Ahead)}, nil
}

// fair says whether a key is worth a signature's time.
func fair(key any) bool {
	k, ok := key.(*rsa.PublicKey)
	return !ok || k.N.BitLen() >= leastBits && k.N.BitLen() <= mostBits
}

// hash is a token as a proof names it (ath).
func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// sameURL compares scheme, host and path; those of a scheme's own port are the same with and without it.
func sameURL(a, b string) bool {
	x, errX := url.Parse(a)
	y, errY := url.Parse(b)
	return errX == nil && errY == nil && x.Host != "" && x.User == nil && strings.EqualFold(x.Scheme, y.Scheme) &&
		strings.EqualFold(host(x), host(y)) && x.EscapedPath() == y.EscapedPath()
}

func host(u *url.URL) string {
	for scheme, port := range map[string]string{"http": ":80", "https": ":443"} {
		if strings.EqualFold(u.Scheme, scheme) {
			return strings.TrimSuffix(u.Host, port)
		}
	}
	return u.Host
}
