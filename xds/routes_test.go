package xds_test

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/xds"
)

func TestWhatTheControlPlaneServesIsDescribed(t *testing.T) {
	t.Parallel()
	apitest.Routes(t, "xds", (&xds.XDS{}).Handler().Patterns())
}
