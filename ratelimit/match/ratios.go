package match

import (
	"math"
	"sync/atomic"
)

// leastLearned is the share of tokens_per_byte that is held whatever was seen: so nobody
// can teach holds down to nothing, and an input never takes more than 1/leastLearned of
// what is held for it.
const leastLearned = 0.25

// Ratios are the tokens per byte that meters reported, margin included, by provider and
// model; an empty model stands for all of the provider's.
type Ratios struct {
	now atomic.Pointer[map[[2]string]float64]
}

// Replace takes new ratios, by provider and model.
func (r *Ratios) Replace(all map[[2]string]float64) { r.now.Store(&all) }

// bound is the most tokens that so many bytes of a body may be, of which most was
// promised per byte.
func (r *Ratios) bound(provider, model string, bytes int64, most float64) int64 {
	all := r.now.Load()
	if all == nil {
		return math.MaxInt64
	}
	ratio, ok := (*all)[[2]string{provider, model}]
	if !ok {
		if ratio, ok = (*all)[[2]string{provider, ""}]; !ok {
			return math.MaxInt64
		}
	}
	return int64(math.Ceil(float64(bytes) * max(ratio, most*leastLearned)))
}
