package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// report prints one table per shape: medians over the rounds, and the ratios of each
// round's own numbers, since ratios within a round survive a noisy machine.
func report(w io.Writer, o options, shapes []shape, results map[string][]sample) {
	fmt.Fprintf(w, "\n%d rounds of %v, shuffled; %d clients in a closed loop (64 where chunks come one by one); medians, [quartiles]\n",
		o.rounds, o.window, o.clients)
	for _, sh := range shapes {
		if sh.felt {
			felt(w, sh, results)
			continue
		}
		fmt.Fprintf(w, "\n### %s\n\n| system | req/s | CPU us/request | Envoy | services | stores | p50 | p99 | first byte p50 | CPU / bare | CPU / chain | rate / chain |\n", sh.name)
		fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|")
		bare, chain := results["bare/"+sh.name], results["chain/"+sh.name]
		for _, name := range []string{"bare", "chain", "whole"} {
			got := results[name+"/"+sh.name]
			of := func(f func(sample) float64) float64 { return rounds.Quantile(collect(got, f), 0.5) }
			group := func(g string) float64 {
				return of(func(s sample) float64 { return s.cpuOf(func(part string) bool { return groupOf(part) == g }) })
			}
			cpu := collect(got, sample.cpuPerRequest)
			fmt.Fprintf(w, "| %s | %.0f | %.0f [%.0f-%.0f] | %.0f | %.0f | %.0f | %s | %s | %s | %.2f | %.2f | %.2f |\n", name, of(sample.rate),
				rounds.Quantile(cpu, 0.5), rounds.Quantile(cpu, 0.25), rounds.Quantile(cpu, 0.75), group("envoy"), group("services"), group("stores"),
				ms(of(func(s sample) float64 { return at(s.latency, 0.5) })), ms(of(func(s sample) float64 { return at(s.latency, 0.99) })),
				ms(of(func(s sample) float64 { return at(s.firstByte, 0.5) })),
				ratio(got, bare, sample.cpuPerRequest), ratio(got, chain, sample.cpuPerRequest), ratio(got, chain, sample.rate))
		}
		byPart(w, results["whole/"+sh.name])
		control := collect(chain, sample.rate)
		if spread := (rounds.Quantile(control, 0.75) - rounds.Quantile(control, 0.25)) / rounds.Quantile(control, 0.5); spread > 0.3 {
			fmt.Fprintf(w, "\nThe control's quartiles lie %.0f %% apart: the machine was too noisy, run again.\n", 100*spread)
		}
	}
}

// byPart prints where the whole path's CPU goes.
func byPart(w io.Writer, got []sample) {
	var lines []string
	for _, part := range slices.Sorted(maps.Keys(got[0].cpu)) {
		us := rounds.Quantile(collect(got, func(s sample) float64 { return s.cpuOf(func(p string) bool { return p == part }) }), 0.5)
		lines = append(lines, fmt.Sprintf("%s %.0f", part, us))
	}
	fmt.Fprintf(w, "\nwhole, CPU us/request by part: %s\n", strings.Join(lines, ", "))
}

// felt prints what a reader of a stream feels, beside the bare Envoy.
func felt(w io.Writer, sh shape, results map[string][]sample) {
	fmt.Fprintf(w, "\n### %s\n\nThe provider sends its first chunk after 200 ms and then one every 5 ms; four readers.\n", sh.name)
	fmt.Fprint(w, "\n| system | first byte p50 | gap p50 | gap p99 | first byte / bare | gap p50 / bare | gap p99 / bare |\n|---|---|---|---|---|---|---|\n")
	bare := results["bare/"+sh.name]
	first := func(s sample) float64 { return at(s.firstByte, 0.5) }
	gap := func(s sample) float64 { return at(s.gaps, 0.5) }
	worst := func(s sample) float64 { return at(s.gaps, 0.99) }
	for _, name := range []string{"bare", "chain", "whole"} {
		got := results[name+"/"+sh.name]
		median := func(f func(sample) float64) string { return ms(rounds.Quantile(collect(got, f), 0.5)) }
		fmt.Fprintf(w, "| %s | %s | %s | %s | %.2f | %.2f | %.2f |\n", name, median(first), median(gap), median(worst),
			ratio(got, bare, first), ratio(got, bare, gap), ratio(got, bare, worst))
	}
}

