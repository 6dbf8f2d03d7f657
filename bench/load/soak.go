package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// A part grows if what it takes in the last quarter of a soak is so much more than in the second:
// caches fill at first, and a collector's heap breathes.
const (
	growth          = 1.25
	memorySlack     = 32 << 20 // bytes
	goroutineSlack  = 50
	descriptorSlack = 50
	samples         = 40 // in all
)

// gauge is something of a process that must not grow.
type gauge struct {
	part, what string
}

// soak runs all scenarios at once, each at a fifth of its rate, and looks at every process meanwhile.
func (l *load) soak(ctx context.Context, out io.Writer, all []scenario) error {
	var group sync.WaitGroup
	outcomes := make([]outcome, len(all))
	for i, s := range all {
		group.Go(func() { outcomes[i] = l.attack(ctx, s, steady(s.rate/5), l.o.soak) })
	}
	seen, disk := map[gauge][]float64{}, l.stateBytes()
	every := time.NewTicker(l.o.soak / samples)
	defer every.Stop()
	for range samples {
		select {
		case <-ctx.Done():
			group.Wait()
			return ctx.Err()
		case <-every.C:
		}
		if err := l.sample(ctx, seen); err != nil {
			return err
		}
	}
	group.Wait()
	fmt.Fprintf(out, "%v of all scenarios at once.\n\n%s", l.o.soak, head)
	var wrong []error
	requests := 0
	for i, s := range all {
		s.p95 = time.Hour // the machine is shared by all; latency is what each is measured for alone
		requests += outcomes[i].requests
		fmt.Fprintln(out, outcomes[i].row(s))
		wrong = append(wrong, outcomes[i].judge(s, l.o))
	}
	fmt.Fprintf(out, "\nThe disk has %.0f bytes more for each request.\n\n| process | what | second quarter | last quarter |\n|---|---|---|---|\n",
		float64(l.stateBytes()-disk)/float64(max(1, requests)))
	return errors.Join(append(wrong, grown(out, seen))...)
}

// grown prints the medians of the second and the last quarter, and tells what grew.
func grown(out io.Writer, seen map[gauge][]float64) error {
	slack := map[string]float64{"memory, MB": memorySlack / 1e6, "goroutines": goroutineSlack, "descriptors": descriptorSlack}
	var wrong []error
	byName := func(a, b gauge) int { return cmp.Or(cmp.Compare(a.part, b.part), cmp.Compare(a.what, b.what)) }
	for _, g := range slices.SortedFunc(maps.Keys(seen), byName) {
		values := seen[g]
		quarter := len(values) / 4
		if quarter == 0 {
			wrong = append(wrong, fmt.Errorf("%s: %s was seen %d times only: it did not run all the time", g.part, g.what, len(values)))
			continue
		}
		before, after := rounds.Median(values[quarter:2*quarter]), rounds.Median(values[len(values)-quarter:])
		fmt.Fprintf(out, "| %s | %s | %.0f | %.0f |\n", g.part, g.what, before, after)
		if after > growth*before+slack[g.what] {
			wrong = append(wrong, fmt.Errorf("%s: %s grew from %.0f to %.0f", g.part, g.what, before, after))
		}
	}
	return errors.Join(wrong...)
}

// sample notes what every process takes now.
func (l *load) sample(ctx context.Context, seen map[gauge][]float64) error {
	text, err := l.stack.Leaky(ctx, "ps", "-o", "json")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	var parts []supervisor.Status
	if err := json.Unmarshal([]byte(text), &parts); err != nil {
		return fmt.Errorf("read the parts: %w", err)
	}
	for _, p := range parts {
		if p.PID == 0 {
			continue
		}
		add := func(what string, value float64) {
			g := gauge{p.Name, what}
			seen[g] = append(seen[g], value)
		}
		add("memory, MB", float64(p.RSS)/1e6)
		if entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.PID), "fd")); err == nil {
			add("descriptors", float64(len(entries)))
		}
		if p.Name == topology.NATS {
			continue // its port speaks no HTTP
		}
		if n := goroutines(ctx, p.Address); n > 0 {
			add("goroutines", n)
		}
	}
	return nil
}

// goroutines are those of a service of ours, by its metrics; 0: it is none.
func goroutines(ctx context.Context, address string) float64 {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return 0
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil || families["go_goroutines"] == nil {
		return 0
	}
	return families["go_goroutines"].GetMetric()[0].GetGauge().GetValue()
}
