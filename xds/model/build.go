package model

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Input is what the gateway is made from.
type Input struct {
	Config   *config.Config
	StateDir string // relative paths are resolved against it
	Limits   []limits.Path
	// Key is one of a provider's own keys, or why it is not there: a provider without any is down, and
	// no other.
	Key func(name string, k config.ProviderKey) (string, error)
	// Identity and Roots are what Envoy shows and checks services with; needed in TLS mode mutual.
	Identity mtls.Pair
	Roots    []byte
	TLS      *ServerTLS // of the public listener; nil: plain HTTP
	// Registered are the addresses at which a service is called by now, at least one, when those of the
	// file are these; nil: they stay.
	Registered func(service string, file []netaddr.Addr) ([]netaddr.Addr, map[netaddr.Addr]Place)
	// Placed are the addresses behind a provider's URL; none, or nil: DNS says.
	Placed func(provider string) ([]netaddr.Addr, map[netaddr.Addr]Place)
}

// Build makes the gateway and its secrets. Every mistake is reported, joined.
func Build(in Input) (*Gateway, []Secret, error) {
	b := &builder{cfg: in.Config, dir: in.StateDir, key: in.Key, registered: in.Registered, placed: in.Placed,
		providers: map[string]provider{}}
	g := &Gateway{Limits: in.Limits, Requests: Requests{Off: !in.Config.Flags.Gateway.RateLimiting,
		Key: in.Config.Gateway.RateLimit.KeyStrategy, Whitelist: in.Config.Gateway.RateLimit.Whitelist}, CORS: in.Config.Gateway.CORS}
	if in.Config.TLS.Mutual() {
		if len(in.Identity.Key) == 0 || len(in.Roots) == 0 {
			b.fail("tls.mode: mutual, and there is no certificate for the gateway")
		}
		b.secrets = append(b.secrets, Secret{Name: SecretIdentity, Certificate: string(in.Identity.Certificate), Key: string(in.Identity.Key)},
			Secret{Name: SecretRoots, Roots: string(in.Roots)})
	}
	g.Listener = b.listener()
	if in.TLS != nil {
		g.Listener.TLS, g.Listener.Clients = true, in.TLS.Clients
		b.secrets = append(b.secrets, Secret{Name: SecretServer, Certificate: in.TLS.Certificate, Key: in.TLS.Key})
		if in.TLS.Clients != config.ClientsOff {
			b.secrets = append(b.secrets, Secret{Name: SecretClients, Roots: in.TLS.Roots})
		}
	}
	b.upstreams = b.providerClusters()
	g.Egress = b.egress()
	g.Routes = b.routes()
	g.Fallback = b.fallback(g.Listener)
	g.Clusters = slices.Concat(b.services(), b.upstreams, b.fallbackClusters(), b.collector())
	g.Problems = b.problems
	g.Listener.Open = slices.ContainsFunc(g.Routes, func(r Route) bool { return r.Open })
	if err := errors.Join(b.errs...); err != nil {
		return nil, nil, fmt.Errorf("build gateway: %w", err)
	}
	return g, b.secrets, nil
}

type builder struct {
	cfg       *config.Config
	dir       string
	key       func(string, config.ProviderKey) (string, error)
	providers map[string]provider

	registered func(string, []netaddr.Addr) ([]netaddr.Addr, map[netaddr.Addr]Place) // as Input's
	placed     func(string) ([]netaddr.Addr, map[netaddr.Addr]Place)                 // as Input's
	upstreams  []Cluster                                                             // of the providers
	moved      []Route                                                               // to fallbacks
	guarded    []Cluster                                                             // see guard
	secrets    []Secret
	problems   []string
	errs       []error
}

// provider is what routes need of a configured provider.
type provider struct {
	config.Provider
	name   string
	shares []Share // its clusters: one, or one for each of its keys
	egress string  // cluster of the egress listener
	host   string  // authority
	base   string  // path before the operation, e.g. /v1
	down   bool    // nobody calls it: its key is not there
}

func (b *builder) fail(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}

