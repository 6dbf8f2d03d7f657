package ratelimit_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// thousand is a bucket of 1000 tokens that hardly leaks and one of requests.
const thousand = `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        rate_limit: {name: user-tokens, unit: day, requests_per_unit: 1}
        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000, unit: tokens, scale: tier}}
  - key: count
    value: requests
    descriptors:
      - key: user
        rate_limit: {name: user-requests, unit: minute, requests_per_unit: 6000}
        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 600, unit: requests}}
      - {key: remote_address, rate_limit: {name: per-address, unit: hour, requests_per_unit: 3}}
`

// published remembers events; it can be told to fail.
type published struct {
	mu     sync.Mutex
	events []usage.Event
	tried  int
	err    error
	never  map[string]bool // requests whose events are refused
}

func (p *published) Publish(_ context.Context, e usage.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried++
	if p.never[e.RequestID] {
		return errors.New("refused")
	}
	if p.err == nil {
		p.events = append(p.events, e)
	}
	return p.err
}

func (p *published) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *published) all() []usage.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]usage.Event(nil), p.events...)
}

// env is a service on a Unix socket with clients of both its APIs.
type env struct {
	service *ratelimit.Service
	envoy   rls.RateLimitServiceClient
	limiter limitpb.LimiterClient
	events  *published
	series  prometheus.Gatherer // of an outage's service
}

type option func(*ratelimit.Config)

// inAnHour is a clock that stands: a window of an hour does not end in the middle of a test.
func inAnHour(c *ratelimit.Config) { c.Now = func() int64 { return 1_800_000_000_000_000 } }

func start(tb testing.TB, text string, options ...option) *env {
	tb.Helper()
	set, err := limits.Parse([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	client, prefix := testenv.Redis(tb)
	e := &env{events: &published{}}
	c := ratelimit.Config{RedisURL: "redis://" + client.Options().Addr, Prefix: prefix, Publisher: e.events,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Timeout: 10 * time.Second, Longest: 10 * time.Minute,
		Holds: config.Holds{Margin: time.Minute, SettledKept: time.Minute, Expiry: "charge"},
	}
	c.Policy = ratelimit.Policy{Limits: set, Outage: config.Outage{DialTimeout: 10 * time.Second, Timeout: 10 * time.Second},
		Tiers: config.Tiers{Default: "USER", Levels: map[string]config.Tier{"USER": {Capacity: 1, LeakRate: 1},
			"GOLD": {Capacity: 4, LeakRate: 4}}},
		Providers: map[string]config.Provider{
			"openai": {Protocol: config.ProtocolOpenAI, TokensPerByte: 0.25, OutputFill: 256},
			"gemini": {Protocol: config.ProtocolGemini, TokensPerByte: 0.25, OutputFill: 256},
		},
		Models: []config.Model{{Name: "gpt-4o", Provider: "openai", MaxOutput: 16384}, {Name: "embed", Provider: "openai", Kind: "embedding"}},
	}
	for _, o := range options {
		o(&c)
	}
	if e.service, err = ratelimit.New(c); err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(tb.TempDir(), "s"))
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- e.service.Listen(ctx, ln) }()
	conn, err := grpc.NewClient("unix:"+ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
		e.service.Close()
	})
	e.envoy, e.limiter = rls.NewRateLimitServiceClient(conn), limitpb.NewLimiterClient(conn)
	return e
}

// ask is an LLM request as Envoy describes it.
type ask struct {
	id, user, org, tier, provider, model    string
	maxTokens, maxCompletion, n, stream, iu string
	parts                                   string
	prompt                                  int // bytes
	address                                 string
}

