package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// TestAPartThatNoPlanNames is started by its name, stays when the plan is read anew, is taken over by
// a plan that names it, and is forgotten once it is stopped.
func TestAPartThatNoPlanNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var plan atomic.Pointer[[]Part]
	first := []Part{child(dir, "one", "obey")}
	plan.Store(&first)
	client := beginWith(t, Config{Parts: first, LogDir: dir, RunDir: dir, StateDir: dir, Log: slog.New(slog.DiscardHandler), StopGrace: patient,
		Replan: func(context.Context) ([]Part, error) { return *plan.Load(), nil },
		Further: func(_ context.Context, name string) (Part, error) {
			switch {
			case strings.HasPrefix(name, "one-"):
				return child(dir, name, "obey", "one"), nil
			case name == "single-2":
				return Part{}, fmt.Errorf("single runs once")
			}
			return Part{}, ErrNoPart
		}})
	names := func() []string {
		t.Helper()
		o, err := client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, p := range o.Parts {
			all = append(all, p.Name)
		}
		return all
	}
	for name, want := range map[string]string{"single-2": "runs once", "onne": `did you mean "one"?`} {
		if _, err := client.Start(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %s, got %v", name, want, err)
		}
	}
	if _, err := client.Stop(t.Context(), "one-2"); err == nil {
		t.Error("want only start to make a part")
	}
	for _, name := range []string{"one-2", "one-3", "one-2"} {
		if _, err := client.Start(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if _, err := client.WaitReady(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	pid := client.part(t, "one-2").PID
	second := []Part{child(dir, "one", "obey"), child(dir, "one-2", "obey")}
	plan.Store(&second)
	changes, err := client.Replan(t.Context())
	if err != nil || len(changes.Started)+len(changes.Stopped) > 0 || client.part(t, "one-2").PID != pid {
		t.Errorf("want what runs left alone, got %+v %v", changes, err)
	}
	for _, name := range []string{"one-2", "one-3"} {
		if s, err := client.Stop(t.Context(), name); err != nil || s.State != StateStopped {
			t.Errorf("want %s stopped, got %+v %v", name, s, err)
		}
	}
	if got := names(); !slices.Equal(got, []string{"one", "one-2"}) {
		t.Errorf("want the one that no plan names forgotten, got %v", got)
	}
	if _, err := client.Start(t.Context(), "one-3"); err != nil {
		t.Errorf("want it started again, got %v", err)
	}
}