func (b *builder) addr(key, text string) netaddr.Addr {
	a, err := netaddr.Parse(text)
	if err != nil {
		b.fail("%s: %w", key, err)
	}
	return a.In(b.dir)
}

func (b *builder) listener() Listener {
	g, spool := b.cfg.Gateway, b.cfg.Envoy.Spool
	if !filepath.IsAbs(spool) {
		spool = filepath.Join(b.dir, spool)
	}
	return Listener{
		Addr: b.addr("gateway.listen", g.Listen), TrustedHops: uint32(g.TrustedHops), MaxBodyBytes: uint32(g.MaxBodyBytes),
		Connections: uint32(b.cfg.Envoy.Connections),
		CallerBytes: int64(g.CallerBytes()), AllBytes: b.cfg.Envoy.BodyBytes(),
		MaxHeaders: uint32(g.RequestHeaders), IdleTimeout: serviceIdle, Spool: spool, RenewEvery: b.cfg.RenewEvery(),
		ChecksTimeout: b.cfg.Auth.CheckTimeout, LimitsTimeout: b.cfg.Limits.Timeout, Pages: g.CORS.Origins,
		Dimensions: dimensions(b.cfg.Dimensions),
		Tracing:    b.tracing(),
	}
}

// dimensions are written for the guard, in one order.
func dimensions(d config.Dimensions) string {
	named := d.Names()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(named)) {
		all = append(all, name+"|"+named[name].Header+"|"+named[name].Body)
	}
	return strings.Join(all, ";")
}

// ownRequests bounds questions under way to extauthz and ratelimit: as many as calls, so
// that the bound of a provider decides and not ours.
const ownRequests = 1 << 16

func (b *builder) services() []Cluster {
	var clusters []Cluster
	for _, part := range topology.Having(func(p topology.Part) bool { return p.Cluster }) {
		addrs := b.addrs("services."+part.Key(), b.cfg.Services.Named(part.Name), part.GRPC)
		var places map[netaddr.Addr]Place
		if b.registered != nil && !slices.ContainsFunc(addrs, netaddr.Addr.Named) { // else DNS says where they are
			addrs, places = b.registered(part.Name, addrs)
		}
		one := Cluster{Name: part.Name, Addr: addrs[0], More: addrs[1:], Places: places, Shared: part.Replicas, GRPC: part.GRPC,
			Discover: true}
		if b.cfg.TLS.Mutual() && one.Addr.Network == "tcp" && part.Callers != nil {
			one.Part = part.Name
		}
		if part.GRPC {
			one.MaxRequests, one.MaxPending = ownRequests, ownRequests
		}
		clusters = append(clusters, one)
	}
	return clusters
}

// addrs are where the processes of a service are dialled.
func (b *builder) addrs(key string, e config.Endpoint, grpc bool) []netaddr.Addr {
	var all []netaddr.Addr
	for _, at := range e.All() {
		if grpc {
			all = append(all, b.addr(key+".grpc", at.GRPC).Reachable())
		} else {
			all = append(all, b.addr(key+".http", at.Called()).Reachable())
		}
	}
	return all
}

func port(u *url.URL) int {
	if n, err := strconv.Atoi(u.Port()); err == nil {
		return n
	}
	if u.Scheme == "https" {
		return 443
	}
	return 80
}

// base is the path before the operation. A URL with a path is a base URL as the
// provider's SDK takes it; one without gets the provider's own.
func base(name string, protocol config.Protocol, path string) string {
	path = strings.TrimRight(path, "/")
	switch {
	case protocol == config.ProtocolGemini && !strings.HasSuffix(path, "/v1beta") && !strings.HasSuffix(path, "/v1"):
		return path + "/v1beta"
	case protocol == config.ProtocolAnthropic && !strings.HasSuffix(path, "/v1"):
		return path + "/v1" // which its SDKs have in each call
	case path != "":
		return path
	case name == "qwen":
		return "/compatible-mode/v1"
	}
	return "/v1"
}

// fingerprint makes a cluster's name change with its content, so that a change is an
// add, a move of the routes and a remove, and no request is lost to a cluster that is
// replaced in place.
func fingerprint(c Cluster) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v", c))
	return hex.EncodeToString(sum[:4])
}
