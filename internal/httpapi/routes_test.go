package httpapi

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/openapi"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
)

func TestWhatEveryServiceServesIsDescribed(t *testing.T) {
	t.Parallel()
	c := Common{Name: "thing", Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
	served := slices.DeleteFunc(c.routes().Patterns(), func(p string) bool { return !openapi.Described(p) })
	apitest.Routes(t, apitest.Common, served)
}
