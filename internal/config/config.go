// Package config is leaky.yaml: what every service reads at start, decoded strictly.
// A mistake is reported with line, column, the key, and what would fix it.
package config

import "time"

// Config is the whole of leaky.yaml. Every key has a default; {} is a whole file.
type Config struct {
	Gateway   Gateway             `yaml:"gateway"`
	Envoy     Envoy               `yaml:"envoy"`
	Services  Services            `yaml:"services"`
	Stores    Stores              `yaml:"stores"`
	Providers map[string]Provider `yaml:"providers"` // by name: openai, gemini, qwen, ...
	Models    []Model             `yaml:"models"`
	Tiers     Tiers               `yaml:"tiers"`
	Limits    Limits              `yaml:"limits"`
	Holds     Holds               `yaml:"holds"`
	Charge    Charge              `yaml:"charge"`
	Auth      Auth                `yaml:"auth"`
	Flags     Flags               `yaml:"flags"`
	TLS       TLS                 `yaml:"tls"`
	Purchases Purchases           `yaml:"purchases"`
	Pools     Pools               `yaml:"pools"`
	Prices    Prices              `yaml:"prices"`

	Discovery  Discovery  `yaml:"discovery"`
	Analytics  Analytics  `yaml:"analytics"`
	Dimensions Dimensions `yaml:"dimensions"` // what calls say of themselves, for the books
	Monitoring Monitoring `yaml:"monitoring"`
	Logs       Logs       `yaml:"logs"`
	Tracing    Tracing    `yaml:"tracing"`
	Webhooks   []Webhook  `yaml:"webhooks"`
}

// Gateway is Envoy's public listener.
type Gateway struct {
	Listen            string        `yaml:"listen"`              // host:port, default 127.0.0.1:8080
	TrustedHops       int           `yaml:"trusted_hops"`        // proxies in front whose X-Forwarded-For counts, 0 to 10
	MaxBodyBytes      int           `yaml:"max_body_bytes"`      // 1 KiB to 64 MiB, default 20 MiB; larger is 413
	InflightBytes     int           `yaml:"inflight_bytes"`      // of one caller's bodies on their way at once, per worker; 0: eight times max_body_bytes
	FirstByteTimeout  time.Duration `yaml:"first_byte_timeout"`  // longest wait for a provider's answer to begin, default 10m
	StreamIdleTimeout time.Duration `yaml:"stream_idle_timeout"` // longest silence of a streamed call, default 5m
	MaxStreamDuration time.Duration `yaml:"max_stream_duration"` // longest call, default 10m; holds outlive it
	RequestHeaders    int           `yaml:"max_request_headers"` // different names, default 100; more is 431

	Fallback  string           `yaml:"fallback"` // where Envoy takes calls that go on at another model: unix:path or loopback, default unix:run/fallback.sock
	Egress    string           `yaml:"egress"`   // where tokensvc's calls to providers enter Envoy: unix:path or loopback, default unix:run/egress.sock
	RateLimit GatewayRateLimit `yaml:"rate_limit"`
	TLS       GatewayTLS       `yaml:"tls"`
	CORS      CORS             `yaml:"cors"` // web pages that may call models and the API
}

// Envoy is how Envoy runs beside us.
type Envoy struct {
	Admin       string `yaml:"admin"`       // unix:path or loopback, default unix:run/admin.sock: it has no credentials
	Metrics     string `yaml:"metrics"`     // host:port of /stats/prometheus and /ready, default 127.0.0.1:9901
	Concurrency int    `yaml:"concurrency"` // worker threads; 0: one per core
	Connections int    `yaml:"connections"` // clients at once, default 20000; never more than 3/4 of the descriptors
	MaxHeap     int64  `yaml:"max_heap"`    // bytes, default 1 GiB; near it the largest streams are reset
	Spool       string `yaml:"spool"`       // usage log, relative to the state folder; default spool/usage.jsonl
}

// Endpoint is where one service listens.
type Endpoint struct {
	HTTP string `yaml:"http"` // host:port
	GRPC string `yaml:"grpc"` // host:port or unix:path (relative to the state folder)
	// Inner is where other parts call the HTTP side of identity, tokensvc, analytics and the console;
	// what is at HTTP then is health, metrics and documents, and the console's pages. Default unix:run/NAME.sock, and in TLS mode
	// mutual none: certificates guard HTTP.
	Inner string `yaml:"inner"`
	// Replicas are further processes of the service, which share its work, if package topology
	// says that it may have any. They are named like ratelimit-2.
	Replicas []Replica `yaml:"replicas"`
}

