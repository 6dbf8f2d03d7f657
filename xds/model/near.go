package model

import (
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// near answers those who were told a wrong base URL: paths that lack /v1 or have it twice, or end in
// a slash, say which one was meant. None of them is served, so that each path has one name in limits
// and books.
func near(routes []Route) []Route {
	taken := map[string]bool{}
	for _, r := range routes {
		taken[r.Match.Path] = true
	}
	var out []Route
	mean := func(m Match, path, family string) {
		if m.Path == "" || !taken[m.Path] {
			taken[m.Path] = m.Path != ""
			out = append(out, Route{Name: "unknown", Match: m, Rule: attributes.RuleAuthenticated, Family: family,
				Reply: &Reply{Status: 404, Message: "no such path: did you mean " + path + "?"}})
		}
	}
	for _, r := range routes {
		path := r.Match.Path
		at := strings.Index(path, "/v1/")
		if r.Family != attributes.FamilyOpenAI || at < 0 || strings.Contains(path, ":") {
			continue
		}
		head, tail := path[:at], path[at+len("/v1"):]
		for _, wrong := range []string{path + "/", head + tail, head + tail + "/", head + "/v1/v1" + tail, head + "/v1/v1" + tail + "/"} {
			mean(Match{Path: wrong}, path, r.Family)
		}
	}
	const generate = "/v1beta/models/MODEL:generateContent"
	for _, prefix := range []string{"/v1beta/v1beta/", "/v1/v1beta/", "/v1beta/v1/", "/v1alpha/", "/models/"} {
		mean(Match{Prefix: prefix}, generate, attributes.FamilyGemini)
	}
	for _, prefix := range []string{"/openai/", "/v1/openai/"} { // as Azure has them
		mean(Match{Prefix: prefix}, "/v1/chat/completions", attributes.FamilyOpenAI)
	}
	return out
}
