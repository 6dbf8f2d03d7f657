package serve

import (
	"context"
	"fmt"
	"path/filepath"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/extauthz"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// serveExtAuthz runs what Envoy asks first: who calls, and may they.
func serveExtAuthz(ctx context.Context, s service) error {
	key, err := extauthz.LoadSigningKey(filepath.Join(s.dir, "secrets"))
	if err != nil {
		return err
	}
	limiter, err := dialLimiter(s)
	if err != nil {
		return err
	}
	defer limiter.Close()
	if err := secretfile.Replace(s.callersKeys(), principal.NewSigner(key).JWKS()); err != nil {
		return fmt.Errorf("publish the key of callers' identities: %w", err)
	}
	base, transport, err := s.peers().API(topology.Identity, s.cfg.Services.Identity)
	if err != nil {
		return err
	}
	authz, err := extauthz.New(extauthz.Config{
		Identity:     base,
		Transport:    transport,
		NATS:         s.cfg.Stores.NATS,
		Auth:         s.cfg.Auth,
		Tiers:        s.cfg.Tiers,
		SigningKey:   key,
		PublicIssuer: s.cfg.Auth.PublicURL,
		Limiter:      rlsv3.NewRateLimitServiceClient(limiter),
		KeysOff:      func() bool { return !s.live.flags().Gateway.APIKeyValidation },
		Log:          s.log,
		Metrics:      s.metrics,
		Traces:       s.traces,
	})
	if err != nil {
		return err
	}
	grpcListener, err := s.listen("services.extauthz.grpc", s.cfg.Services.ExtAuthz.GRPC)
	if err != nil {
		return err
	}
	httpListener, err := s.listen("services.extauthz.http", s.cfg.Services.ExtAuthz.HTTP)
	if err != nil {
		grpcListener.Close()
		return err
	}
	common := s.common(authz.Ready)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return authz.Run(ctx) })
	group.Go(func() error { return authz.Serve(ctx, grpcListener) })
	group.Go(func() error { return httpapi.Serve(ctx, httpListener, common.Wrap(authz.Handler())) })
	return group.Wait()
}
