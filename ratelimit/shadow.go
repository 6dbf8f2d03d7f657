package ratelimit

import (
	"context"
	"log/slog"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// shadowed are the limits of a decision that refuse nobody and would have refused it.
// Their buckets go on filling, so above capacity is what would have been over the limit.
func (a *admission) shadowed() []int {
	var over []int
	for i, l := range a.matched.Limits {
		if l.Kind.Refuses() || a.taken.Outcome == store.Repeated {
			continue
		}
		level := a.taken.States[i].Level()
		if a.taken.Outcome.Refuses() { // for another reason, so that this one was not charged
			level += a.cost().Of(l)
		}
		if level > l.Params.Capacity {
			over = append(over, i)
		}
	}
	return over
}

// recordShadow counts what shadow and quota rules would have refused and logs one of them
// for each rule and second. It returns the names: explain tells them.
func (s *Service) recordShadow(ctx context.Context, a *admission) []string {
	if !a.matched.Counts {
		return nil
	}
	var names []string
	for _, i := range a.shadowed() {
		l := a.matched.Limits[i]
		names = append(names, l.Rule.Name)
		s.metrics.shadow.WithLabelValues(a.rules.Set().Domain(), a.matched.Label(i)).Inc()
		if !l.FirstLogOf(a.taken.Now / 1_000_000) {
			continue
		}
		s.log.LogAttrs(ctx, slog.LevelInfo, "a limit in shadow mode would have refused", slog.String("rule", l.Rule.Name),
			slog.String("account", a.take.Account), slog.String("request_id", a.take.ID),
			slog.Float64("level", a.taken.States[i].Level()), slog.String("capacity", l.Capacity))
	}
	return names
}
