package supervisor

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestReplan starts what is new, stops what is gone, leaves alone what runs, and keeps for the next
// start what is to run in another way.
func TestReplan(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	part := func(name, address string, after ...string) Part {
		p := child(dir, name, "obey", after...)
		p.Address = address
		return p
	}
	var plan atomic.Pointer[[]Part]
	set := func(parts ...Part) { plan.Store(&parts) }
	first := []Part{part("store", "a"), part("one", "b", "store"), part("two", "c", "store")}
	client := beginWith(t, Config{Parts: first, LogDir: dir, RunDir: dir, StateDir: dir, Log: slog.New(slog.DiscardHandler), StopGrace: patient,
		Replan: func(context.Context) ([]Part, error) { return *plan.Load(), nil }})
	for _, name := range []string{"store", "one", "two"} {
		if _, err := client.WaitReady(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	before := client.part(t, "one").PID
	replan := func(want Changes) {
		t.Helper()
		got, err := client.Replan(t.Context())
		if err != nil || !slices.Equal(got.Started, want.Started) || !slices.Equal(got.Stopped, want.Stopped) || !slices.Equal(got.Stale, want.Stale) {
			t.Fatalf("want %+v, got %+v %v", want, got, err)
		}
	}
	set(first...)
	replan(Changes{})

	turned := part("store", "a")
	turned.Env = append(slices.Clone(turned.Env), "X=1")
	other := turned
	other.Env = slices.Clone(turned.Env)
	slices.Reverse(other.Env)
	set(turned, part("one", "d", "store"), part("three", "e", "store", "one"))
	replan(Changes{Started: []string{"three"}, Stopped: []string{"two"}, Stale: []string{"store", "one"}})
	if _, err := client.WaitReady(t.Context(), "three"); err != nil {
		t.Fatal(err)
	}
	o, err := client.Status(t.Context())
	if err != nil || len(o.Parts) != 3 || o.Parts[2].Name != "three" {
		t.Errorf("want store, one and three, got %+v %v", o.Parts, err)
	}
	if one := client.part(t, "one"); one.PID != before || one.Address != "b" {
		t.Errorf("want what runs left alone, got %+v", one)
	}
	journal, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil || strings.Count(string(journal), "stop two") != 1 || strings.Count(string(journal), "stop ") != 1 {
		t.Errorf("want two alone stopped, got %s %v", journal, err)
	}
	if _, err := client.Start(t.Context(), "two"); err == nil {
		t.Error("want what is gone unknown")
	}
	if _, err := client.Restart(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "it listens where it is to", func() bool { return client.part(t, "one").Address == "d" })
	set(other, part("one", "d", "store"), part("three", "e", "store", "one"))
	replan(Changes{Stale: []string{"store"}}) // not started again yet; the order of its environment says nothing

	gone := part("one", "d", "store")
	gone.External = true
	set(other, gone, part("three", "e", "store", "one"))
	if _, err := client.Replan(t.Context()); err == nil || !strings.Contains(err.Error(), "leaky down") {
		t.Errorf("want what moves elsewhere refused, got %v", err)
	}
}

// TestReplanOfAFixedStack is refused.
func TestReplanOfAFixedStack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := begin(t, dir, child(dir, "one", "obey")).Replan(t.Context()); err == nil || !strings.Contains(err.Error(), "fixed") {
		t.Errorf("want it refused, got %v", err)
	}
}