// Services are the addresses of the parts; loopback by default.
type Services struct {
	XDS        Endpoint `yaml:"xds"`
	Identity   Endpoint `yaml:"identity"`
	ExtAuthz   Endpoint `yaml:"extauthz"`
	RateLimit  Endpoint `yaml:"ratelimit"`
	Meter      Endpoint `yaml:"meter"`
	TokenSvc   Endpoint `yaml:"tokensvc"`
	Analytics  Endpoint `yaml:"analytics"`
	Console    Endpoint `yaml:"console"`
	StubOpenAI Endpoint `yaml:"stub_openai"`
	StubGemini Endpoint `yaml:"stub_gemini"`
	StubQwen   Endpoint `yaml:"stub_qwen"`

	StubPayment Endpoint `yaml:"stub_payment"`
}

// Stores are URLs. The environment wins: LEAKY_POSTGRES_URL, LEAKY_REDIS_URL,
// LEAKY_NATS_URL, LEAKY_CLICKHOUSE_URL. An empty one is started by leaky up.
type Stores struct {
	Postgres   string `yaml:"postgres"`
	Redis      string `yaml:"redis"`
	NATS       string `yaml:"nats"`
	ClickHouse string `yaml:"clickhouse"`
}

// Protocol is what a provider speaks.
type Protocol string

// What providers speak.
const (
	ProtocolOpenAI    Protocol = "openai" // also Qwen's compatible mode
	ProtocolAnthropic Protocol = "anthropic"
	ProtocolGemini    Protocol = "gemini"
)

// Provider is one upstream.
type Provider struct {
	Preset         string        `yaml:"preset"` // a provider that is known: groq, mistral, deepseek, ...; it fills in what is not stated
	Protocol       Protocol      `yaml:"protocol"`
	URL            string        `yaml:"url"`             // http(s)://host[:port][/prefix]; LEAKY_PROVIDER_<NAME>_URL wins
	APIKeyEnv      string        `yaml:"api_key_env"`     // environment variable with the provider's own key; empty: none is sent
	APIKeyFile     string        `yaml:"api_key_file"`    // or the file that holds it, or a folder with a file of the provider's name; relative to leaky.yaml, read again while running
	APIKeyHeader   string        `yaml:"api_key_header"`  // header that carries the key, default by the protocol
	Keys           []ProviderKey `yaml:"keys"`            // several keys in place of one
	Unlisted       bool          `yaml:"unlisted"`        // PROVIDER/NAME calls models that stand nowhere here, default false
	ConnectTimeout time.Duration `yaml:"connect_timeout"` // default 2s
	MaxRequests    int           `yaml:"max_requests"`    // circuit breaker: calls at once, default 1024
	MaxPending     int           `yaml:"max_pending"`     // circuit breaker: calls waiting for a connection, default 256
	Retries        int           `yaml:"retries"`         // further attempts after 429 or 5xx before an answer began, 0 to 5, default 0
	RetryBudget    int           `yaml:"retry_budget"`    // percent of the calls under way that may be repeated ones, default 20
	Outlier        Outlier       `yaml:"outlier"`         // when it is left alone for a while
	TokensPerByte  float64       `yaml:"tokens_per_byte"` // input bound, > 0 to 1, default 1: the ceiling of any tokenizer
	LearnInput     bool          `yaml:"learn_input"`     // holds for inputs follow what the model was seen to take, default false
	OutputFill     int64         `yaml:"fill_max_tokens"` // most that is written into a call without a maximum; default the model's max_output
	BytesPerToken  float64       `yaml:"bytes_per_token"` // answer bytes per token of a stream without text until one is learned, default 200

	Parts         map[string]Part `yaml:"parts"`                                                                   // what a part of each kind is held at, for models that say nothing else
	MaxTokensName string          `yaml:"max_tokens_name" jsonschema:"enum=max_tokens,enum=max_completion_tokens"` // max_tokens or max_completion_tokens; default by the model's name
	MaxTokens     MaxTokensMode   `yaml:"max_tokens"`                                                              // for calls without a maximum; default limits.max_tokens
	StreamOptions *bool           `yaml:"stream_options"`                                                          // false: it refuses stream_options, default true
	Headers       []string        `yaml:"headers"`                                                                 // further request headers that it gets, lower-case
	Query         []string        `yaml:"query"`                                                                   // query parameters that it gets

	ConsumePath string         `yaml:"consume_path"` // path that POST /api/v1/tokens/consume calls, default /api/v1/NAME/chat
	Egress      ProviderEgress `yaml:"egress"`       // bounds of those calls
}