// body is the request's JSON, as short as it can be.
func (a ask) body() string {
	text := strings.Repeat("x", a.prompt)
	if a.provider == "gemini" {
		config := ""
		if a.maxTokens != "" {
			config = `"generationConfig":{"maxOutputTokens":` + a.maxTokens + `},`
		}
		return `{` + config + `"contents":[{"parts":[{"text":"` + text + `"}]}]}`
	}
	var more strings.Builder
	for _, m := range []struct{ name, value string }{{"max_tokens", a.maxTokens}, {"max_completion_tokens", a.maxCompletion}, {"n", a.n},
		{"stream", a.stream}} {
		if m.value != "" {
			more.WriteString(`,"` + m.name + `":` + m.value)
		}
	}
	if a.iu != "" {
		more.WriteString(`,"stream_options":{"include_usage":` + a.iu + `}`)
	}
	model, _ := json.Marshal(or(a.model, "gpt-4o"))
	if a.model == "embed" {
		return `{"model":` + string(model) + `,"input":"` + text + `"` + more.String() + `}`
	}
	return `{"model":` + string(model) + `,"messages":[{"role":"user","content":"` + text + `"}]` + more.String() + `}`
}

func entry(key, value string) *common.RateLimitDescriptor_Entry {
	return &common.RateLimitDescriptor_Entry{Key: key, Value: value}
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func (a ask) request() *rls.RateLimitRequest {
	const no = attributes.Absent
	first := &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{
		entry(attributes.Hold, or(a.id, uuid.NewString())), entry(attributes.Route, "openai-chat"), entry(attributes.Provider,
			or(a.provider, "openai")),
		entry(attributes.Model, or(a.model, "gpt-4o")), entry(attributes.MaxTokens, or(a.maxTokens, no)), entry(attributes.MaxCompletionTokens,
			or(a.maxCompletion, no)),
		entry(attributes.N, or(a.n, no)), entry(attributes.Stream, or(a.stream, no)), entry(attributes.IncludeUsage, or(a.iu, no)),
		entry(attributes.Bytes, strconv.Itoa(len(a.body()))), entry(attributes.Parts, or(a.parts, no)), entry(attributes.User, or(a.user, "ann")), entry(attributes.Org, or(a.org, no)),
		entry(attributes.Key, "key-1"), entry(attributes.Tier, or(a.tier, "USER")),
	}}
	return &rls.RateLimitRequest{Domain: "leaky", Descriptors: []*common.RateLimitDescriptor{first,
		{Entries: []*common.RateLimitDescriptor_Entry{entry("count", "tokens"), entry("user", or(a.user, "ann"))}},
		{Entries: []*common.RateLimitDescriptor_Entry{entry("count", "requests"), entry("user", or(a.user, "ann"))}},
		{Entries: []*common.RateLimitDescriptor_Entry{entry("count", "requests"), entry("remote_address", or(a.address, no))}},
	}}
}

func (e *env) ask(tb testing.TB, a ask) *rls.RateLimitResponse {
	tb.Helper()
	r, err := e.envoy.ShouldRateLimit(tb.Context(), a.request())
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func (e *env) settle(tb testing.TB, account, id string, charged int64) *limitpb.Settled {
	tb.Helper()
	r, err := e.limiter.Settle(tb.Context(), &limitpb.SettleRequest{Settlements: []*limitpb.Settlement{{Account: account, RequestId: id,
		Charged: charged}}})
	if err != nil {
		tb.Fatal(err)
	}
	return r.GetSettled()[0]
}

// level is a user's token bucket.
func (e *env) level(tb testing.TB, user string) *limitpb.Bucket {
	tb.Helper()
	r, err := e.limiter.GetAccountState(tb.Context(), &limitpb.GetAccountStateRequest{Account: "user:" + user,
		Descriptors: []*limitpb.Descriptor{{Entries: []*limitpb.Entry{{Key: "count", Value: "tokens"}, {Key: "user", Value: user}}}}})
	if err != nil {
		tb.Fatal(err)
	}
	return r.GetBuckets()[0]
}

func headers(r *rls.RateLimitResponse) map[string]string {
	out := map[string]string{}
	for _, h := range r.GetResponseHeadersToAdd() {
		out[h.GetKey()] = h.GetValue()
	}
	return out
}
