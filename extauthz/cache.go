package extauthz

import (
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/leaky-tokens/leaky-tokens/internal/principal"
)

// cacheSize is how many callers are remembered per kind of credential.
const cacheSize = 10_000

// fingerprint is the whole SHA-256 of a credential. A prefix would let two
// credentials share an entry; the credential itself is never kept.
type fingerprint [sha256.Size]byte

func fingerprintOf(credential string) fingerprint { return sha256.Sum256([]byte(credential)) }

// caller is a checked credential and the answers made for it so far.
type caller struct {
	who   principal.Principal
	until time.Time // the credential must be checked again from then on

	mu      sync.Mutex
	answers []answer
}

// answer is a reply made for a caller, which is sent again and again.
type answer struct {
	audience string
	inQuery  bool
	until    time.Time // the minted identity in it is too old from then on; zero: never
	reply    *reply
}

// maxAnswers per caller: audiences are the services that xds routes to, with or
// without a key in the query.
const maxAnswers = 16

// find gives the finished reply for an audience.
func (c *caller) find(audience string, inQuery bool, now time.Time) *reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.answers {
		a := &c.answers[i]
		if a.audience == audience && a.inQuery == inQuery && (a.until.IsZero() || now.Before(a.until)) {
			return a.reply
		}
	}
	return nil
}

func (c *caller) keep(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = slices.DeleteFunc(c.answers, func(old answer) bool { return old.audience == a.audience && old.inQuery == a.inQuery })
	if len(c.answers) >= maxAnswers {
		c.answers = c.answers[1:]
	}
	c.answers = append(c.answers, a)
}

// cache remembers callers by the fingerprint of their credential.
type cache struct {
	lru *lru.Cache[fingerprint, *caller]
	// generation counts removals. What was looked up before a removal and arrives after
	// it may be what was removed, so it is not kept.
	generation atomic.Uint64
}

func newCache() *cache {
	l, err := lru.New[fingerprint, *caller](cacheSize)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &cache{lru: l}
}

func (c *cache) get(f fingerprint, now time.Time) *caller {
	found, ok := c.lru.Get(f)
	if !ok || !now.Before(found.until) {
		return nil
	}
	return found
}

// add keeps a caller that was looked up since generation.
func (c *cache) add(f fingerprint, who *caller, generation uint64) {
	if c.generation.Load() != generation {
		return
	}
	c.lru.Add(f, who)
	if c.generation.Load() != generation { // a removal came between the two
		c.lru.Remove(f)
	}
}

func (c *cache) remove(f fingerprint) {
	c.generation.Add(1)
	c.lru.Remove(f)
}

func (c *cache) removeUser(id string) {
	c.generation.Add(1)
	for _, f := range c.lru.Keys() {
		if found, ok := c.lru.Peek(f); ok && found.who.UserID == id {
			c.lru.Remove(f)
		}
	}
}

func (c *cache) purge() {
	c.generation.Add(1)
	c.lru.Purge()
}
