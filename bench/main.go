// Command bench measures the path of a request in one run on one machine: CPU
// microseconds per request and latency of a bare Envoy, of the same filter chain
// with services that do nothing, and of the whole product, in shuffled rounds; then
// holds per second on one Redis and the resident memory of each process.
//
//	go run ./bench                  six rounds of four seconds a measurement
//	go run ./bench -rounds 3 -seconds 2
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type options struct {
	rounds  int
	window  time.Duration
	clients int
	noop    string // run as the no-op services, listening in this folder
}

func main() {
	var o options
	var seconds float64
	flag.IntVar(&o.rounds, "rounds", 6, "rounds; in each, every system is measured once per shape, in shuffled order")
	flag.Float64Var(&seconds, "seconds", 4, "seconds of one measurement")
	flag.IntVar(&o.clients, "clients", 32, "clients in a closed loop")
	flag.StringVar(&o.noop, "noop", "", "internal: run the no-op services in this folder")
	flag.Parse()
	o.window = time.Duration(seconds * float64(time.Second))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := bench
	if o.noop != "" {
		run = serveNoop
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench starts the three systems, measures them in turn, and prints the tables.
func bench(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres runs as another user below it
		return err
	}
	fmt.Fprintln(os.Stderr, "starting a bare Envoy, the chain with no-op services, and the whole stack ...")
	systems, stop, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	whole := systems[len(systems)-1]
	select { // services give back what only their start needed after four seconds
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(6 * time.Second):
	}
	idle, err := processes(ctx, whole.stack)
	if err != nil {
		return err
	}
	shapes := []shape{jsonShape(), streamShape(), burstShape(50), burstShape(200), feltShape()}
	results := map[string][]sample{}
	for round := range o.rounds {
		for _, sh := range shapes {
			for _, i := range rand.Perm(len(systems)) {
				s := systems[i]
				got, err := measure(ctx, s, sh, o)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, sh.name, err)
				}
				results[s.name+"/"+sh.name] = append(results[s.name+"/"+sh.name], got)
				fmt.Fprintf(os.Stderr, "round %d/%d  %-5s %-20s %6.0f req/s  %6.0f us CPU/request\n", round+1, o.rounds, s.name, sh.name, got.rate(),
					got.cpuPerRequest())
			}
		}
	}
	report(os.Stdout, o, shapes, results)
	if err := reportHolds(ctx, os.Stdout, whole, o); err != nil {
		return err
	}
	return reportMemory(ctx, os.Stdout, whole, idle)
}
