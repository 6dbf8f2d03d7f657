package extauthz

import (
	"crypto/sha256"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
)

// mostProofs are remembered at once, those of the last minute and a half where there are not more. A
// replica remembers its own: one proof is good once at each.
const mostProofs = 1 << 15

// proofs checks that who sends a token that is bound to a key has the key (RFC 9449, 7.1).
type proofs struct {
	gateway string // URL that clients reach us at
	used    *lru.Cache[[sha256.Size]byte, struct{}]
}

func newProofs(gateway string) *proofs {
	used, err := lru.New[[sha256.Size]byte, struct{}](mostProofs)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &proofs{gateway: gateway, used: used}
}

// holds is nil for a token that is not bound and came by Bearer, and for one that is and came by DPoP with
// a proof of its key, for this request and new.
func (p *proofs) holds(who *caller, creds credentials, c *call, now time.Time) *denial {
	if who.key == "" && !creds.bound {
		return nil
	}
	if who.key == "" || !creds.bound || c.proof == "" {
		return &denyProof
	}
	path, _, _ := strings.Cut(c.path, "?")
	proof, err := dpop.Check(c.proof, dpop.Request{Method: c.method, URL: p.gateway + path, Token: creds.token}, now)
	if err != nil || proof.Thumbprint != who.key {
		return &denyProof
	}
	if again, _ := p.used.ContainsOrAdd(sha256.Sum256([]byte(proof.Thumbprint+" "+proof.ID)), struct{}{}); again {
		return &denyProof
	}
	return nil
}
