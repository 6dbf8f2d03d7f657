package model

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// serviceTimeout bounds a call of the control APIs, in which nothing waits for a model.
const serviceTimeout = 15 * time.Second

// serviceIdle is the longest silence of any other request than a call of a provider.
const serviceIdle = time.Minute

// routes is the whole table. Exact paths come first, so that an LLM call passes no
// regular expression; the last entry catches everything, since a request without a
// route would not pass ext_authz.
func (b *builder) routes() []Route {
	routes := slices.Concat(
		heads(),
		preflights(),
		b.operations(),
		modelLists(slashed),
		tricks(),
		escapes(),
		modelLists(""),
		elsewhere(),
		index(),
		docs(),
		services(),
		fallbacks(),
	)
	routes = slices.Concat(routes, near(routes), unknown())
	for i := range routes {
		routes[i].NeedsOrg = b.cfg.Auth.RequireOrg && routes[i].calls()
		routes[i].Open = b.cfg.Limits.Outage.For(routes[i].LimitName()) == config.OutageOpen
		if llm := routes[i].LLM; llm != nil && !llm.NoOutput {
			llm.StateMax = llm.States || b.cfg.Limits.MaxTokens.For(llm.Route) == config.MaxTokensReject
		}
	}
	return routes
}

func notAllowed(path, family, allow string) Route {
	return Route{Name: "method", Match: Match{Path: path}, Rule: attributes.RuleAuthenticated, Family: family,
		Reply: &Reply{Status: 405, Message: "method is not allowed here, use " + allow, Allow: allow}}
}

// index is what the gateway tells everybody of itself: where to go from its root, and its
// actuators. Its metrics are on Envoy's admin port alone: they name clusters. Those of the
// services are on theirs.
func index() []Route {
	const up, info = `{"status":"UP"}`, `{"app":{"name":"gateway","group":"leaky-tokens"}}`
	const root = `{"name":"Leaky Tokens","docs":"/docs","openapi":"/v3/api-docs","models":"/v1/models","health":"/actuator/health"}`
	var routes []Route
	for _, a := range []struct{ path, text string }{
		{"/", root},
		{"/actuator/health", up}, {"/actuator/health/liveness", up}, {"/actuator/health/readiness", up}, {"/actuator/info", info},
	} {
		routes = append(routes, Route{Name: "index", Match: Match{Path: a.path, Method: "GET"}, Rule: attributes.RulePublic,
			Family: attributes.FamilyProblem,
			Reply:  &Reply{Status: 200, Message: a.text}})
	}
	return routes
}

// docs are the API's document and the pages that show it, for everybody. Every service has
// them; identity answers here, as who reads them wants to log in next.
func docs() []Route {
	var routes []Route
	for _, m := range []Match{{Path: "/docs"}, {Prefix: "/docs/"}, {Path: "/v3/api-docs"}, {Prefix: "/v3/api-docs/"},
		{Path: "/swagger-ui.html"}, {Prefix: "/swagger-ui/"}} {
		m.Method = "GET"
		routes = append(routes, Route{Name: "docs", Match: m, Forward: &Forward{Cluster: topology.Identity, Timeout: serviceTimeout},
			Rule: attributes.RulePublic, Family: attributes.FamilyProblem})
	}
	return routes
}

// service is one of the control APIs: a path, everything below a prefix, or both.
type service struct {
	path, prefix, cluster, rule, scope, keys, audience string
	name, family                                       string // of its routes; empty: that of the cluster, a problem
}

// Scopes of what reaches a model and of the list of models: one that cannot buy will do.
const (
	callModels = attributes.ScopeModelsCall + "|" + attributes.ScopeTokensWrite
	listModels = attributes.ScopeTokensRead + "|" + attributes.ScopeModelsCall
)

// readWrite is the scope of reading and of everything else.
const readWrite = attributes.ScopeTokensRead + " " + attributes.ScopeTokensWrite

// ruleAdmin keeps others out at the edge; the services ask once more.
const ruleAdmin = "role:" + principal.RoleAdmin

// consumePath calls a provider on behalf of the caller.
const consumePath = "/api/v1/tokens/consume"

// calls says that a request on the route reaches a model, or its stub, and spends tokens.
func (r Route) calls() bool {
	switch r.Name {
	case topology.StubOpenAI, topology.StubGemini, topology.StubQwen:
		return r.Forward != nil
	}
	return r.LLM != nil || r.Match.Path == consumePath
}

