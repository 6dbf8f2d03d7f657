package wire

import (
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/llmcall"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

func TestRequestReadsAsGenerated(t *testing.T) {
	t.Parallel()
	want := llmcall.Request()
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
	r, err := ParseRequest(string(wire))
	if err != nil {
		tb.Fatal(err)
	}
	return generated(&r)
}

// generated is a request as the generated types have it.
func generated(r *match.Request) *rls.RateLimitRequest {
	out := &rls.RateLimitRequest{Domain: r.Domain, HitsAddend: r.Hits}
	for _, d := range r.Descriptors {
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
	r.addHeader("a", "1")
	r.addHeader("b", "tab\tand\nbreak\u00e9")
	r.addText("model", "gpt\xff")
	r.addNumber("held", 256)
	r.setBody([]byte(`{"error":{}}`))
	var got rls.RateLimitResponse
	if err := proto.Unmarshal(r.Message(), &got); err != nil {
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

// addendOf is the addend of descriptor i; the last ones may be missing.
func addendOf(r *match.Request, i int) match.Addend {
	if i < len(r.Addends) {
		return r.Addends[i]
	}
	return match.Addend{}
}

// overrideOf is the limit that descriptor i states.
func overrideOf(r *match.Request, i int) match.Override {
	if i < len(r.Overrides) {
		return r.Overrides[i]
	}
	return match.Override{}
}

// FuzzRequest compares with the generated types: what they refuse as malformed wire is
// refused or read as harmless, and what they read is read the same.
func FuzzRequest(f *testing.F) {
	wire, err := proto.Marshal(llmcall.Request())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add(wire[:len(wire)/2])
	f.Add([]byte("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x12\x04\x0a\x02\x0a\xff"))
	f.Add([]byte("\x0b\x0c\x15\x01\x02\x03\x04\x19\x01\x02\x03\x04\x05\x06\x07\x08"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r, err := ParseRequest(string(wire))
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
			if got := addendOf(&r, i); got.Stated != stated || stated && got.Hits != hits {
				t.Errorf("descriptor %d: want %d hits (stated: %t), got %+v", i, hits, stated, got)
			}
			if got, limit := overrideOf(&r, i), d.GetLimit(); got.Stated != (limit != nil) || got.Requests != limit.GetRequestsPerUnit() ||
				limit.GetUnit() >= 0 && limit.GetUnit() <= 255 && got.Unit != match.Unit(limit.GetUnit()) {
				t.Errorf("descriptor %d: want limit %v, got %+v", i, limit, got)
			}
			d.Limit, d.HitsAddend, d.IsNegativeHits = nil, nil, false
			d.ProtoReflect().SetUnknown(nil)
			for _, e := range d.GetEntries() {
				e.ProtoReflect().SetUnknown(nil)
			}
		}
		want.ProtoReflect().SetUnknown(nil)
		if diff := cmp.Diff(&want, generated(&r), protocmp.Transform()); diff != "" {
			t.Errorf("request differs (-generated +by hand):\n%s", diff)
		}
	})
}

// BenchmarkCodec is the part of it that needs no Redis: read, match, price and answer.
func BenchmarkCodec(b *testing.B) {
	wire, err := proto.Marshal(llmcall.Request())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseRequest(string(wire)); err != nil {
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
