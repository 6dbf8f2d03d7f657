package server

import (
	"context"
	"fmt"
	"log/slog"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// caches are what Envoys get, each its own, and the rules that every limiter gets. Limiters ask for
// whole states, as envoyproxy/ratelimit does; Envoys ask for changes.
func (s *Server) caches() cachev3.Cache {
	return &cachev3.MuxCache{Caches: map[string]cachev3.Cache{"envoys": s.cache, "limiters": s.limits},
		Classify:      func(*cachev3.Request) string { return "limiters" },
		ClassifyDelta: func(*cachev3.DeltaRequest) string { return "envoys" }}
}

// Limits makes these the rules of every limiter, by the names of the resources.
func (s *Server) Limits(rules map[string]types.Resource) { s.limits.SetResources(rules) }

// askedWhole looks at a request for whole states. Nothing but rules is given that way: what Envoys
// get has secrets in it, and is counted and waited for as changes.
func (c *clients) askedWhole(r *discoveryv3.DiscoveryRequest) error {
	if r.GetTypeUrl() != resourcev3.RateLimitConfigType {
		return status.Errorf(codes.InvalidArgument, "only %s is given as a whole; ask for changes (DeltaAggregatedResources)",
			snapshot.ShortType(resourcev3.RateLimitConfigType))
	}
	if r.GetResponseNonce() == "" {
		return nil
	}
	answer := "ack"
	if e := r.GetErrorDetail(); e != nil {
		answer = "nack"
		c.log.LogAttrs(context.Background(), slog.LevelError, "a limiter refused its rules and keeps the last good ones",
			slog.String("node", fmt.Sprintf("%.100s", r.GetNode().GetId())), slog.String("reason", fmt.Sprintf("%.1000s", e.GetMessage())))
	}
	c.metrics.answers.WithLabelValues(snapshot.ShortType(resourcev3.RateLimitConfigType), answer).Inc()
	return nil
}
