package ratelimit

import (
	"context"
	"log/slog"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/llmcall"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// benchService is a service with the built-in limits.
func benchService(tb testing.TB) *Service {
	tb.Helper()
	set, err := limits.Load("")
	if err != nil {
		tb.Fatal(err)
	}
	client, prefix := testenv.Redis(tb)
	s, err := New(Config{Policy: Policy{Limits: set, Outage: config.Outage{DialTimeout: 10 * time.Second, Timeout: 10 * time.Second},
		Providers: map[string]config.Provider{"openai": {Protocol: config.ProtocolOpenAI, TokensPerByte: 0.25, OutputFill: 256}}},
		RedisURL: "redis://" + client.Options().Addr, Prefix: prefix, Publisher: &Stream{}, Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Timeout: 10 * time.Second, Longest: time.Minute, Holds: config.Holds{SettledKept: time.Minute}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// message encodes a request as Envoy sends it.
func message(tb testing.TB, r *rls.RateLimitRequest) string {
	tb.Helper()
	wire, err := proto.Marshal(r)
	if err != nil {
		tb.Fatal(err)
	}
	return string(wire)
}

// decide decides one request as for a batch of one.
func (s *Service) decide(ctx context.Context, message string) envoyCall {
	e := s.enterEnvoy(s.policy.Load(), message, nil, false)
	s.decideCall(ctx, &e)
	return e
}

// decideCall decides a call whose limits are found.
func (s *Service) decideCall(ctx context.Context, e *envoyCall) {
	s.admit(ctx, []*admission{&e.admission})
	if e.err == nil && e.answer == nil {
		e.answer = s.response(e)
	}
}

// TestAbandonedCallGivesBack is a hold that came to stand when Envoy had given up.
func TestAbandonedCallGivesBack(t *testing.T) {
	t.Parallel()
	s := benchService(t)
	d := s.decide(t.Context(), message(t, llmcall.Request()))
	if d.err != nil {
		t.Fatal(d.err)
	}
	held := func() float64 {
		seen, err := s.store.ReadState(t.Context(), d.call.Account, nil, d.matched.Buckets[:1])
		if err != nil {
			t.Fatal(err)
		}
		return seen.States[0].Level()
	}
	if got := held(); got != 1262 {
		t.Fatalf("want 1262 tokens held, got %g", got)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	s.giveBack(gone, d.take)
	if got := held(); got != 0 {
		t.Errorf("want nothing held for an abandoned call, got %g", got)
	}
}

// FuzzFacts gives every fact any text: the answer is an error, a refusal or a hold with
// sane numbers, and always a message Envoy can read.
func FuzzFacts(f *testing.F) {
	f.Add("id-1", "openai", "gpt-4o", "100", "-", "1", "true", "-", "4096", "u", "-", "k", "USER")
	f.Add("id-2", "gemini", "openai/x", "-1", "2147483648", "129", "TRUE", "x", "-9", "{}", "\x00", "\xff", "")
	s := benchService(f)
	f.Fuzz(func(t *testing.T, id, provider, model, most, completion, n, stream, usage, bytes, user, org, key, tier string) {
		r := &match.Request{Domain: "leaky", Descriptors: []match.Descriptor{
			{{Key: attributes.Hold, Value: id}, {Key: attributes.Provider, Value: provider}, {Key: attributes.Model, Value: model},
				{Key: attributes.MaxTokens, Value: most},
				{Key: attributes.MaxCompletionTokens, Value: completion}, {Key: attributes.N, Value: n}, {Key: attributes.Stream, Value: stream},
				{Key: attributes.IncludeUsage, Value: usage},
				{Key: attributes.Bytes, Value: bytes}, {Key: attributes.User, Value: user}, {Key: attributes.Org, Value: org},
				{Key: attributes.Key, Value: key}, {Key: attributes.Tier, Value: tier}},
			{{Key: "count", Value: "tokens"}, {Key: "user", Value: user}, {Key: "provider", Value: provider}},
			{{Key: "count", Value: "requests"}, {Key: "user", Value: user}}}}
		var d envoyCall
		s.findLimits(s.policy.Load(), r, &d)
		if s.decideCall(t.Context(), &d); d.err != nil {
			return
		}
		var got rls.RateLimitResponse
		if err := proto.Unmarshal(d.answer.Message(), &got); err != nil {
			t.Fatalf("answer %q: %v", d.answer.Message(), err)
		}
		held := got.GetDynamicMetadata().GetFields()["held"].GetNumberValue()
		if got.GetOverallCode() == rls.RateLimitResponse_OK && (held < 0 || held > 1e6) {
			t.Errorf("held %g", held)
		}
	})
}

// BenchmarkDecide is one LLM request from wire to wire, Redis included, gRPC not.
func BenchmarkDecide(b *testing.B) {
	s := benchService(b)
	text := message(b, llmcall.Request())
	b.ReportAllocs()
	for b.Loop() {
		d := s.decide(b.Context(), text)
		if d.err != nil {
			b.Fatal(d.err)
		}
		if len(d.answer.Message()) == 0 {
			b.Fatal("no answer")
		}
	}
}
