package judge

import (
	"math"
	"slices"
	"time"
)

// serving is what one admitted call really got, and between which two moments the
// limiter let it pass.
type serving struct {
	sent, answered time.Duration
	tokens         int64
}

const (
	// maxStarts is how many window starts are tried; the first is always among them.
	maxStarts = 2000
	// rounding is what a float comparison may be off by, in tokens.
	rounding = 0.5
)

// tokensOver is how many tokens went over the limit in the worst window of time: what was
// served to calls that were surely admitted inside the window, less what a bucket that was
// empty at its start lets pass, capacity + leak * length. The window from the first
// request to the last answer is one of them, so a whole demo that is over is seen; shorter
// ones also find a burst that a long idle time would hide.
func tokensOver(servings []serving, limit Limit) int64 {
	if len(servings) == 0 {
		return 0
	}
	byAnswer := slices.Clone(servings)
	slices.SortFunc(byAnswer, func(a, b serving) int { return int(a.answered - b.answered) })
	starts := make([]time.Duration, len(servings))
	for i, s := range servings {
		starts[i] = s.sent
	}
	slices.Sort(starts)
	step := max(1, (len(starts)+maxStarts-1)/maxStarts)
	worst := 0.0
	for i := 0; i < len(starts); i += step {
		sum := int64(0)
		for _, s := range byAnswer {
			if s.sent < starts[i] {
				continue
			}
			sum += s.tokens
			worst = max(worst, float64(sum)-limit.Capacity-limit.Leak*(s.answered-starts[i]).Seconds())
		}
	}
	if worst <= rounding {
		return 0
	}
	return int64(math.Ceil(worst))
}