// controlAPIs are the services' own APIs. What makes credentials, organisations or roles asks for
// a login: neither an API key nor a token that an application was granted turns into a password,
// a key or a member.
func controlAPIs() []service {
	const authenticated, none, read = attributes.RuleAuthenticated, attributes.ScopeNone, attributes.KeysRead
	admin := func(prefix, cluster string) service {
		return service{path: strings.TrimSuffix(prefix, "/"), prefix: prefix, cluster: cluster, rule: ruleAdmin, scope: attributes.ScopeAdmin,
			keys: attributes.KeysNone, audience: cluster}
	}
	login := func(path, scope string) service {
		return service{path: path, prefix: path + "/", cluster: topology.Identity, rule: authenticated, scope: scope, keys: attributes.KeysNone,
			audience: topology.Identity}
	}
	identity := func(path, prefix, rule, scope, keys string) service {
		return service{path: path, prefix: prefix, cluster: topology.Identity, rule: rule, scope: scope, keys: keys, audience: topology.Identity}
	}
	tokens := func(path, prefix string) service {
		return service{path: path, prefix: prefix, cluster: topology.TokenSvc, rule: authenticated, scope: readWrite, audience: topology.TokenSvc}
	}
	stub := func(prefix, cluster string) service {
		return service{prefix: prefix, cluster: cluster, rule: authenticated, scope: listModels + " " + callModels}
	}
	return slices.Concat([]service{
		login("/api/v1/auth/api-keys", attributes.ScopeAccount),
		login("/api/v1/auth/grants", attributes.ScopeAccount),
		login("/api/v1/auth/password", none),
		// Who is not known yet may come here; identity looks after each path itself.
		identity("", "/api/v1/auth/", attributes.RulePublic, none, ""),
	}, signIn(), []service{
		{path: "/api/v1/me/usage", cluster: topology.Analytics, rule: authenticated, scope: attributes.ScopeAnalyticsRead,
			audience: topology.Analytics},
		identity("/api/v1/me", "/api/v1/me/", authenticated, attributes.ScopeTokensRead, read),
		identity("/api/v1/orgs", "/api/v1/orgs/", authenticated, attributes.ScopeAccount, read),
		admin("/api/v1/admin/pools/", topology.TokenSvc),
		admin("/api/v1/admin/ledger/", topology.TokenSvc),
		admin("/api/v1/admin/sagas/", topology.TokenSvc),
		admin("/api/v1/admin/", topology.Identity),
		tokens(consumePath, ""),
		tokens("", "/api/v1/tokens/"),
		{prefix: "/api/v1/analytics/", cluster: topology.Analytics, rule: authenticated, scope: attributes.ScopeAnalyticsRead,
			audience: topology.Analytics},
		// Pages with a session of their own, which call the others with its user's token.
		{path: config.ConsolePath, prefix: config.ConsolePath + "/", cluster: topology.Console, rule: attributes.RulePublic,
			family: attributes.FamilyPage},
		stub("/api/v1/openai/", topology.StubOpenAI),
		stub("/api/v1/gemini/", topology.StubGemini),
		stub("/api/v1/qwen/", topology.StubQwen),
	})
}

// services are the routes of the control APIs. A prefix without its trailing slash is a path of its own.
func services() []Route {
	routes := []Route{
		// Answers for a key given in the clear: for extauthz alone, never for callers.
		{Name: topology.Identity, Match: Match{Path: "/api/v1/auth/api-keys/validate"}, Rule: attributes.RulePublic,
			Family: attributes.FamilyProblem,
			Reply:  &Reply{Status: 404, Message: "no such path"}},
	}
	for _, s := range controlAPIs() {
		for _, m := range []Match{{Path: s.path}, {Prefix: s.prefix}} {
			if m.Path != "" || m.Prefix != "" {
				routes = append(routes, Route{Name: cmp.Or(s.name, s.cluster), Match: m, Forward: &Forward{Cluster: s.cluster, Timeout: serviceTimeout},
					Rule: s.rule, Scope: s.scope, Keys: s.keys, Audience: s.audience, Family: cmp.Or(s.family, attributes.FamilyProblem)})
			}
		}
	}
	return routes
}

// fallbacks answer what the gateway answers for a service that is not available.
func fallbacks() []Route {
	var routes []Route
	routed := topology.Names(topology.Having(func(p topology.Part) bool { return p.Cluster && p.API }))
	for _, name := range append(routed, "auth-server", "token-service", "analytics-service", "openai-stub", "gemini-stub", "qwen-stub") {
		routes = append(routes, Route{Name: name, Match: Match{Path: "/fallback/" + name}, Rule: attributes.RuleAuthenticated,
			Family: attributes.FamilyProblem,
			Reply:  &Reply{Status: 503, Message: "not available"}})
	}
	return routes
}
