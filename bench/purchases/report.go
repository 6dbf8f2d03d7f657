package main

import (
	"fmt"
	"io"
	"time"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
)

// report prints medians over the rounds, and ratios of each round's own numbers.
func (r results) report(w io.Writer, o options, settings string) {
	fmt.Fprintf(w, "\n### Purchases, outbox, ledger\n\n%d rounds, shuffled; %s; medians\n", o.rounds, settings)
	if o.window > 0 {
		r.reportSales(w, o)
	}
	fmt.Fprintf(w, "\nOutbox: %.0f rows/s from Postgres to JetStream by one relay, %d rows of %d an aggregate.\n",
		rounds.Median(r.relayed), o.rows, perAggregate)
	fmt.Fprint(w, "\n| usage events to the ledger | events/s | events for each write of a pool's row | Postgres CPU us/event |\n|---|---|---|---|\n")
	for _, k := range kinds() {
		of := func(f func(booking) float64) float64 { return rounds.Median(collect(r.booked[k], f)) }
		fmt.Fprintf(w, "| %s | %.0f | %.0f | %.0f |\n", k, of(booking.rate), of(booking.perUpdate), of(booking.cpuPerEvent))
	}
}

func (r results) reportSales(w io.Writer, o options) {
	fmt.Fprintf(w, "\nAt a fixed rate of %.0f/s, each order followed by a bare INSERT of one row from the same client, for %v:\n\n", o.rate,
		o.window)
	fmt.Fprint(w, "| replicas | 202 after, p50 | p95 | bare INSERT p50 | p95 | 202 / INSERT, p95 | COMPLETED after, p50 | p95 |\n"+
		"|---|---|---|---|---|---|---|---|\n")
	of := func(n int, f func(sale) float64) float64 { return rounds.Median(collect(r.sales[n], f)) }
	ms := func(n int, f func(sale) []time.Duration, q float64) string {
		return fmt.Sprintf("%.1f ms", of(n, func(s sale) float64 { return at(f(s), q).Seconds() * 1e3 }))
	}
	answered, inserted := func(s sale) []time.Duration { return s.answered }, func(s sale) []time.Duration { return s.inserted }
	completed, looped := func(s sale) []time.Duration { return s.completed }, func(s sale) []time.Duration { return s.loop.completed }
	for n, sales := range r.sales {
		p95 := func(f func(sale) []time.Duration) []float64 {
			return collect(sales, func(s sale) float64 { return at(f(s), 0.95).Seconds() })
		}
		fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %.2f | %s | %s |\n", n+1, ms(n, answered, 0.5), ms(n, answered, 0.95), ms(n, inserted, 0.5),
			ms(n, inserted, 0.95),
			rounds.Ratio(p95(answered), p95(inserted)), ms(n, completed, 0.5), ms(n, completed, 0.95))
	}
	fmt.Fprintf(w, "\n%d buyers in a closed loop, each waiting until the bus tells of their purchase's end:\n\n", o.buyers)
	fmt.Fprintln(w, "| replicas | purchases/s | COMPLETED after, p50 | p95 | CPU us/purchase: token service | Postgres | NATS |\n|---|---|---|---|---|---|---|")
	for n := range r.sales {
		cpu := func(part string) float64 { return of(n, func(s sale) float64 { return s.loop.cpuOf(part) }) }
		fmt.Fprintf(w, "| %d | %.0f | %s | %s | %.0f | %.0f | %.0f |\n", n+1, of(n, func(s sale) float64 { return s.loop.rate() }),
			ms(n, looped, 0.5), ms(n, looped, 0.95),
			cpu("tokensvc"), cpu("postgres"), cpu("nats"))
	}
}

func collect[T any](samples []T, f func(T) float64) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = f(s)
	}
	return values
}
