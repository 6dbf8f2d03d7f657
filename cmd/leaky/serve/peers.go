package serve

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // lets clients ask whether a process serves
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Peers is how the parts of this machine call each other.
type Peers struct {
	Mutual bool              // with certificates (TLS mode mutual)
	Dir    string            // state folder
	Part   string            // who calls
	Traces *telemetry.Traces // of the calls; nil: none
}

func (s service) peers() Peers {
	return Peers{Mutual: s.cfg.TLS.Mutual(), Dir: s.dir, Part: s.name, Traces: s.traces}
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
		return "http://" + service, p.Traces.Transport(transport), nil
	case p.Mutual:
		transport.TLSClientConfig = mtls.Client(p.Dir, p.Part, service)
		return "https://" + addr.String(), p.Traces.Transport(transport), nil
	}
	return "http://" + addr.String(), p.Traces.Transport(transport), nil
}

// maxConns bounds the connections of one part to another.
const maxConns = 64

// dialLimiter opens connections to every process of ratelimit.
func dialLimiter(s service) (*grpc.ClientConn, error) {
	var all []string
	for _, at := range s.cfg.Services.RateLimit.All() {
		all = append(all, at.GRPC)
	}
	return s.peers().DialLimiter(all...)
}

// balanced is how calls are spread over the processes of ratelimit: in turn over those that are
// connected and say that they serve. All calls are idempotent by request id, so one that a process
// did not take goes to the next.
const balanced = `{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "ratelimit"},
	"methodConfig": [{"name": [{"service": "leaky.limit.v1.Limiter"}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.02s",
		"maxBackoff": "0.2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}],
	"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}}`

// Of a process that hangs the connection is given up after about so long; it must be 10 s at least.
const (
	pingEvery = 10 * time.Second
	pingWait  = 2 * time.Second
)

// DialLimiter opens connections to processes of ratelimit by their addresses in leaky.yaml.
func (p Peers) DialLimiter(all ...string) (*grpc.ClientConn, error) {
	var found resolver.State
	for _, at := range all {
		address, err := netaddr.Parse(at)
		if err != nil {
			return nil, err
		}
		found.Endpoints = append(found.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address.In(p.Dir).String()}}})
	}
	known := manual.NewBuilderWithScheme("leaky")
	known.InitialState(found)
	guard := insecure.NewCredentials()
	if p.Mutual {
		guard = guardedPorts{credentials.NewTLS(mtls.Client(p.Dir, p.Part, topology.RateLimit))}
	}
	return grpc.NewClient(known.Scheme()+":///"+topology.RateLimit, append(p.Traces.DialOptions(),
		grpc.WithResolvers(known), grpc.WithTransportCredentials(guard),
		grpc.WithDefaultServiceConfig(balanced), grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingWait}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2,
			MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second}))...)
}

// guardedPorts asks for certificates on ports and speaks plainly on Unix sockets.
type guardedPorts struct {
	credentials.TransportCredentials
}

// ClientHandshake implements credentials.TransportCredentials.
func (g guardedPorts) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if conn.RemoteAddr().Network() == "unix" {
		return insecure.NewCredentials().ClientHandshake(ctx, authority, conn)
	}
	return g.TransportCredentials.ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (g guardedPorts) Clone() credentials.TransportCredentials {
	return guardedPorts{g.TransportCredentials.Clone()}
}
