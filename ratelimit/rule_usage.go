package ratelimit

import (
	"context"
	"log/slog"
	"time"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// sweepEvery is how often it is looked at which rules matched; what is reported is that
// exact.
const sweepEvery = 10 * time.Second

// defaultIdle is how long a rule may match nothing before it is reported.
const defaultIdle = time.Hour

// watchRules reports rules that match nothing until ctx ends: most often a limit that
// matches nothing is one that was written for a descriptor nobody sends.
func (s *Service) watchRules(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.sweepRules(ctx, now)
		}
	}
}

// sweepRules takes in which rules matched, sets the gauge and tells of each rule that
// became idle.
func (s *Service) sweepRules(ctx context.Context, now time.Time) {
	for _, r := range s.ruleUsage(now) {
		idle := 0.0
		if r.Idle {
			idle = 1
		}
		s.metrics.idleRules.WithLabelValues(r.Domain, r.Name).Set(idle)
		if r.NewlyIdle {
			s.log.LogAttrs(ctx, slog.LevelWarn, "a limit matches nothing: does anybody send its descriptor?", slog.String("domain", r.Domain),
				slog.String("rule", r.Name), slog.String("path", r.Path), slog.Duration("for", now.Sub(r.QuietSince).Round(time.Second)))
		}
	}
}

// RulesPath is where the service's own port tells of its rules.
const RulesPath = "/internal/limits"

// Rules are all rules with when they last matched (exact to ten seconds), ours first, in
// file order.
func (s *Service) Rules() []match.RuleUsage { return s.ruleUsage(time.Now()) }

func (s *Service) ruleUsage(now time.Time) []match.RuleUsage {
	return s.matching.Usage.Sweep(s.policy.Load().Policy, now, s.idleAfter)
}
