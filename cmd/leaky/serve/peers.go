package serve

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Peers is how the parts of this machine call each other.
type Peers struct {
	Mutual bool   // with certificates (TLS mode mutual)
	Dir    string // state folder
	Part   string // who calls
}

func (s service) peers() Peers {
	return Peers{Mutual: s.cfg.TLS.Mutual(), Dir: s.dir, Part: s.name}
}

// guarded puts the service's certificate before a listener on TCP, and asks callers for theirs;
// nil: everybody may call. A Unix socket has the mode of its file.
func (p Peers) guarded(ln net.Listener, callers []string) net.Listener {
	if !p.Mutual || callers == nil || ln.Addr().Network() == "unix" {
		return ln
	}
	return tls.NewListener(ln, mtls.Server(p.Dir, p.Part, callers...))
}

// API is how the HTTP side of a service is called: a base URL and what connects. On a Unix socket
// the URL's host is the service's name, which nobody looks up.
func (p Peers) API(service string, at config.Endpoint) (string, http.RoundTripper, error) {
	addr, err := netaddr.Parse(at.Called())
	if err != nil {
		return "", nil, fmt.Errorf("address of %s: %w", service, err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: maxConns, MaxConnsPerHost: maxConns, IdleConnTimeout: time.Minute,
		DisableCompression: true}
	switch {
	case addr.Network == "unix":
		transport.DialContext = addr.In(p.Dir).DialContext
		return "http://" + service, transport, nil
	case p.Mutual:
		transport.TLSClientConfig = mtls.Client(p.Dir, p.Part, service)
		return "https://" + addr.String(), transport, nil
	}
	return "http://" + addr.String(), transport, nil
}

// maxConns bounds the connections of one part to another.
const maxConns = 64

// credentials are for the gRPC side of a service.
func (p Peers) credentials(service string, at netaddr.Addr) credentials.TransportCredentials {
	if !p.Mutual || at.Network == "unix" {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(mtls.Client(p.Dir, p.Part, service))
}

func dialLimiter(s service) (*grpc.ClientConn, error) {
	return s.peers().DialLimiter(s.cfg.Services.RateLimit.GRPC)
}

// DialLimiter opens a connection to one process of ratelimit by its address in leaky.yaml.
func (p Peers) DialLimiter(at string) (*grpc.ClientConn, error) {
	address, err := netaddr.Parse(at)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(address.In(p.Dir).Target(), grpc.WithTransportCredentials(p.credentials(topology.RateLimit, address)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2,
			MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second}))
}
