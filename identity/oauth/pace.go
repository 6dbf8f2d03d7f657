package oauth

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/counted"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// Routes of the limits by which requests of applications are counted. Envoy counts by address,
// which may be an office or a cluster; here it is known who asks.
const (
	routeProven   = "sign-in-client"   // by client, once it has proved who it is
	routeUnproven = "sign-in-unproven" // by address: public clients, and whoever failed to prove it
)

// paceTime bounds the question; what cannot be counted is let be, as Envoy has asked the same
// limiter for the request before.
const paceTime = 500 * time.Millisecond

// pace is nil if one more request is within the limits of an OAuth2 client, empty for one that has not
// proved who it is.
func (p *Provider) pace(ctx context.Context, client string) error {
	if p.cfg.Limiter == nil || p.cfg.LimitsOff != nil && p.cfg.LimitsOff() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, paceTime)
	defer cancel()
	route, key, value := routeProven, limits.KeyClient, client
	if client == "" {
		route, key, value = routeUnproven, "remote_address", clientinfo.From(ctx).Network()
	}
	wait, err := counted.Request(ctx, p.cfg.Limiter, route, key, value)
	if err != nil {
		p.log.LogAttrs(ctx, slog.LevelDebug, "a request is not counted", slog.Any("error", err))
	}
	if wait > 0 {
		return &protocolError{status: http.StatusTooManyRequests, code: codeUnavailable, description: "too many requests, try again later",
			retryAfter: wait}
	}
	return nil
}
