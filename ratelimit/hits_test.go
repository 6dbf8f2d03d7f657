package ratelimit_test

import (
	"math"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// hits is one request of another Envoy: a descriptor with its own addend.
func hits(addend uint32, own *uint64, negative bool) *rls.RateLimitRequest {
	d := &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{entry("count", "requests"), entry("remote_address",
		"10.0.0.1")}, IsNegativeHits: negative}
	if own != nil {
		d.HitsAddend = wrapperspb.UInt64(*own)
	}
	return &rls.RateLimitRequest{Domain: "leaky", HitsAddend: addend, Descriptors: []*common.RateLimitDescriptor{d}}
}

// TestHits goes through a limit of 3 an hour: what is more than an integer of sense is an
// error and changes nothing.
func TestHits(t *testing.T) {
	t.Parallel()
	n := func(v uint64) *uint64 { return &v }
	e := start(t, thousand, inAnHour)
	for i, step := range []struct {
		request *rls.RateLimitRequest
		code    codes.Code
		refused bool
		left    string
	}{
		{hits(0, n(0), false), codes.OK, false, "3"},
		{hits(2, nil, false), codes.OK, false, "1"},
		{hits(2, nil, false), codes.OK, true, "0"},
		{hits(math.MaxUint32, nil, false), codes.OK, true, "0"},
		{hits(0, n(1<<63), false), codes.InvalidArgument, false, ""},
		{hits(0, n(math.MaxUint64), true), codes.InvalidArgument, false, ""},
		{hits(0, n(1<<50), false), codes.OK, true, "0"},
		{hits(0, n(1), false), codes.OK, false, "0"},
		{hits(0, n(0), false), codes.OK, false, "0"},
		{hits(0, n(1), false), codes.OK, true, "0"},
		{hits(0, n(2), true), codes.OK, false, "2"},
		{hits(0, nil, true), codes.OK, false, "3"},
		{hits(0, n(1<<50), true), codes.OK, false, "3"}, // gives back no more than was taken
		{hits(0, n(3), false), codes.OK, false, "0"},
	} {
		r, err := e.envoy.ShouldRateLimit(t.Context(), step.request)
		if status.Code(err) != step.code {
			t.Errorf("step %d: want %s, got %v", i, step.code, err)
		}
		if err != nil {
			continue
		}
		if refused := r.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT; refused != step.refused ||
			headers(r)["x-ratelimit-remaining"] != step.left {
			t.Errorf("step %d: want refused %t and %s left, got %v", i, step.refused, step.left, r)
		}
	}
}
