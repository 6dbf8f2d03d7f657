package extauthz

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// counter allows so many failures of one address, for ever.
type counter struct {
	most    int64
	counted atomic.Int64
}

func (c *counter) ShouldRateLimit(_ context.Context, r *rlsv3.RateLimitRequest, _ ...grpc.CallOption) (*rlsv3.RateLimitResponse, error) {
	entries := r.GetDescriptors()[0].GetEntries()
	if len(entries) != 3 || entries[1].GetValue() != "failed-auth" || entries[2].GetKey() != "remote_address" ||
		entries[2].GetValue() != "192.0.2.7" {
		return nil, fmt.Errorf("asked about %v", entries)
	}
	if c.counted.Add(1) <= c.most {
		return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, nil
	}
	return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT,
		Statuses: []*rlsv3.RateLimitResponse_DescriptorStatus{{Code: rlsv3.RateLimitResponse_OVER_LIMIT,
			DurationUntilReset: durationpb.New(30 * time.Second)}}}, nil
}

func TestAnAddressThatGuessesHasToWait(t *testing.T) {
	t.Parallel()
	i, limiter := newIssuer(t), &counter{most: 5}
	s := ready(t, launch(t, i, testenv.NATS(t), func(c *Config) { c.Limiter = limiter }))
	from := func(key, address string) map[string]string {
		return map[string]string{headerAPIKey: key, headerClient: address}
	}
	known, fresh := i.newKey("11111111-2222-3333-4444-555555555555", nil, "USER"), i.newKey("21111111-2222-3333-4444-555555555555", nil,
		"USER")
	if got := statusOf(t, s, request("/v1/models", from(known, "192.0.2.7"))); got != 200 {
		t.Fatalf("a good key: want 200, got %d", got)
	}
	for n := range 6 {
		wrong := fmt.Sprintf("leaky_31111111-2222-3333-4444-555555555555_%048x", n)
		if got := statusOf(t, s, request("/v1/models", from(wrong, "192.0.2.7"))); got != 401 {
			t.Fatalf("guess %d: want 401, got %d", n, got)
		}
	}
	testenv.Eventually(t, "the address has to wait", func() bool { return s.guesses.wait("192.0.2.7", time.Now()) > 0 })
	for _, tc := range []struct {
		name, key, address string
		want               int
	}{
		{"another guess", "leaky_31111111-2222-3333-4444-555555555555_" + fmt.Sprintf("%048x", 99), "192.0.2.7", 429},
		{"a key that is not remembered", fresh, "192.0.2.7", 429},
		{"one that is", known, "192.0.2.7", 200},
		{"another address", fresh, "192.0.2.8", 200},
	} {
		if got := statusOf(t, s, request("/v1/models", from(tc.key, tc.address))); got != tc.want {
			t.Errorf("%s: want %d, got %d", tc.name, tc.want, got)
		}
	}
	if n := limiter.counted.Load(); n != 6 {
		t.Errorf("want the 6 failures counted and nothing else, got %d", n)
	}
}
