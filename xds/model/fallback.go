package model

import (
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// Fallback is the inner listener on which an Envoy calls itself where a call goes on at another
// model: the filters behind it hold for that model and write its name into the body, which those of
// the public listener did for the first. A socket of this machine's own user is its guard.
//
//	client ─▶ public listener ─▶ attempt 1: provider A
//	                          └▶ attempt 2: cluster of the fallback ─▶ this listener ─▶ provider B
type Fallback struct {
	Addr     netaddr.Addr
	Listener Listener // bounds, as the public one has them
	Routes   []Route  // empty: there is no use for it
}

// away is the cluster that stands for one without a host: this listener answers with 503 what
// names no fallback. Envoy tries nothing else when a cluster has no host, and something else after
// an answer of 503.
const away = "fallback-away"

// bodyRoom is how much longer a body may have become on its way here, in bytes.
const bodyRoom = 64 << 10

// fallback is the listener, with what the routes before asked for.
func (b *builder) fallback(public Listener) Fallback {
	if len(b.moved) == 0 && len(b.guarded) == 0 {
		return Fallback{}
	}
	public.Addr = b.addr("gateway.fallback", b.cfg.Gateway.Fallback)
	public.MaxBodyBytes += bodyRoom
	f := Fallback{Addr: public.Addr, Listener: public, Routes: b.moved}
	f.Routes = append(slices.Clip(f.Routes), Route{Name: away, Match: Match{Prefix: "/"}, Rule: attributes.RuleAuthenticated,
		Family: attributes.FamilyOpenAI, Reply: &Reply{Status: 503, Message: "the provider is left alone for a moment"}})
	return f
}

// fallbackClusters are those that routes need beside the providers' own.
func (b *builder) fallbackClusters() []Cluster {
	if len(b.moved) == 0 && len(b.guarded) == 0 {
		return nil
	}
	at := b.addr("gateway.fallback", b.cfg.Gateway.Fallback)
	all := []Cluster{{Name: away, Addr: at, MaxRequests: ownRequests, MaxPending: ownRequests}}
	for _, r := range b.moved {
		c := Cluster{Stat: attributes.FallbackCluster(r.LLM.Provider, r.LLM.Model), Addr: at, Moves: r.Match.Fallback,
			MaxRequests: ownRequests, MaxPending: ownRequests}
		c.Name = movedCluster(r.Match.Fallback)
		all = append(all, c)
	}
	return append(all, b.guarded...)
}

// movedCluster is the cluster of a fallback.
func movedCluster(name string) string { return "fallback-" + fingerprint(Cluster{Moves: name}) }

// moves is a route of model m that goes on at its fallbacks. path is what is called of a provider.
func (b *builder) moves(r Route, m config.Model, path func(provider, config.Model) string) Route {
	var next [][]Share
	names := m.Fallback
	if r.LLM.Free { // nothing is held that could move
		names = nil
	}
	for _, name := range names {
		at := slices.IndexFunc(b.cfg.Models, func(o config.Model) bool { return o.Name == name })
		if at < 0 {
			continue // validation says so
		}
		other := b.cfg.Models[at]
		p, ok := b.providers[other.Provider]
		if !ok || p.down {
			continue
		}
		next = append(next, []Share{{Cluster: b.movedRoute(r, other, p, path(p, other)), Weight: 1}})
	}
	if r.Forward == nil || len(next) == 0 && len(r.Forward.Tries) == 0 {
		return r
	}
	own := b.providers[m.Provider]
	f := *r.Forward
	if len(f.Tries) == 0 && !own.down {
		f.Tries = [][]Share{own.shares}
	}
	f.Tries = append(slices.Clip(f.Tries), next...)
	last := len(f.Tries) - 1
	for i := range f.Tries[:last] {
		f.Tries[i] = b.guard(f.Tries[i])
	}
	f.Cluster = f.Tries[0][0].Cluster
	f.Retry = Retry{Times: uint32(last), Statuses: another()}
	r.Forward = &f
	return r
}

// movedRoute is the inner route to a fallback, made once, and gives its cluster.
func (b *builder) movedRoute(from Route, m config.Model, p provider, path string) string {
	llm := *from.LLM
	llm.Provider, llm.Model, llm.Headers, llm.Query = m.Provider, m.Name, p.Headers, p.Query
	if from.Match.Query != nil {
		llm.Query = append([]string{"alt=sse"}, p.Query...)
	}
	if llm.Gemini {
		llm.SetModel = "models/" + m.Upstream()
	}
	name := llm.Route + ":" + m.Provider + "/" + m.Name
	if !slices.ContainsFunc(b.moved, func(r Route) bool { return r.Name == name }) {
		b.moved = append(b.moved, Route{Name: name, Match: Match{Prefix: "/", Method: "POST", Fallback: name}, Rule: from.Rule,
			Family: from.Family, LLM: &llm, Forward: b.call(p, path)})
	}
	return movedCluster(name)
}

// guard puts a cluster that never lacks a host in the place of each provider's.
func (b *builder) guard(shares []Share) []Share {
	out := slices.Clone(shares)
	for i, s := range out {
		at := slices.IndexFunc(b.upstreams, func(c Cluster) bool { return c.Name == s.Cluster })
		if at < 0 {
			continue // a fallback's
		}
		c := b.upstreams[at]
		c.Of, c.Stat = []string{c.Name, away}, c.Stat+"-or-away"
		c.Name = c.Stat + "-" + fingerprint(c)
		out[i].Cluster = c.Name
		if !slices.ContainsFunc(b.guarded, func(have Cluster) bool { return have.Name == c.Name }) {
			b.guarded = append(b.guarded, c)
		}
	}
	return out
}
