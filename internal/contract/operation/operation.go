// Package operation is what a caller may ask a model for: the calls of the providers' APIs that
// pass through the gateway. xds makes routes of them, the guard (envoy/guard.lua) reads their
// bodies by dialect, and ratelimit learns from a route's name how the call is bounded and in whose
// shape it is refused.
package operation

import (
	"cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// Kinds of models. An operation is served by the models of its kind alone.
const (
	KindChat       = "chat"
	KindEmbedding  = "embedding"
	KindModeration = "moderation"
	KindImage      = "image"  // makes pictures
	KindSpeech     = "speech" // makes sound of texts
	KindAny        = ""
)

// Dialects are the shapes of request bodies that the guard reads.
const (
	DialectChat        = "chat" // OpenAI chat completions and embeddings
	DialectCompletions = "completions"
	DialectResponses   = "responses"
	DialectModerations = "moderations"
	DialectMessages    = "messages" // Anthropic
	DialectCount       = "count"
	DialectGemini      = "gemini"
	DialectGeminiEmbed = "gemini-embed"
	DialectGeminiBatch = "gemini-batch"
	DialectGeminiCount = "gemini-count"
)

// Operation is one call of a provider's API.
type Operation struct {
	Name     string // of its routes, in limits and reports
	Family   string // shape of its errors
	Dialect  string
	Kind     string // of the models that serve it
	Path     string // what a caller asks for; with Gemini the verb behind the model's name
	Upstream string // the same behind the base path of a provider; empty with Gemini: Path
	// Provider is the only one that serves it; empty: every one that speaks the family's protocol.
	Provider string
	// Maximum is the member that states the most output tokens, where the API has one alone;
	// empty: as the model takes it.
	Maximum string
	// Default is how many output tokens the API gives to a call that states no maximum; 0: as
	// many as the model has.
	Default int64
	// Asks says that a stream tells its usage if stream_options asks for it.
	Asks bool
	// States says that the API refuses a call without a maximum.
	States bool
	// NoOutput says that no tokens are generated of which a call states the most.
	NoOutput bool
	// PerItem says that what is generated are items (pictures, sound), each held at the model's
	// max_output, and charged so where the provider tells no tokens.
	PerItem bool
	// Free says that it takes no tokens: requests alone are counted.
	Free bool
	// Stream says that the path asks for a stream.
	Stream bool
}

// Members that state a maximum of output tokens beside those of package attributes.
const MaxOutputTokens = "max_output_tokens"

// Names that more than the routes know.
const (
	Embeddings = "openai-embeddings"
	QwenChat   = "qwen-chat"
	images     = "openai-images"
	speech     = "openai-speech"
)

// All are the operations, in the order of their routes.
func All() []Operation {
	const openai, anthropic, gemini = attributes.FamilyOpenAI, attributes.FamilyAnthropic, attributes.FamilyGemini
	return []Operation{
		{Name: "openai-chat", Family: openai, Dialect: DialectChat, Kind: KindChat, Path: "/v1/chat/completions",
			Upstream: "/chat/completions", Asks: true},
		{Name: Embeddings, Family: openai, Dialect: DialectChat, Kind: KindEmbedding, Path: "/v1/embeddings",
			Upstream: "/embeddings", NoOutput: true},
		{Name: QwenChat, Family: openai, Dialect: DialectChat, Kind: KindChat, Path: "/compatible-mode/v1/chat/completions",
			Upstream: "/chat/completions", Provider: "qwen", Asks: true},
		{Name: "openai-responses", Family: openai, Dialect: DialectResponses, Kind: KindChat, Path: "/v1/responses",
			Upstream: "/responses", Maximum: MaxOutputTokens},
		// https://platform.openai.com/docs/api-reference/completions/create: 16 tokens by default.
		{Name: "openai-completions", Family: openai, Dialect: DialectCompletions, Kind: KindChat, Path: "/v1/completions",
			Upstream: "/completions", Maximum: attributes.MaxTokens, Default: 16, Asks: true},
		{Name: "openai-moderations", Family: openai, Dialect: DialectModerations, Kind: KindModeration, Path: "/v1/moderations",
			Upstream: "/moderations", NoOutput: true, Free: true},
		{Name: images, Family: openai, Dialect: DialectChat, Kind: KindImage, Path: "/v1/images/generations",
			Upstream: "/images/generations", NoOutput: true, PerItem: true},
		{Name: speech, Family: openai, Dialect: DialectChat, Kind: KindSpeech, Path: "/v1/audio/speech",
			Upstream: "/audio/speech", NoOutput: true, PerItem: true},
		{Name: "anthropic-messages", Family: anthropic, Dialect: DialectMessages, Kind: KindChat, Path: "/v1/messages",
			Upstream: "/messages", Maximum: attributes.MaxTokens, States: true},
		{Name: "anthropic-count", Family: anthropic, Dialect: DialectCount, Kind: KindChat, Path: "/v1/messages/count_tokens",
			Upstream: "/messages/count_tokens", NoOutput: true, Free: true},
		{Name: "gemini-generate", Family: gemini, Dialect: DialectGemini, Kind: KindChat, Path: ":generateContent",
			Maximum: attributes.MaxOutputTokens},
		{Name: "gemini-stream", Family: gemini, Dialect: DialectGemini, Kind: KindChat, Path: ":streamGenerateContent",
			Maximum: attributes.MaxOutputTokens, Stream: true},
		{Name: "gemini-embed", Family: gemini, Dialect: DialectGeminiEmbed, Kind: KindEmbedding, Path: ":embedContent", NoOutput: true},
		{Name: "gemini-embed-batch", Family: gemini, Dialect: DialectGeminiBatch, Kind: KindEmbedding, Path: ":batchEmbedContents",
			NoOutput: true},
		{Name: "gemini-count", Family: gemini, Dialect: DialectGeminiCount, Kind: KindAny, Path: ":countTokens", NoOutput: true,
			Free: true},
	}
}

// PerItem reports whether a route of this name generates items: see Operation.PerItem.
func PerItem(route string) bool { return route == images || route == speech }

// ByName are the operations by the names of their routes.
func ByName() map[string]Operation {
	all := map[string]Operation{}
	for _, o := range All() {
		all[o.Name] = o
	}
	return all
}

// Serves reports whether a model of the kind and provider serves the operation; one without a kind
// is for chats.
func (o Operation) Serves(kind, provider string) bool {
	return (o.Kind == KindAny || o.Kind == cmp.Or(kind, KindChat)) && (o.Provider == "" || o.Provider == provider)
}
