package ratelimit_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestCallsThatCannotBeWrittenDownAreAnOutage: while Envoy's log cannot be written, calls are decided
// as their route's outage mode says, and tokensvc's, which write no line, as ever.
func TestCallsThatCannotBeWrittenDownAreAnOutage(t *testing.T) {
	t.Parallel()
	for mode, want := range map[config.OutageMode]codes.Code{config.OutageClosed: codes.Unavailable, config.OutageOpen: codes.OK} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			e := start(t, thousand, func(c *ratelimit.Config) { c.Outage.Default = mode })
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); _ = e.service.Run(ctx) }()
			defer func() { stop(); <-ended }()
			tell := func(problem string) {
				t.Helper()
				if _, err := e.limiter.Settle(t.Context(), &limitpb.SettleRequest{Meter: "edge-1", Unwritable: problem}); err != nil {
					t.Fatal(err)
				}
			}
			code := func() codes.Code {
				_, err := e.envoy.ShouldRateLimit(t.Context(), ask{user: "u", maxTokens: "10"}.request())
				return status.Code(err)
			}
			tell("the disk is full")
			testenv.Eventually(t, "ratelimit says why", func() bool { return e.service.Ready(t.Context()) != nil })
			if got := code(); got != want {
				t.Errorf("want %s, got %s", want, got)
			}
			if r, err := e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: "consume-1", User: "u", Provider: "openai"},
				InputTokens: 10}); err != nil || !r.GetAdmitted() {
				t.Errorf("consume: want it held, got %v, %v", r, err)
			}
			tell("")
			testenv.Eventually(t, "calls are admitted again", func() bool { return code() == codes.OK && e.service.Ready(t.Context()) == nil })
		})
	}
}
