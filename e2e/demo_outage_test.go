package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// outages gives each provider's routes another mode.
const outages = `timeout: 2s, outage: {default: closed, routes: {gemini-generate: open, gemini-stream: open, qwen-chat: lease}, lease_tokens: 20000, lease_for: 5s}}`

// TestDemoBoundsAnOutage takes Redis away for two seconds, under load, from four replicas
// of ratelimit: each mode keeps its promise, and the books agree afterwards.
func TestDemoBoundsAnOutage(t *testing.T) {
	stack, err := stacktest.New(t.Context(), testenv.Folder(t), 0, stacktest.Built(running.Bin), stacktest.Replicas("ratelimit", 4),
		stacktest.Edit("outage: {dial_timeout: 2s, timeout: 5s}, timeout: 10s}", outages))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = stack.Leaky(context.Background(), "down") })
	if out, err := stack.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	v := runDemo[judge.Verdict](t, stack, "--for", "6s", "--kill", "redis@2s+2s")
	t.Logf("seed %d: %d calls, written down after the outage: %v", v.Seed, v.Requests, v.Adopted)
	if len(v.Outages) != 1 || len(v.Outages[0].Modes) != 3 {
		t.Fatalf("want three modes of one outage, got %+v", v.Outages)
	}
	for _, m := range v.Outages[0].Modes {
		bound := int64(-1)
		if m.Bound != nil {
			bound = *m.Bound
		}
		t.Logf("%s: %d calls, %d answered 503, %d admitted with %d tokens, bound %d", m.Mode, m.Calls, m.Unavailable, m.Admitted, m.Tokens, bound)
		switch m.Mode {
		case "closed":
			if m.Admitted > 0 || m.Unavailable == 0 {
				t.Error("closed admits nothing and answers 503")
			}
		case "lease":
			if m.Admitted == 0 || m.Bound == nil || m.Tokens > bound {
				t.Error("lease admits as much as was leased")
			}
		case "open":
			if m.Admitted == 0 || m.Bound != nil {
				t.Error("open admits, and nothing bounds it")
			}
		}
	}
	if v.Adopted["lease"] == 0 || v.Adopted["forced"] == 0 || v.Adopted["failed"] > 0 {
		t.Errorf("what was admitted has to be written down: %v", v.Adopted)
	}
}

// TestDemoOfPurchases runs an account dry and tops it up.
func TestDemoOfPurchases(t *testing.T) {
	begun := time.Now()
	v := runDemo[judge.PurchaseVerdict](t, running, "--purchases")
	t.Logf("seed %d: from the commit to the first admitted call %.1f ms, from the order %.1f ms; 202 after %.1f ms, COMPLETED %.1f ms later",
		v.Seed,
		v.CommitToAdmitted, v.OrderToAdmitted, v.Purchases[1].Accepted, v.Purchases[1].Completed)
	if v.Dry.Code != "credit_balance_exhausted" || v.Dry.MayRetry || v.Captured == nil || !v.LedgerBalanced {
		t.Errorf("got %+v", v)
	}
	reconciled(t, begun, true)
}

// runDemo runs leaky demo and reads its verdict, which has to be OK.
func runDemo[V any](t *testing.T, stack *stacktest.Stack, args ...string) (v V) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), stack.Bin, append([]string{"demo", "-o", "json"}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = stack.Env, &out, t.Output()
	if err := cmd.Run(); err != nil {
		t.Fatalf("leaky demo %v: %v\n%s", args, err, out.String())
	}
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return v
}
