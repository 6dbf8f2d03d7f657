package match

import (
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// Numbers are a rule's, scaled for a tier, as decisions use them.
type Numbers struct {
	Capacity  float64       `json:"capacity"`  // most that can be held and settled at once
	PerSecond float64       `json:"perSecond"` // what drains, on average
	Window    time.Duration `json:"-"`         // of a fixed window its unit, else 0
}

// NumbersOf gives the numbers of a rule for a tier. An unlimited rule has none.
func NumbersOf(rule *limits.Rule, tier config.Tier) Numbers {
	if rule.Unlimited {
		return Numbers{}
	}
	l := newLimit(rule, tier, time.Now())
	n := Numbers{Capacity: l.Params.Capacity, PerSecond: l.PerSecond()}
	if l.Params.Window > 0 {
		n.Window = rule.Period
	}
	return n
}
