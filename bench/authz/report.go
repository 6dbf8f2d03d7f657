package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
)

// report prints medians over the rounds, and the ratios of each round's own numbers.
func report(w io.Writer, o options, all []benchCase, results [][]sample) {
	fmt.Fprintf(w, "\n### extauthz: checks over gRPC on one core\n\n%d rounds of %v, shuffled; one connection with %d calls in flight; medians\n\n", o.rounds, o.window, o.inFlight)
	fmt.Fprintln(w, "| case | checks/s | CPU us/check | p50 | p99 | CPU / empty | rate / empty |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	floors := map[string][]sample{}
	for n, c := range all {
		floors[c.name] = results[n]
	}
	of := func(samples []sample, f func(sample) float64) []float64 {
		values := make([]float64, len(samples))
		for n, s := range samples {
			values[n] = f(s)
		}
		return values
	}
	for n, c := range all {
		floor := floors[c.floor]
		rate, cpu := of(results[n], sample.rate), of(results[n], sample.cpuPerCheck)
		at := func(q float64) time.Duration {
			return time.Duration(rounds.Median(of(results[n], func(s sample) float64 {
				return float64(rounds.Quantile(s.latency,
					q))
			}))).Round(time.Microsecond)
		}
		fmt.Fprintf(w, "| %s | %.0f | %.1f | %v | %v | %.2f | %.2f |\n", c.name, rounds.Median(rate), rounds.Median(cpu), at(0.5), at(0.99),
			rounds.Ratio(cpu, of(floor, sample.cpuPerCheck)), rounds.Ratio(rate, of(floor, sample.rate)))
	}
	control := slices.Sorted(slices.Values(of(floors[floorKey], sample.cpuPerCheck)))
	if spread := (rounds.Quantile(control, 0.75) - rounds.Quantile(control, 0.25)) / rounds.Quantile(control, 0.5); spread > 0.3 {
		fmt.Fprintf(w, "\nThe control's quartiles lie %.0f %% apart: the machine was too noisy, run again.\n", 100*spread)
	}
}
