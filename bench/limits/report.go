package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
)

// pairOf is what one round found of one server.
type pairOf struct{ closed, open sample }

// results are by descriptors and server, a pair for each round.
type results map[int]map[string][]pairOf

func counts() []int { return []int{1, 2, 4} }

// openShare is the fixed rate, as a share of what upstream does in a closed loop.
const openShare = 0.5

func interleave(ctx context.Context, o options, systems []*system) (results, error) {
	wires := map[int][][]byte{}
	rate := map[int]float64{}
	out := results{}
	warm := o
	warm.window = o.window / 2
	for _, n := range counts() {
		for i := range accounts {
			wires[n] = append(wires[n], request(i, n))
		}
		out[n] = map[string][]pairOf{}
		for _, s := range systems {
			got, err := s.settled(ctx, wires[n], warm, 0)
			if err != nil {
				return nil, err
			}
			if s.name == "upstream" {
				rate[n] = got.rate() * openShare
			}
		}
	}
	for round := range o.rounds {
		for _, n := range counts() {
			for _, i := range rand.Perm(len(systems)) {
				s := systems[i]
				closed, err := s.settled(ctx, wires[n], o, 0)
				if err != nil {
					return nil, err
				}
				open, err := s.settled(ctx, wires[n], o, rate[n])
				if err != nil {
					return nil, err
				}
				out[n][s.name] = append(out[n][s.name], pairOf{closed, open})
				fmt.Fprintf(os.Stderr, "round %d/%d  %d descriptors  %-8s %6.0f calls/s   at %5.0f/s p99 %5.0f us\n", round+1, o.rounds, n, s.name,
					closed.rate(), open.rate(), open.p99())
			}
		}
	}
	return out, nil
}

// settled is measure, again after a pause when a call failed: on a machine that others
// use too, even a round trip to Redis can take longer than a server waits for it.
func (s *system) settled(ctx context.Context, wires [][]byte, o options, perSecond float64) (sample, error) {
	const tries = 4
	for try := 1; ; try++ {
		got, err := s.measure(ctx, wires, o, perSecond)
		if err == nil || try == tries || ctx.Err() != nil {
			return got, err
		}
		fmt.Fprintf(os.Stderr, "%s: a call failed, measuring again\n", s.name)
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
}

// report prints medians over the rounds, and of the ratios within each round.
func report(w io.Writer, o options, all results) {
	fmt.Fprintf(w, "\n%d rounds of %v, interleaved; %d callers over %d connections, %d accounts; medians\n", o.rounds, o.window, o.clients,
		connections, accounts)
	fmt.Fprint(w, "\n| descriptors | server | calls/s | server CPU us/call | Redis CPU us/call | p99 closed, us | at a fixed rate of | p50, us | p99, us |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, n := range counts() {
		for _, name := range []string{"upstream", "ours"} {
			of := func(f func(pairOf) float64) float64 { return median(all[n][name], f) }
			fmt.Fprintf(w, "| %d | %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f |\n", n, name, of(closedRate),
				of(func(p pairOf) float64 { return p.closed.serverCPU() }),
				of(func(p pairOf) float64 { return p.closed.redisCPU() }), of(func(p pairOf) float64 { return p.closed.p99() }),
				of(func(p pairOf) float64 { return p.open.rate() }), of(func(p pairOf) float64 { return p.open.p50() }), of(openP99))
		}
	}
	fmt.Fprint(w, "\n| descriptors | calls/s, ours / upstream | p99 at the fixed rate, ours / upstream |\n|---|---|---|\n")
	for _, n := range counts() {
		fmt.Fprintf(w, "| %d | %s | %s |\n", n, ratio(all[n], closedRate), ratio(all[n], openP99))
	}
}

func closedRate(p pairOf) float64 { return p.closed.rate() }
func openP99(p pairOf) float64    { return p.open.p99() }

func median(all []pairOf, f func(pairOf) float64) float64 { return rounds.Median(collect(all, f)) }

func collect(all []pairOf, f func(pairOf) float64) []float64 {
	values := make([]float64, len(all))
	for i, p := range all {
		values[i] = f(p)
	}
	return values
}

// ratio is the median of each round's own ratio, with the quartiles.
func ratio(got map[string][]pairOf, f func(pairOf) float64) string {
	var values []float64
	for i := range got["ours"] {
		values = append(values, f(got["ours"][i])/f(got["upstream"][i]))
	}
	slices.Sort(values)
	return fmt.Sprintf("%.2f [%.2f-%.2f]", rounds.Quantile(values, 0.5), rounds.Quantile(values, 0.25), rounds.Quantile(values, 0.75))
}
