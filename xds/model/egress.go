package model

import (
	"maps"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// Egress is the inner listener on which tokensvc reaches providers, so that Envoy bounds,
// repeats and cuts those calls as it does for all others. It asks nobody who calls: a
// socket of this machine's own user is its guard.
type Egress struct {
	Addr    netaddr.Addr
	Calls   []EgressCall
	Tracing *Tracing // as on the public listener
}

// EgressCall is POST /PROVIDER/anything on the egress listener.
type EgressCall struct {
	Provider string
	Cluster  string
	Host     string        // authority
	Path     string        // at the provider
	Timeout  time.Duration // of all attempts together
	Attempts uint32
	Backoff  time.Duration // between attempts, on average
}

// egress is the listener with a call for each provider. Its clusters are not those of the
// LLM routes: a provider's breaker opens here for calls of this kind alone.
func (b *builder) egress() Egress {
	e := Egress{Addr: b.addr("gateway.egress", b.cfg.Gateway.Egress), Tracing: b.tracing()}
	for _, name := range slices.Sorted(maps.Keys(b.providers)) {
		p := b.providers[name]
		if p.down {
			continue
		}
		e.Calls = append(e.Calls, EgressCall{Provider: name, Cluster: p.egress, Host: p.host, Path: p.ConsumePath,
			Timeout: p.Egress.Timeout, Attempts: uint32(p.Egress.Attempts), Backoff: p.Egress.Backoff})
	}
	return e
}

// egressCluster is a provider's cluster for calls of the egress listener.
func egressCluster(name string, of Cluster, concurrent int) Cluster {
	of.Stat, of.Bulkhead, of.RetryBudget, of.Outlier = "egress-"+name, true, 0, Outlier{}
	of.MaxRequests, of.MaxPending = uint32(concurrent), uint32(concurrent)
	of.Name = of.Stat + "-" + fingerprint(of)
	return of
}
