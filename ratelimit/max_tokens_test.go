package ratelimit_test

import (
	"testing"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestCallsThatStateNoMaximum in each mode of their route.
func TestCallsThatStateNoMaximum(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		mode    config.MaxTokensMode
		ask     ask
		refused bool
		held    float64
		splice  string
	}{
		"fill":                      {config.MaxTokensFill, ask{}, false, 250, `max_tokens=250`},
		"model_max":                 {config.MaxTokensModel, ask{}, false, 300, ""},
		"model_max of two choices":  {config.MaxTokensModel, ask{n: "2"}, false, 600, ""},
		"model_max, more than left": {config.MaxTokensModel, ask{n: "4"}, true, 0, ""},
		"model_max, stated":         {config.MaxTokensModel, ask{maxTokens: "7"}, false, 7, ""},
		"model_max, unknown model":  {config.MaxTokensModel, ask{model: "new"}, true, 0, ""},
		"model_max, embedding":      {config.MaxTokensModel, ask{model: "embed"}, false, 1, ""},
		"reject":                    {config.MaxTokensReject, ask{}, true, 0, ""},
		"reject, stated":            {config.MaxTokensReject, ask{maxTokens: "7"}, false, 7, ""},
		"reject, embedding":         {config.MaxTokensReject, ask{model: "embed"}, false, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, thousand, func(c *ratelimit.Config) {
				c.MaxTokens = config.MaxTokens{Default: config.MaxTokensReject, Routes: map[string]config.MaxTokensMode{"openai-chat": tc.mode}}
				c.Models[0].MaxOutput = 300
			})
			r := e.ask(t, tc.ask)
			m := r.GetDynamicMetadata().GetFields()
			if (r.GetOverallCode() != rls.RateLimitResponse_OK) != tc.refused || m["held"].GetNumberValue() != tc.held ||
				spliced(m) != tc.splice {
				t.Errorf("want refused %t, held %v, splice %q, got %v %v", tc.refused, tc.held, tc.splice, r.GetOverallCode(), m)
			}
		})
	}
}
