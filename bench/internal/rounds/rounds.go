// Package rounds is what the benchmarks share: how the numbers of several rounds become
// one that survives a noisy machine.
package rounds

import "slices"

// Quantile of sorted values, q from 0 to 1; there must be at least one.
func Quantile[T any](sorted []T, q float64) T {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// Median of values in any order.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return Quantile(sorted, 0.5)
}

// Ratio is the median over the rounds of each round's own ratio: what disturbs a round
// disturbs both sides of it.
func Ratio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return Median(ratios)
}
