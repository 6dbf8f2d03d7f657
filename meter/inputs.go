package meter

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const (
	// Ratios are counted in steps of 2 % from leastRatio to 1 token per byte.
	leastRatio = 1.0 / 1024
	ratioStep  = 1.02
	ratioSteps = 351 // 1024 = ratioStep to the power of 350.03

	// percentile is the share of requests that stay below the ratio told, of at least
	// enoughSamples; after mostSamples the old ones count half.
	percentile    = 0.999
	enoughSamples = 1000
	mostSamples   = 100_000

	tellEvery   = 10 * time.Second
	tellTimeout = 2 * time.Second
	mostTold    = 2000
)

// ratios counts how many tokens a byte of the request was, for one model.
type ratios struct {
	counts [ratioSteps]uint32
	total  uint32
}

// add counts one request.
func (r *ratios) add(tokens, bytes int64) {
	at := int(math.Ceil(math.Log(float64(tokens)/float64(bytes)/leastRatio)/math.Log(ratioStep) - 1e-9))
	r.counts[min(max(at, 0), ratioSteps-1)]++
	if r.total++; r.total < mostSamples {
		return
	}
	r.total = 0
	for i := range r.counts {
		r.counts[i] /= 2
		r.total += r.counts[i]
	}
}

// upper is the ratio that the percentile of requests stayed below, rounded up by at most a
// step; false with too few samples.
func (r *ratios) upper() (float64, bool) {
	if r.total < enoughSamples {
		return 0, false
	}
	above := uint32(float64(r.total) * (1 - percentile))
	for i := ratioSteps - 1; i >= 0; i-- {
		if r.counts[i] > above {
			if i == ratioSteps-1 {
				return 1, true // the last step takes what is above it, too
			}
			return leastRatio * math.Pow(ratioStep, float64(i)), true
		}
		above -= r.counts[i]
	}
	return 0, false
}

// learnInput takes in a request whose input the provider counted. Streams and others are
// one: the input is read before the answer begins.
func (e *Estimator) learnInput(k kind, bytes, input int64) {
	k.stream, k.route = false, ""
	for _, k := range [...]kind{k, {provider: k.provider}} {
		r := e.ratios[k]
		if r == nil {
			if len(e.ratios) >= maxKinds {
				continue
			}
			r = &ratios{}
			e.ratios[k] = r
		}
		r.add(input, bytes)
	}
}

// told is what the limiter hears of the inputs, in the order of names.
func (e *Estimator) told() []*limitpb.Ratio {
	var all []*limitpb.Ratio
	for k, r := range e.ratios {
		if upper, ok := r.upper(); ok {
			all = append(all, &limitpb.Ratio{Provider: k.provider, Model: k.model, TokensPerByte: upper, Samples: int64(r.total)})
		}
	}
	slices.SortFunc(all, func(a, b *limitpb.Ratio) int {
		return strings.Compare(a.GetProvider()+"\x00"+a.GetModel(), b.GetProvider()+"\x00"+b.GetModel())
	})
	return all[:min(len(all), mostTold)]
}

// tell reports to the limiter what inputs take. A report that is lost is made again.
func (m *Meter) tell(ctx context.Context, now time.Time) {
	if now.Sub(m.toldAt) < tellEvery {
		return
	}
	m.toldAt = now
	all := m.estimator.told()
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	if _, err := m.cfg.Limiter.ReportRatios(ctx, &limitpb.ReportRatiosRequest{Meter: m.cfg.Name, Ratios: all}); err != nil {
		m.said.Warn(ctx, "what inputs take is not told", fmt.Errorf("learn: %w", err))
	}
}

// sparse are the counts that are not zero, by their place.
func (r *ratios) sparse() map[int]uint32 {
	out := map[int]uint32{}
	for i, n := range r.counts {
		if n > 0 {
			out[i] = n
		}
	}
	return out
}

// fill undoes sparse; what cannot be is left out.
func (r *ratios) fill(counts map[int]uint32) {
	for i, n := range counts {
		if i >= 0 && i < ratioSteps && n <= mostSamples && r.total+n <= mostSamples {
			r.counts[i] += n
			r.total += n
		}
	}
}
