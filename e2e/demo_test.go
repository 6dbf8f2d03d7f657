package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/replay"
)

// These tests own the whole stack while they run (they stop and kill parts), so they
// are not parallel: Go runs them before it resumes the parallel ones.

func TestDemoAgreesWithItself(t *testing.T) {
	begun := time.Now()
	out, err := running.Leaky(t.Context(), "demo", "--for", "10s")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "tokens over the limit: 0") {
		t.Fatalf("the verdict does not say so:\n%s", out)
	}
	reconciled(t, begun, false)
	replayed(t, begun)
	must(t, "anomalies", "--since", "2h")
}

// replayed wants the limits of the stack to decide the calls since then as they did. Those of before were
// made by tests that had other limits, or none, or no meter.
func replayed(t *testing.T, begun time.Time) {
	t.Helper()
	var out bytes.Buffer
	limits := filepath.Join(filepath.Dir(running.Config), "limits.yaml")
	cmd := exec.CommandContext(t.Context(), running.Bin, "limits", "replay", limits, "--since", begun.UTC().Format(time.RFC3339Nano), "-o", "json")
	cmd.Env, cmd.Stdout, cmd.Stderr = running.Env, &out, t.Output()
	failed := cmd.Run()
	var r replay.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || failed != nil {
		t.Fatalf("%v, %v\n%s", failed, err, out.String())
	}
	t.Logf("%d calls, %d refused then, %d decided with certainty, %d of them as then", r.Calls, r.RefusedThen, r.Certain, r.CertainAgreed)
	if r.Certain == 0 || r.Certain != r.CertainAgreed || r.NewlyRefused > 0 {
		t.Errorf("want every certain call decided as then, got %s", out.String())
	}
}

// reconciled wants no difference between any two books of the calls since then, and their sums equal for
// each account: calls and money of events and ClickHouse, and tokens and money of pools, to the micro-unit.
func reconciled(t *testing.T, begun time.Time, pools bool) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), running.Bin, "reconcile", "--since", begun.UTC().Format(time.RFC3339Nano), "-o", "json")
	cmd.Env, cmd.Stdout, cmd.Stderr = running.Env, &out, t.Output()
	failed := cmd.Run()
	var r reconcile.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || failed != nil || !r.Clean || r.Calls == 0 {
		t.Fatalf("want books that agree, got %v, %v\n%s", failed, err, out.String())
	}
	var micros, drawn, paid int64
	for _, a := range r.Accounts {
		micros += a.EventCosts["USD"]
		drawn += a.Ledger
		paid += a.LedgerCosts["USD"]
		if a.Differs || !maps.Equal(a.EventCosts, a.CallCosts) || a.EventTokens != a.CallTokens || a.Drawn != a.Ledger ||
			!maps.Equal(a.DrawnCosts, a.LedgerCosts) {
			t.Errorf("want equal sums of an account, got %+v", a)
		}
	}
	if t.Logf("%d calls of %d accounts cost %d micro-dollars and drew %d tokens", r.Calls, len(r.Accounts), micros, drawn); micros == 0 ||
		pools && (drawn == 0 || paid == 0) {
		t.Error("want calls that cost something")
	}
}

// TestBooksOfRudeClientsAndProvidersAgree: whoever leaves or fails, and however, nothing goes
// over a limit and what was told is charged.
func TestBooksOfRudeClientsAndProvidersAgree(t *testing.T) {
	begun := time.Now()
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
	reconciled(t, begun, false)
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
		kill(t, running, part)
	}
	if got := <-done; got.err != nil {
		t.Errorf("%v\n%s", got.err, got.out)
	}
	testenv.Eventually(t, "all is well again", func() bool { return state(t).Ready })
}

func must(t *testing.T, args ...string) {
	t.Helper()
	if out, err := running.Leaky(t.Context(), args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
