package model

import (
	"regexp"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Names of the routes of OAuth2 and OpenID Connect, by which limits tell them apart: what a
// resource server fetches, what it and other applications ask, and what people see.
const (
	routeSignInKeys  = "sign-in-keys"
	routeSignInOAuth = "sign-in-oauth"
	routeSignInPages = "sign-in-pages"
)

// signIn are the routes of the authorization server. Each endpoint authenticates in its own way.
func signIn() []service {
	public := func(path, prefix, name, family string) service {
		return service{path: path, prefix: prefix, cluster: topology.Identity, rule: attributes.RulePublic, audience: topology.Identity,
			name: name, family: family}
	}
	return []service{
		public("/oauth2/authorize", "", routeSignInPages, attributes.FamilyPage),
		public(config.UpstreamCallback, "", routeSignInPages, attributes.FamilyPage),
		public("/oauth2/device", "", routeSignInPages, attributes.FamilyPage),
		public("/oauth2/end_session", "", routeSignInPages, attributes.FamilyPage),
		public("/oauth2/jwks", "/.well-known/", routeSignInKeys, attributes.FamilyOAuth),
		public("", "/oauth2/", routeSignInOAuth, attributes.FamilyOAuth),
	}
}

// preflights are what browsers ask before a page's request, without a credential. Identity answers
// for sign-in, and Envoy's CORS filter for the rest: nothing of that goes on.
func preflights() []Route {
	to := func(prefix, family string) Route {
		return Route{Name: "preflight", Match: Match{Regex: regexp.QuoteMeta(prefix) + encoded, Method: "OPTIONS", Preflight: true},
			Rule: attributes.RulePublic, Forward: &Forward{Cluster: topology.Identity, Timeout: serviceTimeout}, Family: family}
	}
	return []Route{to("/oauth2/", attributes.FamilyOAuth), to("/.well-known/", attributes.FamilyOAuth), to("/", attributes.FamilyProblem)}
}
