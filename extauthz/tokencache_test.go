package extauthz

import (
	"strings"
	"testing"
)

func TestTokenCacheNeedsTheWholeToken(t *testing.T) {
	t.Parallel()
	c := newTokenCache()
	token := strings.Repeat("a", 800) + ".signature"
	who := &caller{}
	c.add(token, who)
	if c.get(token) != who {
		t.Error("a kept token is not found")
	}
	for _, other := range []string{"", token[:800], token + "x", "b" + token[1:], token[:len(token)-1] + "f"} {
		if c.get(other) != nil {
			t.Errorf("another token of %d bytes is taken for it", len(other))
		}
	}
	// Two tokens with one hash: the later replaces the earlier, and neither stands for both.
	for _, hash := range c.kept.Keys() {
		c.kept.Add(hash, keptToken{token: "another", caller: &caller{}})
	}
	if c.get(token) != nil {
		t.Error("a token is taken for another with its hash")
	}
}
