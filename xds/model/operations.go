package model

import (
	"regexp"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
)

// operations are the routes of everything that a model may be asked for.
func (b *builder) operations() []Route {
	var routes []Route
	for _, m := range b.cfg.Models {
		if _, configured := b.cfg.Providers[m.Provider]; !configured {
			b.fail("models: %s names the provider %q, which is not configured", m.Name, m.Provider)
		}
	}
	for _, o := range operation.All() {
		if o.Family != attributes.FamilyGemini {
			routes = append(routes, b.byBody(o)...)
		}
	}
	return append(routes, b.gemini()...)
}

// servers are the models that serve an operation, with their providers.
func (b *builder) servers(o operation.Operation) (models []config.Model, providers []provider) {
	for _, m := range config.Routed(b.cfg.Models, b.cfg.Providers) {
		p, ok := b.providers[m.Provider]
		serves := o.Serves(m.Kind, m.Provider) || m.Kind == config.KindAny && (o.Provider == "" || o.Provider == m.Provider)
		if ok && string(p.Protocol) == o.Family && serves {
			models, providers = append(models, m), append(providers, p)
		}
	}
	return models, providers
}

// byBody are the routes of one path whose model is named in the body: one for each model that
// serves it, behind them the path's plain route. A request meets the plain one first, as no model
// is known yet; the guard then has the routes looked at again.
func (b *builder) byBody(o operation.Operation) []Route {
	var routes []Route
	models, providers := b.servers(o)
	plain := map[string]bool{}
	usual := ""
	if o.Dialect == operation.DialectModerations && len(models) > 0 {
		usual = models[0].Name // OpenAI's moderations need not name theirs
	}
	for i, m := range models {
		p := providers[i]
		asked := b.asked(o.Path, m, plain)
		llm := newLLM(o)
		llm.Provider, llm.Model, llm.Headers, llm.Query, llm.Usual = m.Provider, m.Name, p.Headers, p.Query, usual
		if o.Free { // ratelimit is not asked, so it cannot name the model
			llm.SetModel = m.Upstream()
		}
		route := Route{Name: o.Name + ":" + m.Provider + "/" + m.Name, Match: asked, Forward: b.call(p, p.base+o.Upstream),
			Rule: attributes.RuleAuthenticated, Scope: callModels, Family: o.Family, LLM: llm}
		routes = append(routes, p.served(b.moves(route, m, func(p provider, _ config.Model) string { return p.base + o.Upstream })))
	}
	llm := newLLM(o)
	llm.Usual = usual
	return append(routes,
		Route{Name: o.Name, Match: Match{Path: o.Path, Method: "POST"}, Rule: attributes.RuleAuthenticated, Scope: callModels,
			Family: o.Family,
			Reply:  &Reply{Status: 404, Code: errorbody.CodeModelNotFound, Message: "the model does not exist, or this path does not serve it"},
			LLM:    llm},
		notAllowed(o.Path, o.Family, "POST"))
}

// asked matches the names of a model in the body; plain are the names that are taken without a
// provider before them.
func (b *builder) asked(path string, m config.Model, plain map[string]bool) Match {
	match := Match{Path: path, Method: "POST", Guarded: true}
	if prefix, wild := m.Wildcard(); wild {
		match.Prefixes = prefixes(m.Provider, prefix)
		return match
	}
	if other := m.Provider + "/" + m.Name; !b.named(other) { // another model's own name wins
		match.Models = append(match.Models, other)
	}
	if !plain[m.Name] {
		plain[m.Name] = true
		match.Models = append(match.Models, m.Name)
	}
	return match
}

// prefixes are the beginnings of a wildcard's names, as they are and with the provider before them.
func prefixes(provider, prefix string) []string {
	if strings.HasPrefix(prefix, provider+"/") {
		return []string{prefix}
	}
	return []string{prefix, provider + "/" + prefix}
}

func newLLM(o operation.Operation) *LLM {
	return &LLM{Route: o.Name, Dialect: o.Dialect, Family: o.Family, Gemini: o.Family == attributes.FamilyGemini, Stream: o.Stream,
		Maximum: o.Maximum, States: o.States, NoOutput: o.NoOutput, Free: o.Free}
}

