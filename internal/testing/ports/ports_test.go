package ports

import (
	"net"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// The system gives nobody a port that was found free, so that it is still free when the
// process that was told it listens.
func TestFreeAreLeftAlone(t *testing.T) {
	t.Parallel()
	found, err := Free(50)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, text := range found {
		at, err := net.ResolveTCPAddr("tcp", text)
		if err != nil || at.Port >= firstEphemeral() || seen[text] {
			t.Errorf("%s: want a port below %d, once, got %v", text, firstEphemeral(), err)
		}
		seen[text] = true
		if _, err := netaddr.Parse(text); err != nil {
			t.Error(err)
		}
	}
}