func collect(samples []sample, f func(sample) float64) []float64 {
	var values []float64
	for _, s := range samples {
		values = append(values, f(s))
	}
	slices.Sort(values)
	return values
}

// ratio is the median over the rounds of each round's own ratio.
func ratio(a, b []sample, f func(sample) float64) float64 {
	values := func(samples []sample) (v []float64) {
		for _, s := range samples {
			v = append(v, f(s))
		}
		return v
	}
	return rounds.Ratio(values(a), values(b))
}

func at(sorted []time.Duration, q float64) float64 {
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)])
}

func ms(nanoseconds float64) string { return fmt.Sprintf("%.1f ms", nanoseconds/1e6) }

// reportHolds drives the limiter's own API from 64 goroutines for one window: holds per
// second, then the settlement of all of them.
func reportHolds(ctx context.Context, w io.Writer, s system, o options) error {
	cfg, err := s.stack.Loaded()
	if err != nil {
		return err
	}
	addr, err := netaddr.Parse(cfg.Services.RateLimit.GRPC)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(addr.In(filepath.Clean(s.stack.Dir)).Target(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	limiter := limitpb.NewLimiterClient(conn)
	rule := func(unit string, more ...*limitpb.Entry) *limitpb.Descriptor {
		return &limitpb.Descriptor{Entries: append([]*limitpb.Entry{{Key: "count", Value: unit}, {Key: "user", Value: s.user}}, more...)}
	}
	rules := []*limitpb.Descriptor{rule("tokens", &limitpb.Entry{Key: "provider", Value: "openai"}), rule("requests")}
	var held, refused atomic.Int64
	var failure error
	var mu sync.Mutex
	var open []*limitpb.Settlement
	begin := time.Now()
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			var mine []*limitpb.Settlement
			for time.Since(begin) < o.window {
				id := uuid.NewString()
				got, err := limiter.Hold(ctx, &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: id, User: s.user, Tier: "VAST",
					Route:    "openai-chat",
					Provider: "openai", Model: "gpt-4o-mini"}, Descriptors: rules, InputTokens: 10, OutputTokens: 10})
				if err != nil {
					mu.Lock()
					failure = err
					mu.Unlock()
					return
				}
				if !got.GetAdmitted() {
					refused.Add(1)
					continue
				}
				held.Add(1)
				mine = append(mine, &limitpb.Settlement{RequestId: id, Account: got.GetAccount(), Charged: 15})
			}
			mu.Lock()
			defer mu.Unlock()
			open = append(open, mine...)
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	if failure != nil {
		return fmt.Errorf("hold: %w", failure)
	}
	begin = time.Now()
	for batch := range slices.Chunk(open, 500) {
		if _, err := limiter.Settle(ctx, &limitpb.SettleRequest{Settlements: batch}); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	fmt.Fprintf(w, "\n### One Redis\n\n%.0f holds/s over gRPC from 64 callers (two rules each, %d refused); %.0f settles/s in batches of 500\n",
		float64(held.Load())/elapsed.Seconds(), refused.Load(), float64(len(open))/time.Since(begin).Seconds())
	return nil
}

// reportMemory prints the resident memory of each process, idle before the load and after it.
func reportMemory(ctx context.Context, w io.Writer, s system, idle []process) error {
	loaded, err := processes(ctx, s.stack)
	if err != nil {
		return err
	}
	after := map[string]int64{}
	for _, p := range loaded {
		after[p.Name] = p.RSS
	}
	fmt.Fprintf(w, "\n### Resident memory, MB\n\n| process | idle | after the load |\n|---|---|---|\n")
	var services, servicesAfter int64
	for _, p := range idle {
		fmt.Fprintf(w, "| %s | %.0f | %.0f |\n", p.Name, float64(p.RSS)/1e6, float64(after[p.Name])/1e6)
		if groupOf(p.Name) == "services" {
			services, servicesAfter = services+p.RSS, servicesAfter+after[p.Name]
		}
	}
	fmt.Fprintf(w, "| **the Go services** | **%.0f** | **%.0f** |\n", float64(services)/1e6, float64(servicesAfter)/1e6)
	return nil
}
