// Package counted asks ratelimit, as Envoy does (envoy.service.ratelimit.v3), about requests whose
// caller only a service can name: extauthz about failed authentication, identity about OAuth2
// clients that have proved who they are.
package counted

import (
	"context"
	"strconv"
	"strings"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// Limiter is Envoy's rate-limit service, which shares counts among all replicas.
type Limiter interface {
	ShouldRateLimit(ctx context.Context, in *rlsv3.RateLimitRequest, opts ...grpc.CallOption) (*rlsv3.RateLimitResponse, error)
}

// longest is the longest wait that is told, whatever the limiter says.
const longest = 24 * time.Hour

// Request counts one request on a route of the limits (path "count: requests, route: ROUTE, KEY") and
// says how long its caller has to wait: 0 if it is within the limits, or if there are none.
func Request(ctx context.Context, limiter Limiter, route, key, value string) (time.Duration, error) {
	entry := func(key, value string) *commonv3.RateLimitDescriptor_Entry {
		return &commonv3.RateLimitDescriptor_Entry{Key: key, Value: value}
	}
	answer, err := limiter.ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: limits.Domain, Descriptors: []*commonv3.RateLimitDescriptor{{
		Entries: []*commonv3.RateLimitDescriptor_Entry{entry("count", limits.Requests.String()), entry("route", route), entry(key, value)}}}})
	if err != nil || answer.GetOverallCode() != rlsv3.RateLimitResponse_OVER_LIMIT {
		return 0, err
	}
	return min(untilReset(answer), longest), nil
}

// untilReset is how long the limiter refuses: to the end of a window, or until a bucket has room.
// Ours says so in the header that clients get, upstream's in the statuses.
func untilReset(answer *rlsv3.RateLimitResponse) time.Duration {
	wait := time.Second
	for _, s := range answer.GetStatuses() {
		wait = max(wait, s.GetDurationUntilReset().AsDuration())
	}
	for _, h := range answer.GetResponseHeadersToAdd() {
		if seconds, err := strconv.Atoi(h.GetValue()); err == nil && strings.EqualFold(h.GetKey(), "retry-after") {
			wait = max(wait, time.Duration(seconds)*time.Second)
		}
	}
	return wait
}
