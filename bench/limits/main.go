// Command limits measures decisions beside envoyproxy/ratelimit's own server, in one run
// over one Redis: calls per second in a closed loop, and latency at a fixed rate below
// what both can do, for requests of one, two and four descriptors; then what an idle
// bucket takes of Redis' memory.
//
// The two are processes asked over gRPC on loopback. Ours decides exactly, all or none,
// by leaky buckets; upstream counts fixed windows, as its defaults are (no local cache,
// no statistics). Rounds are interleaved and the order within a round is shuffled; what
// counts are the ratios within a round.
//
//	go run ./bench/limits
//	go run ./bench/limits -rounds 3 -seconds 2 -accounts 100000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/bench/limits/peer"
)

type options struct {
	rounds   int
	window   time.Duration
	clients  int
	accounts int
	serve    string // Redis URL: run as our server
	profile  string // where our server writes its CPU profile
}

func main() {
	var o options
	var seconds float64
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; 0: only the memory; in each, both servers are measured once for each number of descriptors")
	flag.Float64Var(&seconds, "seconds", 3, "seconds of one measurement")
	flag.IntVar(&o.clients, "clients", 64, "callers in a closed loop, over 4 connections")
	flag.IntVar(&o.accounts, "accounts", 1_000_000, "accounts whose buckets are weighed; 0: none")
	flag.StringVar(&o.profile, "profile", "", "file for our server's CPU profile")
	flag.StringVar(&o.serve, "serve", "", "internal: run as our server over this Redis")
	flag.Parse()
	o.window = time.Duration(seconds * float64(time.Second))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := compare
	if o.serve != "" {
		run = serve
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench/limits:", err)
		os.Exit(1)
	}
}

// compare starts both servers, measures them in turn and prints the tables.
func compare(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "bench-limits")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(os.Stderr, "building envoyproxy/ratelimit and starting Redis ...")
	bin, err := peer.Build(ctx, dir)
	if err != nil {
		return err
	}
	redis, err := startRedis(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { _ = redis.stop() }()
	file := filepath.Join(dir, "limits.yaml")
	if err := os.WriteFile(file, []byte(limitsFile(false)), 0o600); err != nil {
		return err
	}
	upstream, err := peer.Start(peer.Config{Bin: bin, Redis: redis.addr, Limits: file, Prefix: "up:"})
	if err != nil {
		return err
	}
	defer upstream.Stop()
	ours, err := startOurs(o, redis.addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	systems := []*system{{name: "upstream", addr: upstream.Addr, pid: upstream.PID, redis: redis.pid}, {name: "ours", addr: ours.addr,
		pid: ours.pid, redis: redis.pid}}
	for _, s := range systems {
		if err := s.connect(); err != nil {
			return err
		}
		defer s.close()
	}
	if o.rounds > 0 {
		results, err := interleave(ctx, o, systems)
		if err != nil {
			return err
		}
		report(os.Stdout, o, results)
	}
	if o.accounts == 0 {
		return nil
	}
	return weigh(ctx, os.Stdout, redis.addr, o.accounts)
}
