package model

import (
	"regexp"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// shape is that of the errors below a prefix.
type shape struct{ prefix, family string }

// shapes are those of every path, the longer prefix first.
func shapes() []shape {
	return []shape{{"/oauth2/", attributes.FamilyOAuth}, {"/v1/messages", attributes.FamilyAnthropic}, {"/v1/", attributes.FamilyOpenAI},
		{"/compatible-mode/", attributes.FamilyOpenAI}, {"/v1beta/", attributes.FamilyGemini}, {"/", attributes.FamilyProblem}}
}

// trick is a route that refuses what it matches.
func trick(m Match, rule, family string, reply Reply) Route {
	return Route{Name: "tricks", Match: m, Rule: rule, Family: family, Reply: &reply}
}

// heads refuses as an authority what is none, such as the list that Envoy makes of two Host headers
// (RFC 9112, 3.2), and expectations other than 100-continue, which Envoy meets; services would refuse
// them in a shape that is not ours. It comes before any other route: a call of a model is no exception.
func heads() []Route {
	var routes []Route
	for _, p := range shapes() {
		routes = append(routes, trick(Match{Prefix: p.prefix, NotHost: `[A-Za-z0-9._:\[\]-]+`}, attributes.RulePublic, p.family,
			Reply{Status: 400, Message: "the host is malformed, or there are two"}),
			trick(Match{Prefix: p.prefix, Expects: true}, attributes.RulePublic, p.family,
				Reply{Status: 417, Message: "nothing but 100-continue can be expected here"}))
	}
	return routes
}

// tricks refuses what two servers may read as different things: in a path matrix
// parameters, slashes and backslashes in an encoding, and encoded NULs.
// Without a route CONNECT would wait for the end of a tunnel that nobody opens.
func tricks() []Route {
	return []Route{
		trick(Match{Regex: `.*%(2[fF]|5[cC]).*`}, attributes.RulePublic, attributes.FamilyProblem,
			Reply{Status: 400, Message: "the path holds an encoded slash"}),
		trick(Match{Regex: `.*(;|\\|%5[cC]|%00|%3[bB]|#|%23).*`}, attributes.RuleAuthenticated, attributes.FamilyProblem,
			Reply{Status: 400, Message: "the path holds a character that is not accepted"}),
		trick(Match{Connect: true}, attributes.RulePublic, attributes.FamilyProblem,
			Reply{Status: 405, Message: "this is no forward proxy", Allow: "GET, POST"}),
	}
}

const (
	// notEncoded is the rest of a path with a percent sign that two hexadecimal digits do not follow.
	notEncoded = `.*%([^0-9A-Fa-f].*|[0-9A-Fa-f]([^0-9A-Fa-f].*)?)?`
	// encoded is the rest of any other.
	encoded = `([^%]|%[0-9A-Fa-f]{2})*`
)

// escapes refuses a percent sign that encodes nothing (RFC 3986, 2.1), which services would refuse in
// a shape that is not ours.
func escapes() []Route {
	var routes []Route
	for _, p := range shapes() {
		routes = append(routes, trick(Match{Regex: regexp.QuoteMeta(p.prefix) + notEncoded}, attributes.RulePublic, p.family,
			Reply{Status: 400, Message: "the path holds a percent sign that encodes nothing"}))
	}
	return routes
}
