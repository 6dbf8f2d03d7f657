// Package llmcall is for tests beside the request path: an LLM call as our Envoy describes
// it to ratelimit.
package llmcall

import (
	"slices"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// Request is a streamed chat of a user without organisation: the facts, then a descriptor for
// tokens and one for requests.
func Request() *rls.RateLimitRequest {
	pairs := func(kv ...string) *common.RateLimitDescriptor {
		d := &common.RateLimitDescriptor{}
		for pair := range slices.Chunk(kv, 2) {
			d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: pair[0], Value: pair[len(pair)-1]})
		}
		return d
	}
	const user = "7b0c1f2e-0a51-4d8c-9a37-2f1f5b6c7d8e"
	return &rls.RateLimitRequest{Domain: "leaky", HitsAddend: 1, Descriptors: []*common.RateLimitDescriptor{
		pairs(attributes.Hold, "3d9c0f7a-33a1-4ba1-8a26-5d6f1e0c9b8a", attributes.Route, "openai-chat", attributes.Provider, "openai",
			attributes.Model, "gpt-4o",
			attributes.MaxTokens, "-", attributes.MaxCompletionTokens, "-", attributes.N, "-", attributes.Stream, "true", attributes.IncludeUsage,
			"-", attributes.Bytes, "4096",
			attributes.User, user, attributes.Org, "-", attributes.Key, "1f2e3d4c-0a51-4d8c-9a37-2f1f5b6c7d8e", attributes.Tier, "USER"),
		pairs("count", "tokens", "user", user, "provider", "openai"),
		pairs("count", "requests", "user", user),
	}}
}
