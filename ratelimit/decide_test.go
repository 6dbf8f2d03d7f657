package ratelimit

import (
	"context"
	"log/slog"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// llmRequest is an LLM request as Envoy sends it.
func llmRequest() *rls.RateLimitRequest {
	pairs := func(kv ...string) *common.RateLimitDescriptor {
		d := &common.RateLimitDescriptor{}
		for i := 0; i < len(kv); i += 2 {
			d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: kv[i], Value: kv[i+1]})
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

func TestRequestReadsAsGenerated(t *testing.T) {
	t.Parallel()
	want := llmRequest()
	wire, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, readBack(t, wire), protocmp.Transform()); diff != "" {
		t.Errorf("request differs (-generated +by hand):\n%s", diff)
	}
}

// readBack parses by hand and gives a generated message.
func readBack(tb testing.TB, wire []byte) *rls.RateLimitRequest {
	tb.Helper()
	var r request
	if err := r.parse(string(wire)); err != nil {
		tb.Fatal(err)
	}
	return r.generated()
}

func (r *request) generated() *rls.RateLimitRequest {
	out := &rls.RateLimitRequest{Domain: r.domain, HitsAddend: r.hits}
	for _, d := range r.descriptors {
		g := &common.RateLimitDescriptor{}
		for _, e := range d {
			g.Entries = append(g.Entries, &common.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
		}
		out.Descriptors = append(out.Descriptors, g)
	}
	return out
}

func TestResponseReadsAsGenerated(t *testing.T) {
	t.Parallel()
	r := newResponse(codeOverLimit)
	r.header("a", "1")
	r.header("b", "tab\tand\nbreak\u00e9")
	r.text("model", "gpt\xff")
	r.number("held", 256)
	r.body([]byte(`{"error":{}}`))
	var got rls.RateLimitResponse
	if err := proto.Unmarshal(r.message(), &got); err != nil {
		t.Fatal(err)
	}
	metadata, err := structpb.NewStruct(map[string]any{"model": "gpt\uFFFD", "held": 256.0})
	if err != nil {
		t.Fatal(err)
	}
	want := &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OVER_LIMIT, RawBody: []byte(`{"error":{}}`), DynamicMetadata: metadata,
		ResponseHeadersToAdd: []*core.HeaderValue{{Key: "a", Value: "1"}, {Key: "b", Value: "tab?and?break?"}}}
	if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
		t.Errorf("response differs (-want +got):\n%s", diff)
	}
}

// FuzzRequest compares with the generated types: what they refuse as malformed wire is
// refused or read as harmless, and what they read is read the same.
func FuzzRequest(f *testing.F) {
	wire, err := proto.Marshal(llmRequest())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add(wire[:len(wire)/2])
	f.Add([]byte("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x12\x04\x0a\x02\x0a\xff"))
	f.Add([]byte("\x0b\x0c\x15\x01\x02\x03\x04\x19\x01\x02\x03\x04\x05\x06\x07\x08"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		var r request
		err := r.parse(string(wire))
		var want rls.RateLimitRequest
		if proto.Unmarshal(wire, &want) != nil || err != nil {
			return
		}
		for i, d := range want.GetDescriptors() {
			hits, stated := int64(d.GetHitsAddend().GetValue()), d.GetHitsAddend() != nil || d.GetIsNegativeHits()
			if d.GetHitsAddend() == nil {
				hits = int64(max(1, want.GetHitsAddend()))
			}
			if d.GetIsNegativeHits() {
				hits = -hits
			}
			if got := (counting{own: r.own}).of(i); got.stated != stated || stated && got.hits != hits {
				t.Errorf("descriptor %d: want %d hits (stated: %t), got %+v", i, hits, stated, got)
			}
			d.Limit, d.HitsAddend, d.IsNegativeHits = nil, nil, false
			d.ProtoReflect().SetUnknown(nil)
			for _, e := range d.GetEntries() {
				e.ProtoReflect().SetUnknown(nil)
			}
		}
		want.ProtoReflect().SetUnknown(nil)
		if diff := cmp.Diff(&want, r.generated(), protocmp.Transform()); diff != "" {
			t.Errorf("request differs (-generated +by hand):\n%s", diff)
		}
	})
}

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

