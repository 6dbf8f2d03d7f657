package ratelimit

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// policy is a Policy made ready for requests. It never changes; a new one replaces it.
type policy struct {
	*rules                      // of our own domain
	domains   map[string]*rules // of all
	providers map[string]config.Provider
	parts     map[string]store.PoolPart // by tier
	models    map[string]config.Model
	outage    config.Outage
	maxTokens config.MaxTokens
	learned   *inputs
	noPools   bool
}

func (s *Service) newPolicy(p Policy) *policy {
	out := &policy{domains: map[string]*rules{}, providers: p.Providers, parts: parts(p.Tiers), outage: p.Outage, maxTokens: p.MaxTokens,
		noPools: p.NoPools, learned: &s.inputs, models: map[string]config.Model{}}
	for _, set := range append([]*limits.Set{p.Limits}, p.Domains...) {
		out.domains[set.Domain()] = newRules(set, p.Tiers, &s.marks, &s.labels)
	}
	out.rules = out.domains[p.Limits.Domain()]
	for _, m := range p.Models {
		out.models[m.Name] = m
	}
	return out
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
