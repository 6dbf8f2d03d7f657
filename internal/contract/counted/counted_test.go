package counted

import (
	"context"
	"errors"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// says is a limiter with one answer, and what it was asked.
type says struct {
	answer *rlsv3.RateLimitResponse
	err    error
	asked  map[string]string
}

func (s *says) ShouldRateLimit(_ context.Context, r *rlsv3.RateLimitRequest, _ ...grpc.CallOption) (*rlsv3.RateLimitResponse, error) {
	s.asked = map[string]string{}
	for _, e := range r.GetDescriptors()[0].GetEntries() {
		s.asked[e.GetKey()] = e.GetValue()
	}
	return s.answer, s.err
}

// TestAWaitLastsToTheEndOfTheWindow, however the limiter says when that is.
func TestAWaitLastsToTheEndOfTheWindow(t *testing.T) {
	t.Parallel()
	header := func(key, value string) []*corev3.HeaderValue { return []*corev3.HeaderValue{{Key: key, Value: value}} }
	for name, c := range map[string]struct {
		answer *rlsv3.RateLimitResponse
		want   time.Duration
	}{
		"header":        {&rlsv3.RateLimitResponse{ResponseHeadersToAdd: header("retry-after", "41")}, 41 * time.Second},
		"status":        {&rlsv3.RateLimitResponse{Statuses: []*rlsv3.RateLimitResponse_DescriptorStatus{{DurationUntilReset: durationpb.New(42 * time.Second)}}}, 42 * time.Second},
		"an hour":       {&rlsv3.RateLimitResponse{ResponseHeadersToAdd: header("Retry-After", "3600")}, time.Hour},
		"a year":        {&rlsv3.RateLimitResponse{ResponseHeadersToAdd: header("Retry-After", "31536000")}, longest},
		"nothing":       {&rlsv3.RateLimitResponse{}, time.Second},
		"no number":     {&rlsv3.RateLimitResponse{ResponseHeadersToAdd: header("retry-after", "soon")}, time.Second},
		"other headers": {&rlsv3.RateLimitResponse{ResponseHeadersToAdd: header("x-ratelimit-reset", "99")}, time.Second},
	} {
		c.answer.OverallCode = rlsv3.RateLimitResponse_OVER_LIMIT
		limiter := &says{answer: c.answer}
		got, err := Request(t.Context(), limiter, "a route", "client", "app")
		if got != c.want || err != nil {
			t.Errorf("%s: want %v, got %v, %v", name, c.want, got, err)
		}
		if limiter.asked["count"] != "requests" || limiter.asked["route"] != "a route" || limiter.asked["client"] != "app" {
			t.Errorf("%s: asked about %v", name, limiter.asked)
		}
	}
}

func TestNobodyWaitsWithinLimitsOrWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	within := &says{answer: &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}}
	if wait, err := Request(t.Context(), within, "r", "k", "v"); wait != 0 || err != nil {
		t.Errorf("got %v, %v", wait, err)
	}
	away := &says{err: errors.New("away")}
	if wait, err := Request(t.Context(), away, "r", "k", "v"); wait != 0 || err == nil {
		t.Errorf("got %v, %v", wait, err)
	}
}
