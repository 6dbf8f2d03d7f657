package serve

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/consume"
)

// openConsume makes the part of the token service that spends tokens for a caller: it holds
// at ratelimit, calls providers through Envoy's egress listener, and books in the outbox.
func openConsume(s service, pool *pgxpool.Pool, limiter *grpc.ClientConn, members consume.Members,
	nc *nats.Conn) (*consume.API, error) {
	egress, err := netaddr.Parse(s.cfg.Gateway.Egress)
	if err != nil {
		return nil, fmt.Errorf("gateway.egress: %w", err)
	}
	publisher, err := usage.NewPublisher(nc, s.log)
	if err != nil {
		return nil, err
	}
	return consume.New(consume.Config{Limiter: limitpb.NewLimiterClient(limiter),
		Provider: consume.NewEnvoy(egress.In(s.dir), s.traces.Transport),
		Members:  members,
		Books:    consume.NewOutbox(pool, publisher), Providers: s.live.providers, Timeout: s.cfg.Limits.Timeout,
		Enforce: func() bool { return s.live.flags().TokenService.QuotaEnforcement }, Log: s.log, Metrics: s.metrics})
}
