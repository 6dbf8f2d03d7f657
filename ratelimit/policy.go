package ratelimit

import (
	"context"
	"log/slog"

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
	others  Others
	unknown *match.Rules // of a domain that no file has; nil: it is not served
	full    *full
}

func (s *Service) newPolicy(p Policy) *policy {
	for _, set := range append([]*limits.Set{p.Limits}, p.Domains...) {
		for _, warning := range set.Warnings() {
			s.log.LogAttrs(context.Background(), slog.LevelWarn, "limits are taken, but look wrong", slog.Any("warning", warning))
		}
	}
	made := &policy{parts: parts(p.Tiers), outage: p.Outage, noPools: p.NoPools, others: p.Others, full: newFull(),
		Policy: match.NewPolicy(match.Config{Limits: p.Limits, Domains: p.Domains, Tiers: p.Tiers, Providers: p.Providers, Models: p.Models,
			MaxTokens: p.MaxTokens}, &s.matching)}
	if made.others.NearLimit <= 0 {
		made.others.NearLimit = defaultNear
	}
	if p.Others.AdmitUnknown {
		made.unknown = match.NoRules()
	}
	return made
}

// defaultNear is the share of a limit above which hits are near it.
const defaultNear = 0.8

// SetPolicy replaces the policy. Requests that are being decided go on with the one they
// began with.
func (s *Service) SetPolicy(p Policy) { s.policy.Store(s.newPolicy(p)) }

// watch replaces the policy when its files change. A content that is not taken is told; the policy to
// follow meanwhile comes with the error, and is another one where a content that was taken before has
// been refused by an Envoy since. Without limits it is no policy, and the present one stays.
func (s *Service) watch(ctx context.Context) {
	if s.reload == nil {
		return
	}
	given := s.policy.Load().Set()
	config.Watcher{Files: s.files}.Run(ctx, func() {
		p, err := s.reload()
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "new limits are not taken", slog.Any("error", err))
		}
		if p.Limits == nil || p.Limits == given {
			return // there are no others
		}
		given = p.Limits
		s.SetPolicy(p)
		s.log.LogAttrs(ctx, slog.LevelInfo, "new limits", slog.Int("rules", len(p.Limits.Rules())))
	})
}
