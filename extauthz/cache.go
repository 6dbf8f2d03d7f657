package extauthz

import (
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

// cacheSize is how many callers are remembered for each kind of credential.
const cacheSize = 10_000

// fingerprint is the whole SHA-256 of an API key. A prefix would let two keys share an
// entry; the key itself is never kept. Looking one up takes no secret time: whoever times
// it would have to choose hashes, not keys.
type fingerprint [sha256.Size]byte

func fingerprintOf(key string) fingerprint {
	var room [256]byte // on the stack: every key fits
	return sha256.Sum256(append(room[:0], key...))
}

// caller is a checked credential and the answers made for it so far.
type caller struct {
	who    principal.Principal
	key    string    // thumbprint of the key that the token is bound to; empty: to none
	oauth  bool      // the token of an OAuth2 client: bound by its scopes
	asked  time.Time // when its check began
	until  time.Time // the credential must be checked again from then on
	spare  time.Time // so long it may serve where it cannot be checked again
	names  names
	judged atomic.Uint64 // the denylist's growth when it was compared last

	mu      sync.Mutex
	answers []answer
}

// form is what a request's answer has to do besides naming the caller.
type form uint8

const (
	dropQueryKey form = 1 << iota // the query has a key, which must not go upstream
	keepHeader                    // Authorization is for the endpoint to read
	forms        = iota
)

// answer is a reply made for a caller, which is sent again and again.
type answer struct {
	audience string
	form     form
	until    time.Time // the minted identity in it is too old from then on; zero: never
	reply    *reply
}

// maxAnswers per caller: audiences are the services that xds routes to, in their forms.
const maxAnswers = 16

// find gives the finished reply for an audience.
func (c *caller) find(audience string, f form, now time.Time) *reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.answers {
		a := &c.answers[i]
		if a.audience == audience && a.form == f && (a.until.IsZero() || now.Before(a.until)) {
			return a.reply
		}
	}
	return nil
}

func (c *caller) keep(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = slices.DeleteFunc(c.answers, func(old answer) bool { return old.audience == a.audience && old.form == a.form })
	if len(c.answers) >= maxAnswers {
		c.answers = c.answers[1:]
	}
	c.answers = append(c.answers, a)
}

// cache remembers callers by the fingerprint of their API key. What was revoked since
// is for the denylist to say.
type cache struct {
	*lru.Cache[fingerprint, *caller]
}

func newCache() cache {
	l, err := lru.New[fingerprint, *caller](cacheSize)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return cache{l}
}
