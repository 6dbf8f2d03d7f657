package main

import (
	"fmt"
	"io"
	"time"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
)

// Goals on two cores.
const (
	goalAnswer = 3.0    // p95 of the answer to an order, in bare INSERTs
	goalRows   = 5_000  // rows of the outbox relayed per second
	goalEvents = 20_000 // usage events booked per second
)

// report prints medians over the rounds, and ratios of each round's own numbers.
func (r results) report(w io.Writer, o options, settings string) {
	fmt.Fprintf(w, "\n### Purchases\n\n%d rounds, shuffled, of %v for each number; %s; medians. At a fixed rate of %.0f/s each order is followed by a bare INSERT of one row from the same client.\n"+
		"In a closed loop %d buyers each wait for the event of the end of their purchase on the bus. CPU is per purchase.\n\n", o.rounds, o.window, settings, o.rate, o.buyers)
	fmt.Fprintf(w, "| replicas | 202 after, p50 | p95 | bare INSERT p50 | p95 | 202 / INSERT, p95 (goal under %.0f) | COMPLETED after, p50 | p95 | closed loop: purchases/s | COMPLETED after, p50 | p95 | CPU us: token service | Postgres | NATS |\n", goalAnswer)
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for n, sales := range r.sales {
		of := func(f func(sale) float64) float64 { return rounds.Median(collect(sales, f)) }
		ms := func(f func(sale) []time.Duration, q float64) string {
			return fmt.Sprintf("%.1f ms", of(func(s sale) float64 { return at(f(s), q).Seconds() * 1e3 }))
		}
		answered, inserted := func(s sale) []time.Duration { return s.answered }, func(s sale) []time.Duration { return s.inserted }
		completed, looped := func(s sale) []time.Duration { return s.completed }, func(s sale) []time.Duration { return s.loop.completed }
		p95 := func(f func(sale) []time.Duration) []float64 {
			return collect(sales, func(s sale) float64 { return at(f(s), 0.95).Seconds() })
		}
		cpu := func(part string) float64 { return of(func(s sale) float64 { return s.loop.cpuOf(part) }) }
		fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %.2f | %s | %s | %.0f | %s | %s | %.0f | %.0f | %.0f |\n", n+1, ms(answered, 0.5), ms(answered, 0.95), ms(inserted, 0.5), ms(inserted, 0.95),
			rounds.Ratio(p95(answered), p95(inserted)), ms(completed, 0.5), ms(completed, 0.95), of(func(s sale) float64 { return s.loop.rate() }), ms(looped, 0.5), ms(looped, 0.95),
			cpu("tokensvc"), cpu("postgres"), cpu("nats"))
	}
	fmt.Fprintf(w, "\n### Outbox\n\n%.0f rows/s from Postgres to JetStream by one relay, %d rows of %d an aggregate (goal %d)\n", rounds.Median(r.relayed), o.rows, perAggregate, goalRows)
	fmt.Fprintf(w, "\n### Ledger\n\n| usage events | events/s (goal %d) | events for each write of a pool's row |\n|---|---|---|\n", goalEvents)
	for _, k := range kinds() {
		fmt.Fprintf(w, "| %s | %.0f | %.0f |\n", k, rounds.Median(collect(r.booked[k], booking.rate)), rounds.Median(collect(r.booked[k], booking.perUpdate)))
	}
}

func collect[T any](samples []T, f func(T) float64) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = f(s)
	}
	return values
}
