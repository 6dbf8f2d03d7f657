package tokensvc_test

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/tokensvc"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/consume"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/pools"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/saga"
)

// TestWhatTheTokenServiceServesIsDescribed asks parts that are not set up: nothing is called.
func TestWhatTheTokenServiceServesIsDescribed(t *testing.T) {
	t.Parallel()
	api, err := tokensvc.New(tokensvc.Config{Store: &tokensvc.Store{}, Verifier: principal.NewVerifier(tokensvc.Audience, nil),
		Purchases: &saga.Service{}, Pools: &pools.API{}, Consume: &consume.API{}, Metrics: prometheus.NewRegistry(),
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	served := slices.DeleteFunc(api.Routes().Patterns(), func(p string) bool {
		return slices.Contains([]string{"/v1/", "/v1beta/", "/anthropic/"}, p) // it refuses the rest
	})
	apitest.Routes(t, "tokensvc", served)
}
