package e2e

import (
	"strings"
	"testing"
	"time"
)

// These tests own the whole stack while they run (they stop and kill parts), so they
// are not parallel: Go runs them before it resumes the parallel ones.

func TestDemoAgreesWithItself(t *testing.T) {
	out, err := running.Leaky(t.Context(), "demo", "--for", "10s")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "tokens over the limit: 0") {
		t.Fatalf("the verdict does not say so:\n%s", out)
	}
}

// TestBooksOfRudeClientsAndProvidersAgree: whoever leaves or fails, and however, nothing goes
// over a limit and what was told is charged.
func TestBooksOfRudeClientsAndProvidersAgree(t *testing.T) {
	out, err := running.Leaky(t.Context(), "demo", "--rude", "--for", "12s")
	if err != nil || !strings.Contains(out, "tokens over the limit: 0") {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, manner := range []string{"left at the end of the stream", "left before the first byte", "left in the middle", "provider hangs",
		"provider refuses or fails", "provider fails in a 200", "provider cuts its answer", "provider tells no usage", "pictures"} {
		if !strings.Contains(out, "\n"+manner) {
			t.Errorf("no call was made in this manner: %s\n%s", manner, out)
		}
	}
}

// TestDemoSeesABrokenSettle takes the settle step away: the verdict must notice.
func TestDemoSeesABrokenSettle(t *testing.T) {
	must(t, "stop", "meter")
	out, err := running.Leaky(t.Context(), "demo", "--for", "4s", "--drain", "3s")
	must(t, "start", "meter")
	if err == nil {
		t.Fatalf("nothing was settled and the demo is content:\n%s", out)
	}
	if !strings.Contains(err.Error(), "exit status 1") {
		t.Fatalf("want exit code 1, got %v\n%s", err, out)
	}
}

// TestBooksAgreeAfterKills kills every service once while the demo runs.
func TestBooksAgreeAfterKills(t *testing.T) {
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := running.Leaky(t.Context(), "demo", "--for", "20s")
		done <- result{out, err}
	}()
	tick := time.NewTicker(2500 * time.Millisecond)
	defer tick.Stop()
	for _, part := range []string{"ratelimit", "meter", "analytics", "nats", "xds"} {
		<-tick.C
		must(t, "kill", part)
	}
	got := <-done
	if got.err != nil {
		t.Fatalf("%v\n%s", got.err, got.out)
	}
}

func must(t *testing.T, args ...string) {
	t.Helper()
	if out, err := running.Leaky(t.Context(), args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
