package serve

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestPricesAreFollowed: a model that is added to the list has a price with the next call, another
// list takes the place of the first, and one with a mistake changes nothing.
func TestPricesAreFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := func(file, model string) {
		t.Helper()
		text := fmt.Sprintf("version: test\ncurrency: EUR\nprices:\n  - {provider: openai, model: %s, from: 2026-01-01, per_million: {input: 1.00, output: 2.00}, source: test}\n", model)
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list("one.yaml", "first")
	current := &live{}
	name := func(file string) { current.now.Store(&config.Config{Prices: config.Prices{File: file}}) }
	name("one.yaml")
	s := service{files: settings.New(filepath.Join(dir, "leaky.yaml"), dir, os.Getenv, slog.New(slog.DiscardHandler)), live: current,
		log: slog.New(slog.DiscardHandler)}
	s.dir = dir
	prices, err := s.livePrices(t.Context(), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	cost := func(model string) int64 {
		e := usage.Event{Provider: "openai", ModelServed: model, Allowed: true, Input: 1_000_000, Timestamp: time.Now()}
		prices.Freeze(&e)
		return e.CostMicros
	}
	if cost("first") == 0 || cost("second") != 0 {
		t.Errorf("want a price of the first alone, got %d and %d", cost("first"), cost("second"))
	}
	list("one.yaml", "second")
	testenv.Eventually(t, "the second has a price", func() bool { return cost("second") != 0 && cost("first") == 0 })
	list("two.yaml", "third")
	name("two.yaml")
	testenv.Eventually(t, "the other list", func() bool { return cost("third") != 0 })
	if err := os.WriteFile(filepath.Join(dir, "two.yaml"), []byte("prices: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	list("one.yaml", "fourth")
	if cost("third") == 0 {
		t.Error("want the last good list kept")
	}
	list("two.yaml", "fifth")
	testenv.Eventually(t, "the mended list", func() bool { return cost("fifth") != 0 })
}

const threePrices = `version: test
currency: EUR
prices:
  - {provider: openai, model: first, from: 2026-01-01, per_million: {input: 1.00, output: 2.00}, source: test}
  - {provider: openai, model: second, from: 2026-01-01, per_million: {input: 1.00, output: 2.00}, source: test}
  - {provider: openai, model: third, from: 2026-01-01, per_million: {input: 1.00, output: 2.00}, source: test}
`

// TestASpoiledListOfPricesIsNotFollowed: whatever becomes of the file, and wherever it is cut, a part that
// runs and one that starts price calls by the last good list, and say so beside readiness.
func TestASpoiledListOfPricesIsNotFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "prices.yaml")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	part := func() service {
		l := &live{}
		l.now.Store(&config.Config{Prices: config.Prices{File: file}})
		return service{files: settings.New("", dir, os.Getenv, slog.New(slog.DiscardHandler)), live: l, dir: dir, log: slog.New(slog.DiscardHandler),
			stores: telemetry.NewStores(prometheus.NewRegistry()), registry: prometheus.NewRegistry()}
	}
	put(threePrices)
	running := part()
	list, err := running.livePrices(t.Context(), time.Hour) // it is looked at below
	if err != nil {
		t.Fatal(err)
	}
	follow := running.live.prices.Load().follow
	spoiled := map[string]func(){
		"gone":      func() { _ = os.Remove(file) },
		"empty":     func() { put("") },
		"a mistake": func() { put(strings.Replace(threePrices, "input", "inputs", 1)) },
		"zeros":     func() { put(strings.Repeat("\x00", len(threePrices))) },
	}
	for at := range threePrices {
		if at > 0 && (at%40 == 0 || threePrices[at-1] == '\n') {
			spoiled[fmt.Sprintf("cut at %d", at)] = func() { put(threePrices[:at]) }
		}
	}
	cost := func(of interface{ Freeze(e *usage.Event) }) int64 {
		e := usage.Event{Provider: "openai", ModelServed: "third", Allowed: true, Input: 1_000_000, Timestamp: time.Now()}
		of.Freeze(&e)
		return e.CostMicros
	}
	for name, spoil := range spoiled {
		spoil()
		follow()
		if cost(list) == 0 || running.common(nil).Warn() == nil {
			t.Errorf("%s: want the last good prices and a word about it, got %d, %v", name, cost(list), running.common(nil).Warn())
		}
		started, err := part().prices()
		if err != nil || cost(started) == 0 {
			t.Errorf("%s: a part that starts: %v", name, err)
		}
	}
	other := strings.Replace(strings.SplitAfter(threePrices, "second")[0], "test", "test-2", 1) + ", from: 2026-01-01, per_million: {input: 1.00, output: 2.00}}"
	for name, text := range map[string]string{"shorter": other + "\n", "shorter, and its last line has no end": other, "marked": "\ufeff" + other} {
		put(threePrices)
		follow()
		if cost(list) == 0 {
			t.Fatal("want the whole list followed")
		}
		put(text)
		follow()
		if cost(list) != 0 || running.common(nil).Warn() != nil {
			t.Errorf("%s and of another version: want it followed, got %v", name, running.common(nil).Warn())
		}
	}
	kept := filepath.Join(dir, settings.Folder, "last-good-prices.json")
	content, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	put("")
	for name, damaged := range map[string]string{"cut": string(content[:len(content)/2]), "changed": strings.Replace(string(content), "1.00", "0.00", 1)} {
		if err := os.WriteFile(kept, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := part().prices(); err == nil {
			t.Errorf("what was kept is %s: want the file's own mistake", name)
		}
	}
}

// TestPricesThatAFullDiskDidNotTakeAreKeptLater: a part that starts prices calls as the others do.
func TestPricesThatAFullDiskDidNotTakeAreKeptLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, folder := filepath.Join(dir, "prices.yaml"), filepath.Join(dir, settings.Folder)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(text string) {
		t.Helper()
		must(os.WriteFile(file, []byte(text), 0o600))
	}
	var log strings.Builder
	part := func() service {
		l := &live{}
		l.now.Store(&config.Config{Prices: config.Prices{File: file}})
		return service{files: settings.New("", dir, os.Getenv, slog.New(slog.DiscardHandler)), live: l, dir: dir, log: slog.New(slog.NewTextHandler(&log, nil))}
	}
	put(threePrices)
	running, _, err := part().openPrices()
	must(err)
	must(os.Rename(folder, folder+".away"))
	must(os.WriteFile(folder, nil, 0o600)) // nothing can be written
	put(strings.Replace(threePrices, "input: 1.00", "input: 3.00", 3))
	dearer, err := running.read()
	must(err)
	for range 3 { // it is looked at each second
		running.files()
	}
	if told := strings.Count(log.String(), "not kept"); told != 1 {
		t.Errorf("want it told once, got %d times: %s", told, log.String())
	}
	must(os.Remove(folder))
	must(os.Rename(folder+".away", folder))
	running.files()
	put("")
	if started, err := part().prices(); err != nil || started.Version != dearer.Version {
		t.Errorf("want list %s, got %v, %v", dearer.Version, started, err)
	}
}

// refusal is what a store answers.
type refusal struct{}

func (refusal) Error() string  { return "no space left" }
func (refusal) Reason() string { return "no_space" }

// TestAStoreThatRefusesIsNotReady: what a store refuses stands in the readiness of each part that uses it,
// and is over when it serves.
func TestAStoreThatRefusesIsNotReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stores := telemetry.NewStores(prometheus.NewRegistry())
		s := service{live: &live{}, stores: stores, files: settings.New("", "", os.Getenv, slog.New(slog.DiscardHandler))}
		var answer error
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = stores.Watch(ctx, "nats", func(context.Context) error { return answer }) }()
		ready := s.common(func(context.Context) error { return nil }).Ready
		for _, step := range []struct {
			answer error
			told   string
		}{{nil, ""}, {refusal{}, "nats refuses: no space left"}, {nil, ""}} {
			answer = step.answer
			time.Sleep(10 * time.Second) // it is asked every five
			synctest.Wait()
			if err := ready(ctx); (err == nil) != (step.told == "") || err != nil && err.Error() != step.told {
				t.Errorf("want %q, got %v", step.told, err)
			}
		}
		stop()
		synctest.Wait()
	})
}