// TestAbandonedCallGivesBack is a hold that came to stand when Envoy had given up.
func TestAbandonedCallGivesBack(t *testing.T) {
	t.Parallel()
	s := benchService(t)
	var r request
	wire, err := proto.Marshal(llmRequest())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.parse(string(wire)); err != nil {
		t.Fatal(err)
	}
	if d := s.decideOne(t.Context(), &r); d.err != nil {
		t.Fatal(d.err)
	}
	c, err := s.policy.Load().readCall(r.descriptors[0])
	if err != nil {
		t.Fatal(err)
	}
	c.account = accountOf(c.org, c.user, nil)
	m := s.policy.Load().match(r.descriptors[1:], c.account, c.tier, counting{tokens: true, hits: 1})
	held := func() float64 {
		seen, err := s.store.Look(t.Context(), c.account, nil, m.buckets[:1])
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
	s.giveBack(gone, c)
	if got := held(); got != 0 {
		t.Errorf("want nothing held for an abandoned call, got %g", got)
	}
}

// decideOne decides as for a batch of one.
func (s *Service) decideOne(ctx context.Context, r *request) decision {
	d := []decision{s.prepare(s.policy.Load(), r)}
	s.decideAll(ctx, d)
	return d[0]
}

// FuzzFacts gives every fact any text: the answer is an error, a refusal or a hold with
// sane numbers, and always a message Envoy can read.
func FuzzFacts(f *testing.F) {
	f.Add("id-1", "openai", "gpt-4o", "100", "-", "1", "true", "-", "4096", "u", "-", "k", "USER")
	f.Add("id-2", "gemini", "openai/x", "-1", "2147483648", "129", "TRUE", "x", "-9", "{}", "\x00", "\xff", "")
	s := benchService(f)
	f.Fuzz(func(t *testing.T, id, provider, model, most, completion, n, stream, usage, bytes, user, org, key, tier string) {
		r := &request{domain: "leaky", descriptors: []descriptor{
			{{Key: attributes.Hold, Value: id}, {Key: attributes.Provider, Value: provider}, {Key: attributes.Model, Value: model},
				{Key: attributes.MaxTokens, Value: most},
				{Key: attributes.MaxCompletionTokens, Value: completion}, {Key: attributes.N, Value: n}, {Key: attributes.Stream, Value: stream},
				{Key: attributes.IncludeUsage, Value: usage},
				{Key: attributes.Bytes, Value: bytes}, {Key: attributes.User, Value: user}, {Key: attributes.Org, Value: org},
				{Key: attributes.Key, Value: key}, {Key: attributes.Tier, Value: tier}},
			{{Key: "count", Value: "tokens"}, {Key: "user", Value: user}, {Key: "provider", Value: provider}},
			{{Key: "count", Value: "requests"}, {Key: "user", Value: user}}}}
		d := s.decideOne(t.Context(), r)
		if d.err != nil {
			return
		}
		answer := d.answer
		var got rls.RateLimitResponse
		if err := proto.Unmarshal(answer.message(), &got); err != nil {
			t.Fatalf("answer %q: %v", answer.message(), err)
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
	wire, err := proto.Marshal(llmRequest())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var r request
		if err := r.parse(string(wire)); err != nil {
			b.Fatal(err)
		}
		d := s.decideOne(b.Context(), &r)
		if d.err != nil {
			b.Fatal(d.err)
		}
		if len(d.answer.message()) == 0 {
			b.Fatal("no answer")
		}
	}
}

// BenchmarkCodec is the part of it that needs no Redis: read, match, price and answer.
func BenchmarkCodec(b *testing.B) {
	wire, err := proto.Marshal(llmRequest())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r request
			if err := r.parse(string(wire)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var r rls.RateLimitRequest
			if err := proto.Unmarshal(wire, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
