// Command purchases measures what sells and books tokens: purchases per second and their
// latency with one and two replicas of the token service, what the caller waits for beside
// a bare INSERT into the same Postgres, events relayed from the outbox, and usage booked in
// the ledger.
//
// Postgres (which syncs to disk), NATS, the payment stub and the token service are
// processes as `leaky up` runs them. Rounds are interleaved, the order of the replicas
// within a round is shuffled; ratios are those within a round.
//
//	go run ./bench/purchases                        three rounds, eight seconds a measurement
//	go run ./bench/purchases -rounds 1 -seconds 2
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

type options struct {
	rounds  int
	window  time.Duration
	buyers  int
	rate    float64
	rows    int
	events  int
	profile string
}

func main() {
	var o options
	var seconds float64
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; in each, everything is measured once")
	flag.Float64Var(&seconds, "seconds", 8, "seconds of one measurement of purchases; 0: only the outbox and the ledger")
	flag.IntVar(&o.buyers, "buyers", 32, "buyers in a closed loop: each waits for the end of their purchase")
	flag.Float64Var(&o.rate, "rate", 40, "purchases a second where latency is measured")
	flag.IntVar(&o.rows, "rows", 20_000, "events in the outbox, in each round")
	flag.IntVar(&o.events, "events", 40_000, "usage events to book, in each round and kind")
	flag.StringVar(&o.profile, "profile", "", "file for a CPU profile of this process, which relays and books")
	flag.Parse()
	o.window = time.Duration(seconds * float64(time.Second))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/purchases:", err)
		os.Exit(1)
	}
}

// bench starts the parts, measures, and prints the tables. Books that do not balance in
// the end fail the run: a throughput of wrong entries is no throughput.
func bench(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "bench-purchases")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(os.Stderr, "building leaky and starting Postgres, NATS, the payment stub and two token services ...")
	s, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer s.stop()
	var r results
	if o.window > 0 {
		if err := r.sell(ctx, s, o); err != nil {
			return err
		}
	}
	for n := range replicas {
		if err := s.turn(ctx, n, false); err != nil {
			return err
		}
	}
	if err := r.book(ctx, s, o); err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	settings, err := s.settings(ctx)
	if err != nil {
		return err
	}
	r.report(os.Stdout, o, settings)
	return nil
}

// results are by round.
type results struct {
	sales   [replicas][]sale // by the number of replicas, less one
	relayed []float64        // rows per second
	booked  map[kind][]booking
}

// sell measures purchases with one and two replicas.
func (r *results) sell(ctx context.Context, s *stack, o options) error {
	m, err := newMarket(s, o)
	if err != nil {
		return err
	}
	if _, err := m.loop(ctx, 1, o.window/4); err != nil { // caches and connections are warm before the clock starts
		return err
	}
	for round := range o.rounds {
		for _, n := range rand.Perm(replicas) {
			for i := range replicas {
				if err := s.turn(ctx, i, i <= n); err != nil {
					return err
				}
			}
			got, err := m.sale(ctx, n+1)
			if err != nil {
				return fmt.Errorf("%d replicas: %w", n+1, err)
			}
			r.sales[n] = append(r.sales[n], got)
			fmt.Fprintf(os.Stderr, "round %d/%d  %d replicas  %5.0f purchases/s  answered p95 %v, INSERT p95 %v\n", round+1, o.rounds, n+1,
				got.loop.rate(),
				at(got.answered, 0.95).Round(time.Microsecond), at(got.inserted, 0.95).Round(time.Microsecond))
		}
	}
	return nil
}

// book measures the relay and the ledger in this process, alone with the stores.
func (r *results) book(ctx context.Context, s *stack, o options) error {
	stop, err := profile(o.profile)
	if err != nil {
		return err
	}
	defer stop()
	b, err := newBooks(ctx, s)
	if err != nil {
		return err
	}
	r.booked = map[kind][]booking{}
	for round := range o.rounds {
		rate, err := b.relay(ctx, o.rows)
		if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		r.relayed = append(r.relayed, rate)
		fmt.Fprintf(os.Stderr, "round %d/%d  outbox %.0f rows/s\n", round+1, o.rounds, rate)
		order := slices.Clone(kinds())
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, k := range order {
			got, err := b.measure(ctx, k, o.events)
			if err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
			r.booked[k] = append(r.booked[k], got)
			fmt.Fprintf(os.Stderr, "round %d/%d  %s: %.0f events/s\n", round+1, o.rounds, k, got.rate())
		}
	}
	return nil
}
