package extauthz

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
)

func TestWhatExtAuthzServesIsDescribed(t *testing.T) {
	t.Parallel()
	apitest.Routes(t, "extauthz", (&Service{}).Handler().Patterns())
}
