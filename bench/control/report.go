package main

import (
	"fmt"
	"io"
	"time"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
)

// report prints medians over the rounds, and ratios of each round's own numbers.
func report(w io.Writer, of, changes int, all []benchCase, results [][]sample) {
	fmt.Fprintf(w, "\n### xds: a change of one cluster, until every Envoy has it\n\n%d rounds of %d changes, shuffled; medians\n\n", of, changes)
	fmt.Fprintln(w, "| clusters | Envoys | system | p50 | p99 | time / SnapshotCache | bytes/Envoy | CPU/change | heap/cluster |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for i, c := range all {
		envoys := fmt.Sprint(c.clients)
		if c.silent {
			envoys += " and a silent one"
		}
		at := func(r []sample, q float64) []float64 {
			return each(r, func(s sample) float64 { return float64(rounds.Quantile(s.took, q)) })
		}
		ratio := rounds.Ratio(at(results[i], 0.5), at(results[i-i%2], 0.5)) // they come in pairs
		heap := ""                                                          // a few clusters are less than what else comes and goes
		if c.clusters >= 1000 {
			heap = fmt.Sprintf("%.0f B", rounds.Median(each(results[i], func(s sample) float64 { return s.heap })))
		}
		fmt.Fprintf(w, "| %d | %s | %s | %v | %v | %.2f | %.0f | %v | %s |\n", c.clusters, envoys, c.system, span(at(results[i], 0.5)), span(at(results[i], 0.99)),
			ratio, rounds.Median(each(results[i], func(s sample) float64 { return s.bytes })),
			span(each(results[i], func(s sample) float64 { return float64(s.cpu) })), heap)
	}
}

func each(r []sample, f func(sample) float64) []float64 {
	values := make([]float64, len(r))
	for i, s := range r {
		values[i] = f(s)
	}
	return values
}

func span(values []float64) time.Duration {
	return time.Duration(rounds.Median(values)).Round(10 * time.Microsecond)
}
