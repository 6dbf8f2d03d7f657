package extauthz

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

const (
	// maxRevoked is how many revocations are kept, some 80 bytes each.
	maxRevoked = 500_000
	// longestRevoked is longer than any access token lives (auth.token_ttl is at most 24 h).
	longestRevoked = 25 * time.Hour
)

// name is what a revocation calls a credential by, at a fixed length: half of a SHA-256.
// Were two names the same, a credential too many would be refused.
type name [16]byte

func nameOf(kind revocation.Kind, id string) name {
	sum := sha256.Sum256([]byte(string(kind) + ":" + id))
	return name(sum[:16])
}

// names are all that a revocation can call one credential by.
type names struct {
	key    name // of an API key
	token  name
	family name
	signer name // the key that signed it
	user   name
	ver    int64 // of an access token
	issued time.Time
}

// verdict is what the denylist says of a credential.
type verdict int

const (
	good    verdict = iota
	revoked         // for good
	changed         // something about its user: what was asked before counts no longer
)

// mark is a revocation of a user.
type mark struct {
	generation int64     // tokens below are revoked
	since      time.Time // when we learned of it
	until      time.Time // as it was said: later than before means it was said again
}

// denylist is what was revoked before its time and has not expired since. Callers that
// are remembered are compared with it only when it has grown since the last comparison.
type denylist struct {
	grown  atomic.Uint64 // counts additions, from 1
	keyFor time.Duration // for so long a looked-up key may be remembered
	most   int

	mu      sync.RWMutex
	until   map[name]time.Time // of keys, tokens, families, signers and users; when to drop them
	signers map[name]bool      // of until, which the floor does not stand for: who has the key writes any time
	users   map[name]mark
	floor   time.Time // what was issued or asked before is not known to be good
}

func newDenylist(keyFor time.Duration) *denylist {
	d := &denylist{keyFor: keyFor, most: maxRevoked, until: map[name]time.Time{}, signers: map[name]bool{}, users: map[name]mark{}}
	d.grown.Store(1)
	return d
}

// add takes a revocation; false if it says nothing new.
func (d *denylist) add(r revocation.Revocation, now time.Time) bool {
	id := r.ID
	if r.Kind == revocation.Key {
		sum, err := hex.DecodeString(id)
		if err != nil || len(sum) != sha256.Size {
			return false // the hash of no key
		}
		id = string(sum)
	}
	n := nameOf(r.Kind, id)
	// A token is taken a little past its end, a key as long as it is remembered.
	until := r.Until.Add(2 * skew)
	if r.Kind == revocation.Key || r.Kind == revocation.User && until.Before(now.Add(d.keyFor)) {
		until = now.Add(d.keyFor)
	}
	if last := now.Add(longestRevoked); until.After(last) {
		until = last
	}
	if !now.Before(until) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.until[n]; known {
		if m := d.users[n]; r.Kind != revocation.User || m.generation >= r.Generation && !r.Until.After(m.until) {
			return false
		}
		r.Generation = max(r.Generation, d.users[n].generation)
		until = later(until, d.until[n])
	}
	if len(d.until) >= d.most {
		d.overflow(now)
	}
	d.until[n] = until
	if r.Kind == revocation.Signer {
		d.signers[n] = true
	}
	if r.Kind == revocation.User {
		d.users[n] = mark{generation: r.Generation, since: now, until: r.Until}
	}
	d.grown.Add(1)
	return true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// overflow gives the memory back without letting anything revoked through: whatever is
// older than now has to be issued or looked up anew. mu is held.
func (d *denylist) overflow(now time.Time) {
	d.floor = now
	maps.DeleteFunc(d.until, func(n name, _ time.Time) bool { return !d.signers[n] })
	clear(d.users)
}

// drop forgets what has expired by itself.
func (d *denylist) drop(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n, until := range d.until {
		if !now.Before(until) {
			delete(d.until, n)
			delete(d.signers, n)
			delete(d.users, n)
		}
	}
}

func (d *denylist) size() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.until)
}

// judge compares a caller with what was revoked, which costs one atomic read when
// nothing was since the last time.
func (d *denylist) judge(c *caller) verdict {
	grown := d.grown.Load()
	if c.judged.Load() == grown {
		return good
	}
	v := d.compare(c)
	if v == good {
		c.judged.Store(grown)
	}
	return v
}

func (d *denylist) compare(c *caller) verdict {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if c.who.KeyID != "" {
		if _, ok := d.until[c.names.key]; ok {
			return revoked
		}
		if m, ok := d.users[c.names.user]; ok && !c.asked.After(m.since) || c.asked.Before(d.floor) {
			return changed
		}
		return good
	}
	if m, ok := d.users[c.names.user]; ok && c.names.ver < m.generation || c.names.issued.Before(d.floor) {
		return revoked
	}
	for _, n := range [...]name{c.names.token, c.names.family, c.names.signer} {
		if _, ok := d.until[n]; ok {
			return revoked
		}
	}
	return good
}
