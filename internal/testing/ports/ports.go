package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

// Free are n loopback addresses where nobody listens. The system gives their ports to
// nobody: they lie below those that it takes for outgoing connections and for port 0, of
// which a busy machine takes many before a process listens on the one that it was told.
func Free(n int) ([]string, error) {
	const wide = 12_000
	end := firstEphemeral()
	var found []string
	for port, tries := end-1-rand.IntN(wide), 0; len(found) < n; port, tries = port-1, tries+1 {
		if port < end-wide {
			port = end - 1
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		switch {
		case err == nil:
			defer ln.Close()
			found = append(found, ln.Addr().String())
		case tries > wide:
			return nil, fmt.Errorf("find %d free ports: %w", n, err)
		}
	}
	return found, nil
}

// firstEphemeral is the first port that the system itself gives out: Linux says it, and
// others begin at 49152 (IANA) or above.
func firstEphemeral() int {
	var first, last int
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &last)
	}
	if err != nil || first < 20_000 {
		return 32_768
	}
	return first
}