// geminiVersions are the versions of Gemini's API whose paths are served: its SDKs ask for the
// one or the other. What a provider is asked for is its URL's.
func geminiVersions() []string { return []string{"/v1beta", "/v1"} }

// gemini are exact paths for each model, version and verb; the model is in the path.
func (b *builder) gemini() []Route {
	var routes []Route
	for _, o := range operation.All() {
		if o.Family != attributes.FamilyGemini {
			continue
		}
		models, providers := b.servers(o)
		for i, m := range models {
			for _, version := range geminiVersions() {
				if prefix, wild := m.Wildcard(); wild {
					pattern := version + "/models/(" + regexp.QuoteMeta(strings.TrimPrefix(prefix, m.Provider+"/")) + "[A-Za-z0-9._@-]+)" + o.Path
					if o.Stream {
						routes = append(routes, b.geminiModel(Match{Regex: pattern, Query: map[string]string{"alt": "sse"}}, o, m, providers[i])...)
					}
					routes = append(routes, b.geminiModel(Match{Regex: pattern}, o, m, providers[i])...)
					continue
				}
				path := version + "/models/" + m.Name + o.Path
				if o.Stream { // as server-sent events, or as a list of JSON
					routes = append(routes, b.geminiModel(Match{Path: path, Query: map[string]string{"alt": "sse"}}, o, m, providers[i])...)
				}
				routes = append(routes, b.geminiModel(Match{Path: path}, o, m, providers[i])...)
				routes = append(routes, notAllowed(path, attributes.FamilyGemini, "POST"))
			}
		}
	}
	for _, version := range geminiVersions() {
		routes = append(routes, Route{Name: "gemini-models", Match: Match{Prefix: version + "/models/", Method: "POST"},
			Rule: attributes.RuleAuthenticated, Family: attributes.FamilyGemini,
			Reply: &Reply{Status: 404, Code: errorbody.CodeModelNotFound, Message: "no such model or operation"}})
	}
	return routes
}

// named reports whether a model is called so.
func (b *builder) named(name string) bool {
	return slices.ContainsFunc(b.cfg.Models, func(m config.Model) bool { return m.Name == name })
}

// geminiModel are the two routes of one path of one model: what is met before the body is read,
// and after it.
func (b *builder) geminiModel(match Match, o operation.Operation, m config.Model, p provider) []Route {
	match.Method = "POST"
	llm := newLLM(o)
	llm.Provider, llm.Model, llm.Headers, llm.Query = m.Provider, m.Name, p.Headers, p.Query
	if match.Query != nil {
		llm.Query = append([]string{"alt=sse"}, p.Query...)
	}
	if m.Upstream() != m.Name {
		llm.SetModel = "models/" + m.Upstream()
	}
	before := *llm
	before.Provider, before.Model = "", ""
	route := Route{Name: o.Name + ":" + m.Provider + "/" + m.Name, Match: match, Rule: attributes.RuleAuthenticated,
		Scope: callModels, Family: attributes.FamilyGemini}
	guarded, plain := route, route
	guarded.Match.Guarded = true
	named := m.Upstream()
	if match.Regex != "" {
		named = `\1`
	}
	guarded.Forward, guarded.LLM = b.call(p, p.base+"/models/"+named+o.Path), llm
	guarded = b.moves(guarded, m, func(p provider, other config.Model) string { return p.base + "/models/" + other.Upstream() + o.Path })
	plain.Reply, plain.LLM = &Reply{Status: 400, Message: "the body was not accepted"}, &before
	return []Route{p.served(guarded), plain}
}

// served is a route to the provider; while it is down the gateway answers, and nothing is held.
func (p provider) served(r Route) Route {
	if p.down && len(r.Forward.Tries) == 0 {
		down := *r.LLM
		down.Provider, down.Model = "", ""
		r.LLM = &down
		r.Forward, r.Reply = nil, &Reply{Status: 503, Message: "the provider is not available: the gateway has no key for it"}
	}
	return r
}

func (b *builder) call(p provider, path string) *Forward {
	g := b.cfg.Gateway
	f := &Forward{Path: path, Host: p.host, Longest: g.MaxStreamDuration, FirstByte: g.FirstByteTimeout, Silence: g.StreamIdleTimeout}
	if !p.down {
		f.Cluster = p.shares[0].Cluster
		f.Retry, f.Tries = p.retry()
	}
	return f
}
