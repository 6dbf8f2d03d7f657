package serve

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/meter"
)

func serveMeter(ctx context.Context, s service) error {
	limiter, err := dialLimiter(s)
	if err != nil {
		return err
	}
	defer limiter.Close()
	nc, err := s.connectNATS()
	if err != nil {
		return err
	}
	defer nc.Close()
	publisher, err := usage.NewPublisher(nc, s.log)
	if err != nil {
		return err
	}
	ratios := func(provider string) meter.Ratio {
		p := s.live.now.Load().Providers[provider]
		return meter.Ratio{BytesPerToken: p.BytesPerToken, TokensPerByte: p.TokensPerByte}
	}
	spool := s.cfg.Envoy.Spool
	if !filepath.IsAbs(spool) {
		spool = filepath.Join(s.dir, spool)
	}
	admin, err := netaddr.Parse(s.cfg.Envoy.Admin)
	if err != nil {
		return fmt.Errorf("envoy.admin: %w", err)
	}
	admin = admin.In(s.dir)
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name this meter: %w", err)
	}
	list, err := s.livePrices(ctx, 0)
	if err != nil {
		return err
	}
	m, err := meter.New(meter.Config{Spool: spool, StateDir: s.dir, Name: host + " " + s.cfg.Services.Meter.HTTP,
		Limiter: limitpb.NewLimiterClient(limiter), Publisher: publisher, Providers: ratios, Prices: list,
		HoldLife: s.cfg.HoldLife() + s.cfg.Holds.Margin, Aborted: s.cfg.Charge.For,
		ReopenURL: envoy.AdminURL(admin) + "/reopen_logs", StatsURL: envoy.AdminURL(admin) + "/stats?filter=%5Efilesystem%5C.",
		Admin: &http.Transport{DialContext: admin.DialContext}, Log: s.log,
		Metrics: s.metrics, Traces: s.meterTraces()})
	if err != nil {
		return err
	}
	ln, err := s.listen("services.meter.http", s.cfg.Services.Meter.HTTP)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", s.name, err)
	}
	common := s.common(func(ctx context.Context) error {
		if !nc.IsConnected() {
			return errors.New("nats is not connected; the spool keeps the events")
		}
		return m.Ready(ctx)
	})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return httpapi.Serve(ctx, ln, common.Wrap(http.NewServeMux())) })
	group.Go(func() error { return m.Run(ctx) })
	return group.Wait()
}

// meterTraces are of which calls the meter makes spans.
func (s service) meterTraces() meter.Traces {
	if s.cfg.Tracing.OTLP == "" {
		return meter.Traces{}
	}
	return meter.Traces{Provider: s.traces, Share: s.live.traced, Slow: s.cfg.Tracing.Slow}
}
