package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
)

// TestTwoStacksOnOneSpool: the second is refused by whatever could start an Envoy on it, before that
// writes a line, and told by whom; once the first has ended it may.
func TestTwoStacksOnOneSpool(t *testing.T) {
	t.Parallel()
	first, second, spool := stateDir(t), stateDir(t), filepath.Join(stateDir(t), "spool")
	yaml := filepath.Join(stateDir(t), "leaky.yaml")
	if err := os.WriteFile(yaml, []byte("envoy: {spool: "+filepath.Join(spool, "usage.jsonl")+"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(yaml, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	spools := stack.NewSpools(first, slog.New(slog.DiscardHandler))
	if err := spools.Hold(cfg); err != nil {
		t.Fatal(err)
	}
	bootstrap := filepath.Join(second, "run", "envoy.json")
	for _, args := range [][]string{{"check", yaml}, {"--config", yaml, "up"}, {"--config", yaml, "supervise"},
		{"--config", yaml, "bootstrap"}, {"--config", yaml, "bootstrap", bootstrap}} {
		out, errs, ok := leaky(t, second, nil, args...)
		if want := "envoy.spool: " + spool + " belongs to the stack in " + first + ", which runs"; ok || out != "" || strings.Count(errs, "\n") != 1 ||
			!strings.Contains(errs, want) {
			t.Errorf("%v: want one line with %q, got %t, %s%s", args, want, ok, out, errs)
		}
	}
	if left, err := os.ReadDir(spool); err != nil || len(left) != 1 {
		t.Errorf("want the first one's lock in the spool and nothing else, got %v, %v", left, err)
	}
	if _, errs, ok := leaky(t, first, nil, "check", yaml); !ok {
		t.Errorf("the owner may check its own file: %s", errs)
	}
	if out, errs, ok := leaky(t, first, nil, "--config", yaml, "bootstrap", bootstrap); ok || !strings.Contains(errs, first) {
		t.Errorf("one more Envoy beside the owner's: want it refused, got %s%s", out, errs)
	}
	spools.Release()
	for _, args := range [][]string{{"check", yaml}, {"--config", yaml, "bootstrap", bootstrap}} {
		if _, errs, ok := leaky(t, second, nil, args...); !ok {
			t.Errorf("%v after the first has ended: %s", args, errs)
		}
	}
}

// TestASpoolsHoldFollowsTheFile: a stack whose envoy.spool is changed has both folders, since its Envoy
// may still write into the old one.
func TestASpoolsHoldFollowsTheFile(t *testing.T) {
	t.Parallel()
	state, other, folder := stateDir(t), stateDir(t), stateDir(t)
	at := func(name string) *config.Config {
		t.Helper()
		cfg, err := config.Parse([]byte("envoy: {spool: " + filepath.Join(folder, name, "usage.jsonl") + "}"))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	mine, theirs := stack.NewSpools(state, slog.New(slog.DiscardHandler)), stack.NewSpools(other, slog.New(slog.DiscardHandler))
	defer theirs.Release()
	for _, name := range []string{"a", "b", "a"} {
		if err := mine.Hold(at(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b"} {
		if err := theirs.Hold(at(name)); err == nil {
			t.Errorf("%s is free for another stack", name)
		}
	}
	mine.Release()
	if err := theirs.Hold(at("a")); err != nil {
		t.Error(err)
	}
}
