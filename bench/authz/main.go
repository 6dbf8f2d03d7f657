// Command authz measures what a check by extauthz costs over gRPC on one core: against
// an empty Check on the same server library, which is the floor that the wire itself
// sets, and one on grpc-go. Cases are interleaved in shuffled rounds of one run; the
// servers are processes of their own with GOMAXPROCS=1, the load is one connection with
// 32 calls in flight, as an Envoy worker keeps.
//
//	go run ./bench/authz                  eight rounds of two seconds a case
//	go run ./bench/authz -rounds 3 -seconds 1
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	rounds   int
	window   time.Duration
	inFlight int
	first    int    // tokens of a first-seen case in each round
	serve    string // run as this server
	socket   string
	identity string
}

func main() {
	var o options
	var seconds float64
	flag.IntVar(&o.rounds, "rounds", 8, "rounds; in each, every case is measured once, in shuffled order")
	flag.Float64Var(&seconds, "seconds", 2, "seconds of one measurement")
	flag.IntVar(&o.inFlight, "in-flight", 32, "calls in flight")
	flag.IntVar(&o.first, "first", 3000, "tokens that a round of a first-seen case brings")
	flag.StringVar(&o.serve, "serve", "", "internal: be a server")
	flag.StringVar(&o.socket, "socket", "", "internal: its socket")
	flag.StringVar(&o.identity, "identity", "", "internal: address of identity")
	flag.Parse()
	o.window = time.Duration(seconds * float64(time.Second))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := bench
	if o.serve != "" {
		run = serve
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/authz:", err)
		os.Exit(1)
	}
}

// bench starts the servers, measures the cases in turn, and prints the table.
func bench(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "authz")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	id, err := newIdentity()
	if err != nil {
		return err
	}
	defer id.server.Close()
	servers := map[string]*server{}
	for _, kind := range []string{serverEmpty, serverGRPC, serverAuthz} {
		s, err := startServer(ctx, kind, filepath.Join(dir, kind), id.server.URL)
		if err != nil {
			return fmt.Errorf("start %s: %w", kind, err)
		}
		defer s.stop()
		servers[kind] = s
	}
	all := cases(id)
	results := make([][]sample, len(all))
	for round := range o.rounds {
		for _, n := range rand.Perm(len(all)) {
			c := all[n]
			got, err := measureCase(ctx, servers[c.server], c, o)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			results[n] = append(results[n], got)
			fmt.Fprintf(os.Stderr, "round %d/%d  %-32s %7.0f checks/s  %6.1f us CPU\n", round+1, o.rounds, c.name, got.rate(), got.cpuPerCheck())
		}
	}
	report(os.Stdout, o, all, results)
	return nil
}