// Model is one model name and who serves it.
type Model struct {
	Name     string `yaml:"name"` // as clients ask for it; they may write PROVIDER/NAME too; gpt-4o* is every name that begins so
	Provider string `yaml:"provider"`
	Model    string `yaml:"model"` // as the provider calls it, default the name
	// Fallback are models that answer where this one's provider does not: it is down, out of quota
	// or refuses our key. They are of the same protocol and kind, and tried in this order.
	Fallback  []string `yaml:"fallback"`
	MaxOutput int64    `yaml:"max_output"`                                                                        // most output tokens the model gives, default by its name, else 16384; of a picture or a speech, what each is held at
	Kind      string   `yaml:"kind" jsonschema:"enum=chat,enum=embedding,enum=moderation,enum=image,enum=speech"` // chat (default), embedding, moderation, image or speech

	Parts         map[string]Part `yaml:"parts"`                                                                   // what a part of each kind is held at; default the provider's
	MaxTokensName string          `yaml:"max_tokens_name" jsonschema:"enum=max_tokens,enum=max_completion_tokens"` // default the provider's, else by the model's name
	MaxTokens     MaxTokensMode   `yaml:"max_tokens"`                                                              // for calls without a maximum; default the provider's
}

// Tiers map roles to multipliers (contract: the tier with the highest priority wins).
type Tiers struct {
	Default string          `yaml:"default"` // default USER
	Levels  map[string]Tier `yaml:"levels"`
}

// Tier scales the rules that ask for it.
type Tier struct {
	Priority int     `yaml:"priority"`                                                     // >= 0
	Capacity float64 `yaml:"bucket_capacity_multiplier"`                                   // > 0, default 1
	LeakRate float64 `yaml:"bucket_leak_rate_multiplier"`                                  // > 0, default 1
	Balance  string  `yaml:"balance" jsonschema:"enum=if_present,enum=required,enum=none"` // if_present (default), required or none
	QuotaMax int64   `yaml:"quota_max_tokens"`                                             // most tokens that a pool may hold after a purchase, default 0: no bound
}

// Limits says where the descriptors are.
type Limits struct {
	File      string        `yaml:"file"`         // envoyproxy/ratelimit's YAML; relative to leaky.yaml; empty: the built-in deploy/limits.yaml
	Domains   []string      `yaml:"domains"`      // files of other domains, which other Envoys ask in; relative to leaky.yaml
	Envoys    OtherEnvoys   `yaml:"envoys"`       // where those ask
	Idle      time.Duration `yaml:"idle_after"`   // a rule that matched nothing for so long is reported, default 1h
	Timeout   time.Duration `yaml:"timeout"`      // Envoy waits so long for a decision, default 1500ms
	Outage    Outage        `yaml:"outage"`       // what happens while limits can't be decided
	Explain   int           `yaml:"explain_last"` // decisions that each process keeps for `leaky explain`, 0 to 1 000 000, default 2000
	MaxTokens MaxTokens     `yaml:"max_tokens"`   // for calls that state no maximum
}

// Holds is what happens to a hold that nobody settles.
type Holds struct {
	Expiry      string        `yaml:"expiry" jsonschema:"enum=charge,enum=release"` // "charge" (default) or "release"
	Life        time.Duration `yaml:"life"`                                         // longest that a hold lives without a sign of life, default 10m
	Margin      time.Duration `yaml:"margin"`                                       // and so much more, default 1m
	SweepEvery  time.Duration `yaml:"sweep_every"`                                  // default 30s
	SettledKept time.Duration `yaml:"settled_kept"`                                 // a settled hold is remembered so long, default 10m
}
