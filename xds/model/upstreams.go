package model

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// Share is a cluster and its part of the calls.
type Share struct {
	Cluster string
	Weight  uint32
}

// Retry is what is tried again before an answer began, beside what never reached a provider.
type Retry struct {
	Times    uint32
	Statuses []uint32
	Waits    bool // as long as the answer's retry-after says, where that is not long
}

// Outlier is when a provider's cluster is left alone.
type Outlier struct {
	config.Outlier
	Limited bool // after one answer of 429, so long as Cooldown
}

func (b *builder) providerClusters() []Cluster {
	var clusters []Cluster
	for _, name := range slices.Sorted(maps.Keys(b.cfg.Providers)) {
		p := b.cfg.Providers[name]
		u, err := url.Parse(p.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" {
			b.fail("providers.%s.url: %q must be http(s)://host[:port][/prefix]", name, p.URL)
			continue
		}
		plain := Cluster{Stat: "provider-" + name, Addr: netaddr.Addr{Network: "tcp", Host: u.Hostname(), Port: port(u)}, TLS: u.Scheme == "https",
			Host: u.Hostname(), ConnectTimeout: p.ConnectTimeout, MaxRequests: uint32(p.MaxRequests), MaxPending: uint32(p.MaxPending),
			Provider: true, RetryBudget: float64(p.RetryBudget), Outlier: Outlier{Outlier: p.Outlier}}
		var at []netaddr.Addr
		var places map[netaddr.Addr]Place
		if b.placed != nil {
			at, places = b.placed(name)
		}
		plain.Discover = len(at) > 0
		keyed := b.keyed(name, p, plain)
		if len(keyed) == 0 {
			b.providers[name] = provider{Provider: p, name: name, down: true}
			continue
		}
		if p.Protocol == config.ProtocolAnthropic {
			p.Headers = append(slices.Clone(p.Headers), "anthropic-version", "anthropic-beta")
		}
		if loopback(u.Hostname()) {
			p.Headers = append(slices.Clone(p.Headers), headersOfTests()...)
		}
		inner := egressCluster(name, keyed[0].Cluster, p.Egress.MaxConcurrent)
		made := provider{Provider: p, name: name, egress: inner.Name, host: u.Host, base: base(name, p.Protocol, u.EscapedPath())}
		for _, k := range keyed {
			made.shares = append(made.shares, Share{Cluster: k.Name, Weight: k.weight})
			clusters = append(clusters, k.at(at, places))
		}
		b.providers[name] = made
		clusters = append(clusters, inner.at(at, places))
	}
	return clusters
}

// at is the cluster with other endpoints than its URL's, if there are any. They are no part of its name:
// they come and go while it stays.
func (c Cluster) at(addrs []netaddr.Addr, places map[netaddr.Addr]Place) Cluster {
	if len(addrs) > 0 {
		c.Addr, c.More, c.Places = addrs[0], addrs[1:], places
	}
	return c
}

// keyedCluster is a provider's cluster with one of its keys.
type keyedCluster struct {
	Cluster
	weight uint32
}

// keyed are a provider's clusters: one for each key that is there, as the key is put in by the
// cluster, or one without a key. None says that it takes keys and has none.
func (b *builder) keyed(name string, p config.Provider, plain Cluster) []keyedCluster {
	keys := p.AllKeys()
	if len(keys) == 0 {
		plain.Name = plain.Stat + "-" + fingerprint(plain)
		return []keyedCluster{{plain, 1}}
	}
	var all []keyedCluster
	for i, k := range keys {
		c := plain
		value, err := b.key(name, k)
		if err != nil {
			if len(keys) == 1 {
				b.problems = append(b.problems, fmt.Sprintf("providers.%s is down: %v", name, err))
			} else {
				b.problems = append(b.problems, fmt.Sprintf("providers.%s.keys[%d] is not used: %v", name, i, err))
			}
			continue
		}
		c.Credential = plain.Stat
		if i > 0 {
			c.Credential += "-" + strconv.Itoa(i+1)
			c.Stat = c.Credential
		}
		c.Outlier.Limited = len(keys) > 1
		c.Header, c.HeaderPrefix = "authorization", "Bearer "
		switch p.Protocol {
		case config.ProtocolGemini:
			c.Header, c.HeaderPrefix = "x-goog-api-key", ""
		case config.ProtocolAnthropic:
			c.Header, c.HeaderPrefix = "x-api-key", ""
		case config.ProtocolOpenAI:
		}
		if p.APIKeyHeader != "" && p.APIKeyHeader != "authorization" {
			c.Header, c.HeaderPrefix = p.APIKeyHeader, ""
		}
		b.secrets = append(b.secrets, Secret{Name: c.Credential, Value: value})
		c.Name = c.Stat + "-" + fingerprint(c)
		all = append(all, keyedCluster{c, uint32(k.Weight)})
	}
	if len(all) == 0 && len(keys) > 1 {
		b.problems = append(b.problems, fmt.Sprintf("providers.%s is down: none of its keys is there", name))
	}
	return all
}

// headersOfTests steer providers that are made for tests, the stubs and others. They pass to
// loopback, where such providers run, and to no other.
func headersOfTests() []string { return []string{"x-raw", "x-stub-*"} }

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// transient are answers after which a provider is worth another attempt: it is over its limits, or
// something behind it is down (529: Anthropic's "overloaded").
func transient() []uint32 { return []uint32{429, 500, 502, 503, 504, 529} }

// another are answers after which another key, or another provider, may do what this one did not:
// those, a key that is refused or out of money, and a provider that gave up waiting.
func another() []uint32 { return append([]uint32{401, 402, 403, 408}, transient()...) }

// retry is what is tried again at a provider, and with which of its clusters each time. With
// several keys each attempt takes another one: the shares of the keys are turned, so that whatever
// a call drew at first it draws the next one then.
func (p provider) retry() (Retry, [][]Share) {
	if len(p.shares) == 1 {
		return Retry{Times: uint32(p.Retries), Statuses: transient(), Waits: true}, nil
	}
	var tries [][]Share
	for turn := range max(len(p.shares), p.Retries+1) {
		tries = append(tries, turned(p.shares, turn))
	}
	return Retry{Times: uint32(len(tries) - 1), Statuses: another()}, tries
}

// turned keeps the weights in their order and moves the clusters on.
func turned(shares []Share, turn int) []Share {
	out := slices.Clone(shares)
	for i := range out {
		out[i].Cluster = shares[(i+turn)%len(shares)].Cluster
	}
	return out
}
