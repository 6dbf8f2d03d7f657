package extauthz

import (
	"hash/maphash"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
)

// tokenCache remembers callers by their access token. A token is looked up by a hash whose
// seed only this process knows, and then compared with the one that is kept: SHA-256 over
// its 800 bytes was half of a check. It is kept as it came, which a stored key is not: it
// lives for an hour, and this process forgets it. Comparing may take a time that depends
// on the token, but nobody can choose one that meets another's hash.
type tokenCache struct {
	seed maphash.Seed
	kept *lru.Cache[uint64, keptToken]
}

type keptToken struct {
	token  string
	caller *caller
}

func newTokenCache() tokenCache {
	kept, err := lru.New[uint64, keptToken](cacheSize)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return tokenCache{seed: maphash.MakeSeed(), kept: kept}
}

// get is the caller of a token that was verified before; nil for any other.
func (c tokenCache) get(token string) *caller {
	found, ok := c.kept.Get(maphash.String(c.seed, token))
	if !ok || found.token != token {
		return nil
	}
	return found.caller
}

// add copies the token: the request it came with is read in place.
func (c tokenCache) add(token string, who *caller) {
	c.kept.Add(maphash.String(c.seed, token), keptToken{token: strings.Clone(token), caller: who})
}
