package analytics

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
)

// Robust tells unusual use by the median and the median absolute deviation of the same hour of the
// weeks before (Iglewicz and Hoaglin, modified z-score): use differs by hour and weekday, and neither
// measure moves when one of those weeks was unusual itself. The contract's ratio, which compares a
// window with the mean of those before, stands beside it.
type Robust struct {
	Weeks   int     // before, that an hour is compared with, 1 to 52
	Support int     // of them at least, since somebody was first seen
	Score   float64 // from which use is unusual
	Least   int64   // tokens: a smaller difference is none
}

// DefaultRobust flags what one hour in many thousands has by chance.
func DefaultRobust() Robust { return Robust{Weeks: 8, Support: 4, Score: 6, Least: 1000} }

const (
	// perSigma makes a median absolute deviation comparable to a standard deviation.
	perSigma = 0.6745
	// leastSpread is the smallest deviation that is believed, as a part of the median: weeks that
	// were the same to the token say nothing about the next.
	leastSpread = 0.1
	// mostJudged bounds how many accounts, keys or models of an hour are looked at, largest first.
	mostJudged = 5000
)

// robustDimensions are what is judged.
func robustDimensions() []string { return []string{"account", "key", "model"} }

// judge compares a value with those of the weeks before, oldest last. Only weeks since it was first
// seen count.
func (r Robust) judge(value int64, before []int64) (a notice.Anomaly, unusual bool) {
	for len(before) > 0 && before[len(before)-1] == 0 {
		before = before[:len(before)-1]
	}
	if len(before) < r.Support {
		return a, false
	}
	a.Tokens, a.Support = value, len(before)
	a.Median = median(before)
	off := make([]float64, len(before))
	for i, n := range before {
		off[i] = math.Abs(float64(n) - a.Median)
	}
	a.MAD = median(off)
	difference := float64(value) - a.Median
	spread := max(a.MAD, leastSpread*a.Median, perSigma*float64(r.Least)/r.Score)
	a.Score = perSigma * difference / spread
	return a, math.Abs(a.Score) >= r.Score && math.Abs(difference) >= float64(r.Least)
}

func median[T int64 | float64](values []T) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return float64(sorted[middle])
	}
	return (float64(sorted[middle-1]) + float64(sorted[middle])) / 2
}

// Unusual judges every account, key and model in one hour, the most unusual first.
func (s *Store) Unusual(ctx context.Context, r Robust, hour time.Time) ([]notice.Anomaly, error) {
	hour = hour.UTC().Truncate(time.Hour)
	found := []notice.Anomaly{}
	for _, dimension := range robustDimensions() {
		weeks := make([]map[string]int64, r.Weeks+1)
		for w := range weeks {
			from := hour.AddDate(0, 0, -7*w)
			grouped, err := s.Group(ctx, Filter{From: from, To: from.Add(time.Hour)}, []string{dimensions()[dimension]}, mostJudged, false)
			if err != nil {
				return nil, err
			}
			weeks[w] = map[string]int64{}
			for _, g := range grouped.Groups {
				weeks[w][g.Key[0]] = g.Sums.Consumed
			}
		}
		names := map[string]struct{}{}
		for _, week := range weeks {
			for name := range week {
				names[name] = struct{}{}
			}
		}
		for name := range names {
			before := make([]int64, r.Weeks)
			for w := range before {
				before[w] = weeks[w+1][name]
			}
			if a, unusual := r.judge(weeks[0][name], before); unusual && name != "" {
				a.Dimension, a.Name, a.Hour = dimension, name, hour
				found = append(found, a)
			}
		}
	}
	slices.SortFunc(found, func(a, b notice.Anomaly) int {
		return cmp.Or(cmp.Compare(math.Abs(b.Score), math.Abs(a.Score)), cmp.Compare(a.Dimension, b.Dimension), cmp.Compare(a.Name, b.Name))
	})
	return found, nil
}
