package serve

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
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
