// Command control measures a change of one cluster among many: the time from the moment it is set
// until every Envoy has received it, and what that costs. The product's control plane and
// go-control-plane's SnapshotCache, used plainly, are measured in shuffled rounds of one run. The
// Envoys are streams of this process that acknowledge what they get, and do nothing with it.
//
//	go run ./bench/control                     five rounds of twenty changes a case
//	go run ./bench/control -rounds 1 -changes 5 -clusters 1000
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// benchCase is one thing under measurement.
type benchCase struct {
	system   string
	make     func(clusters, clients int) (system, error)
	clusters int
	clients  int
	silent   bool // one more client takes everything and acknowledges nothing
}

// sample is what one round found of a case.
type sample struct {
	took  []time.Duration // until the last client had it, of each change
	bytes float64         // on the wire, of a change and a client
	cpu   time.Duration   // of a change, clients included
	heap  float64         // bytes of a cluster, before a client came
}

// cases are those with at most so many clusters.
func cases(most int) []benchCase {
	var all []benchCase
	for _, clusters := range []int{10, 1000, 10_000} {
		if clusters > most {
			break
		}
		for _, clients := range []int{1, 50} {
			all = append(all, benchCase{"SnapshotCache", newPlain, clusters, clients, false}, benchCase{"xds", newOurs, clusters, clients, false})
		}
		all = append(all, benchCase{"SnapshotCache", newPlain, clusters, 50, true}, benchCase{"xds", newOurs, clusters, 50, true})
	}
	return all
}

func main() {
	rounds := flag.Int("rounds", 5, "rounds; in each, every case is measured once, in shuffled order")
	changes := flag.Int("changes", 20, "changes of one measurement")
	most := flag.Int("clusters", 10_000, "most clusters; 50 Envoys take minutes to load 10 000")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	all := cases(*most)
	results := make([][]sample, len(all))
	for range *rounds {
		for _, i := range rand.Perm(len(all)) {
			s, err := measure(ctx, all[i], *changes)
			if err != nil {
				fmt.Fprintf(os.Stderr, "bench/control: %s with %d clusters and %d clients: %v\n", all[i].system, all[i].clusters, all[i].clients, err)
				stop()
				os.Exit(1)
			}
			results[i] = append(results[i], s)
		}
	}
	report(os.Stdout, *rounds, *changes, all, results)
}

// warm is how many changes are not counted; the silent client is given up on meanwhile.
const warm = 3

// measure runs one case from nothing.
func measure(ctx context.Context, c benchCase, changes int) (sample, error) {
	before := heap()
	s, err := c.make(c.clusters, c.clients)
	if err != nil {
		return sample{}, err
	}
	out := sample{heap: float64(heap()-before) / float64(c.clusters)}
	f, err := connect(ctx, s, c.clients, c.silent)
	if err != nil {
		return sample{}, err
	}
	defer f.close()
	var begun time.Duration
	for n := 1; n <= warm+changes; n++ {
		if n == warm+1 {
			f.received.Store(0)
			begun = cpu()
		}
		took, err := f.change(ctx, n)
		if err != nil {
			return sample{}, err
		}
		if n > warm {
			out.took = append(out.took, took)
		}
	}
	out.cpu = (cpu() - begun) / time.Duration(changes)
	out.bytes = float64(f.received.Load()) / float64(changes*c.clients)
	slices.Sort(out.took)
	return out, nil
}

// heap is what is reachable, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools keep goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
