package ratelimit

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// policy is a Policy made ready for requests. It never changes; a new one replaces it.
type policy struct {
	*match.Policy
	parts   map[string]store.PoolPart // by tier
	outage  config.Outage
	noPools bool
	silent  bool
}

func (s *Service) newPolicy(p Policy) *policy {
	for _, set := range append([]*limits.Set{p.Limits}, p.Domains...) {
		for _, warning := range set.Warnings() {
			s.log.LogAttrs(context.Background(), slog.LevelWarn, "limits are taken, but look wrong", slog.Any("warning", warning))
		}
	}
	return &policy{parts: parts(p.Tiers), outage: p.Outage, noPools: p.NoPools, silent: p.Silent,
		Policy: match.NewPolicy(match.Config{Limits: p.Limits,
			Domains: p.Domains, Tiers: p.Tiers, Providers: p.Providers, Models: p.Models, MaxTokens: p.MaxTokens}, &s.matching)}
}

// watchEvery is how often the files are looked at: as often as xds does, so that Envoy's
// descriptors and the limits they meet change together.
const watchEvery = time.Second

// watch replaces the policy when its files change. A file with a mistake is told and the
// policy stays; xds refuses the same file.
func (s *Service) watch(ctx context.Context) {
	if s.reload == nil {
		return
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for seen := s.seen; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := stamps(s.files)
		if maps.Equal(seen, now) {
			continue
		}
		seen = now
		p, err := s.reload()
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "new limits are not taken", slog.Any("error", err))
			continue
		}
		s.policy.Store(s.newPolicy(p))
		s.log.LogAttrs(ctx, slog.LevelInfo, "new limits", slog.Int("rules", len(p.Limits.Rules())))
	}
}

// stamp changes when a file does.
type stamp struct {
	size int64
	time int64 // nanoseconds
}

func stamps(files []string) map[string]stamp {
	found := map[string]stamp{}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			found[file] = stamp{size: info.Size(), time: info.ModTime().UnixNano()}
		}
	}
	return found
}
