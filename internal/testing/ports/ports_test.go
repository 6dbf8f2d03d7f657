package ports

import (
	"net"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// The system gives nobody a port that was found free, and no other caller gets it, so that it is still
// free when the process that was told it listens.
func TestFreeAreLeftAlone(t *testing.T) {
	t.Parallel()
	const callers, each = 40, 50
	all := make(chan []string, callers)
	for range callers {
		go func() {
			found, err := Free(each)
			if err != nil {
				t.Error(err)
			}
			all <- found
		}()
	}
	var found []string
	for range callers {
		found = append(found, <-all...)
	}
	if len(found) != callers*each {
		t.Errorf("want %d ports, got %d", callers*each, len(found))
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
