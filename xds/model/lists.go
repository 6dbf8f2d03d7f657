package model

import (
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// slashed is the path of a model whose name has slashes, which SDKs encode as they do a space and
// ()+,:=@. No part of it begins with a dot, so that nobody reads it as a way up. Envoy takes
// expressions of a hundred steps, hence the ranges.
const slashed = `/v1(beta)?/models/` + named + `(%(2[0289bBcCfF]|3[aAdD]|40)` + named + `)+(\?.*)?`

// named is a part of a name.
const named = `[0-:@-Z_a-z~][(-.0-:=@-Z_a-z~]*`

// modelLists are the lists of models and single models, in the shape of the SDK that asks.
// Gemini's SDKs may ask for /v1/models as OpenAI's do: they are known by their key or by what
// they call themselves, Anthropic's by the version that they ask for. tokensvc answers, who
// knows what a caller may call; each shape has a path of its own there.
// like is an expression for the path; empty: any.
func modelLists(like string) []Route {
	const path, gemini, rule = "/v1/models", "/v1beta/models", attributes.RuleAuthenticated
	var routes []Route
	both := func(name, family string, match Match, asked, to string) {
		for _, m := range []Match{{Path: asked}, {Prefix: asked + "/"}} {
			m.Method, m.Header, m.Parameter, m.Like = "GET", match.Header, match.Parameter, like
			if like != "" && m.Path != "" {
				continue
			}
			forward := &Forward{Cluster: topology.TokenSvc, Timeout: serviceTimeout}
			if asked != to {
				forward.Path = to + strings.TrimPrefix(m.Path+m.Prefix, asked)
			}
			routes = append(routes, Route{Name: name, Match: m, Forward: forward, Rule: rule, Scope: listModels, Audience: topology.TokenSvc,
				Family: family})
		}
	}
	for _, told := range []Match{{Header: "x-goog-api-key"}, {Header: "x-goog-api-client"}, {Parameter: "key"}} {
		both("gemini-models", attributes.FamilyGemini, told, path, gemini)
	}
	both("gemini-models", attributes.FamilyGemini, Match{}, gemini, gemini)
	both("anthropic-models", attributes.FamilyAnthropic, Match{Header: "anthropic-version"}, path, "/anthropic"+path)
	both("openai-models", attributes.FamilyOpenAI, Match{}, path, path)
	if like != "" {
		return routes
	}
	return append(routes, notAllowed(path, attributes.FamilyOpenAI, "GET"), notAllowed(gemini, attributes.FamilyGemini, "GET"))
}

// refused is an endpoint of a provider's API that is not served, and what a caller does instead.
type refused struct{ prefix, family, message string }

// Why what a provider keeps is not served: it keeps it for the gateway, whoever of its callers
// asked for it.
const (
	keeps    = "what a provider keeps belongs to all callers of this gateway alike"
	uncount  = "is not served: nothing tells its tokens"
	chatHere = "POST /v1/chat/completions and /v1/responses are served"
)

// elsewhere answers for the rest of the providers' APIs, in the shape of the family, and says what
// is there instead.
func elsewhere() []Route {
	const openai, anthropic, gemini = attributes.FamilyOpenAI, attributes.FamilyAnthropic, attributes.FamilyGemini
	var routes []Route
	for _, r := range []refused{
		{"/v1/responses/", openai, "a response that is stored is not served, since " + keeps + ": send store: false and the whole input with POST /v1/responses"},
		{"/v1/conversations", openai, "conversations are not served, since " + keeps + ": send the whole input with POST /v1/responses"},
		{"/v1/chat/completions/", openai, "a completion that is stored is not served, since " + keeps + ": call POST /v1/chat/completions, without a slash behind it"},
		{"/v1/images", openai, "changing a picture by this path " + uncount + "; POST /v1/images/generations is served, and pictures are taken as parts of a message: " + chatHere},
		{"/v1/videos", openai, "an endpoint for films " + uncount + "; " + chatHere},
		{"/v1/audio", openai, "hearing sound by this path " + uncount + "; POST /v1/audio/speech is served, and sound is taken as input_audio of POST /v1/chat/completions"},
		{"/v1/realtime", openai, "realtime sessions are not served: nothing counts the tokens of a WebSocket; call POST /v1/responses with stream: true"},
		{"/v1/files", openai, "files are not served, since " + keeps + ": send the content within the request, " + chatHere},
		{"/v1/uploads", openai, "uploads are not served, since " + keeps + ": send the content within the request, " + chatHere},
		{"/v1/vector_stores", openai, "vector stores are not served, since " + keeps + ": POST /v1/embeddings is"},
		{"/v1/containers", openai, "containers are not served, since " + keeps + ": " + chatHere},
		{"/v1/batches", openai, "batches are not served: nothing limits their tokens; send each call by itself, " + chatHere},
		{"/v1/fine_tuning", openai, "fine-tuning is not served: nothing limits its tokens; " + chatHere},
		{"/v1/evals", openai, "evaluations are not served: nothing limits their tokens; " + chatHere},
		{"/v1/assistants", openai, "assistants are not served, since " + keeps + ": POST /v1/responses is"},
		{"/v1/threads", openai, "threads are not served, since " + keeps + ": POST /v1/responses is"},
		{"/v1/organization", openai, "a provider's account is not served; GET /api/v1/analytics/usage tells usage, and GET /api/v1/me who calls"},
		{"/v1/messages/batches", anthropic, "batches are not served: nothing limits their tokens; send each call with POST /v1/messages"},
		{"/v1/messages/", anthropic, "no such path: POST /v1/messages and /v1/messages/count_tokens are served"},
		{"/v1/embeddings/", openai, "no such path: POST /v1/embeddings is served, without a slash behind it"},
		{"/v1/completions/", openai, "no such path: POST /v1/completions is served, without a slash behind it"},
		{"/v1/complete", anthropic, "text completions of Anthropic are not served: POST /v1/messages is"},
		{"/v1beta/cachedContents", gemini, "cached contents are not served, since " + keeps + ": send the whole contents with :generateContent"},
		{"/v1beta/files", gemini, "files are not served, since " + keeps + ": send the content as inlineData with :generateContent"},
		{"/upload/", gemini, "files are not served, since " + keeps + ": send the content as inlineData with :generateContent"},
		{"/v1beta/batches", gemini, "batches are not served: nothing limits their tokens; send each call with :generateContent"},
		{"/v1beta/tunedModels", gemini, "tuned models are not served: name models by /v1beta/models/{model}"},
	} {
		routes = append(routes, Route{Name: "not-served", Match: Match{Prefix: r.prefix}, Rule: attributes.RuleAuthenticated, Family: r.family,
			Reply: &Reply{Status: 404, Message: r.message, Code: "unsupported_endpoint"}})
	}
	return routes
}

// unknown answers 404 to a caller who is known, in the shape of the path's family.
func unknown() []Route {
	const openai, gemini = attributes.FamilyOpenAI, attributes.FamilyGemini
	const list = "; docs/endpoints.md and GET /v3/api-docs list what is served"
	var routes []Route
	for _, u := range []struct{ prefix, family, message string }{
		{"/v1/v1/", openai, "no such path: the base URL holds /v1 twice; it is this gateway's address and /v1"},
		{"/chat/completions", openai, "no such path: did you mean /v1/chat/completions? The base URL is this gateway's address and /v1"},
		{"/responses", openai, "no such path: did you mean /v1/responses? The base URL is this gateway's address and /v1"},
		{"/embeddings", openai, "no such path: did you mean /v1/embeddings? The base URL is this gateway's address and /v1"},
		{"/completions", openai, "no such path: did you mean /v1/completions? The base URL is this gateway's address and /v1"},
		{"/models", openai, "no such path: did you mean /v1/models? The base URL is this gateway's address and /v1"},
		{"/messages", attributes.FamilyAnthropic, "no such path: did you mean /v1/messages? The base URL is this gateway's address"},
		{"/openai/deployments/", openai, "Azure's paths are not served: use an OpenAI client, whose base URL is this gateway's address and /v1"},
		{"/v1/", openai, "no such path" + list},
		{"/compatible-mode/", openai, "no such path: POST /compatible-mode/v1/chat/completions is served"},
		{"/v1beta/", gemini, "no such path" + list},
		{"/", attributes.FamilyProblem, "no such path"},
	} {
		routes = append(routes, Route{Name: "unknown", Match: Match{Prefix: u.prefix}, Rule: attributes.RuleAuthenticated, Family: u.family,
			Reply: &Reply{Status: 404, Message: u.message}})
	}
	return routes
}
