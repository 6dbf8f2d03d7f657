package difftest_test

import (
	"math"
	"strconv"
	"strings"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestHostileRequests sends what no Envoy should. Each gets an answer or a clear error,
// and what is refused takes nothing.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	p := newPair(t, two)
	of := func(key, value string) *common.RateLimitDescriptor {
		return &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{{Key: key, Value: value}}}
	}
	long, many := of("wide", strings.Repeat("v", 10_000)), &common.RateLimitDescriptor{}
	for range 300 {
		many.Entries = append(many.Entries, &common.RateLimitDescriptor_Entry{Key: "wide", Value: "x"})
	}
	huge, over := one("wide"), one("wide")
	huge.HitsAddend, over.HitsAddend = wrapperspb.UInt64(math.MaxUint64), wrapperspb.UInt64(1<<63)
	crowd := make([]*common.RateLimitDescriptor, 10_000)
	for i := range crowd {
		crowd[i] = one("wide")
	}
	apart := make([]*common.RateLimitDescriptor, 1024)
	for i := range apart {
		apart[i] = of("wide", strconv.Itoa(i))
	}
	for _, tc := range []struct {
		name    string
		request *rls.RateLimitRequest
		code    codes.Code
		overall rls.RateLimitResponse_Code
	}{
		{"no descriptor", request(1), codes.InvalidArgument, 0},
		{"no domain", &rls.RateLimitRequest{Descriptors: crowd[:1]}, codes.InvalidArgument, 0},
		{"no entry", request(1, &common.RateLimitDescriptor{}), codes.OK, rls.RateLimitResponse_OK},
		{"empty key", request(1, of("", "x")), codes.OK, rls.RateLimitResponse_OK},
		{"empty value", request(1, of("wide", "")), codes.OK, rls.RateLimitResponse_OK},
		{"10 kB value", request(1, long), codes.OK, rls.RateLimitResponse_OK},
		{"unicode", request(1, of("wide", "\u202e{Ω}\x00\U0001F4A9")), codes.OK, rls.RateLimitResponse_OK},
		{"300 entries", request(1, many), codes.InvalidArgument, 0},
		{"10 000 descriptors", request(1, crowd...), codes.InvalidArgument, 0},
		{"5 MB", request(1, of("wide", strings.Repeat("v", 5<<20))), codes.ResourceExhausted, 0},
		{"264 descriptors", request(1, apart[:264]...), codes.OK, rls.RateLimitResponse_OK},
		{"1024 descriptors", request(1, apart...), codes.OK, rls.RateLimitResponse_OK},
	} {
		r, err := p.ours.ShouldRateLimit(t.Context(), tc.request)
		if status.Code(err) != tc.code || err == nil && r.GetOverallCode() != tc.overall {
			t.Errorf("%s: want %v and %v, got %v and %v", tc.name, tc.code, tc.overall, r, err)
		}
	}
	for _, d := range []*common.RateLimitDescriptor{huge, over} {
		if r, err := p.ours.ShouldRateLimit(t.Context(), request(1, d)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d hits: want InvalidArgument, got %v and %v", d.GetHitsAddend().GetValue(), r, err)
		}
	}
	if r, err := p.ours.ShouldRateLimit(t.Context(), request(10, one("wide"))); err != nil || r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Errorf("what was an error took something: %v and %v", r, err)
	}
	if r, err := p.ours.ShouldRateLimit(t.Context(), request(math.MaxUint32, one("wide"))); err != nil ||
		r.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("2^32-1 hits: %v and %v", r, err)
	}
}
