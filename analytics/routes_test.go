package analytics

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
)

func TestWhatAnalyticsServesIsDescribed(t *testing.T) {
	t.Parallel()
	api := &API{cfg: Config{Verifier: principal.NewVerifier(Audience, nil), Metrics: &Metrics{}}}
	apitest.Routes(t, "analytics", api.Routes().Patterns())
}
