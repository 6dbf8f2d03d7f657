package ratelimit_test

import (
	"strings"
	"testing"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestPartsAreHeldAtTheirPrice and their bytes are no text; what has no bound is refused by name.
func TestPartsAreHeldAtTheirPrice(t *testing.T) {
	t.Parallel()
	e := start(t, strings.ReplaceAll(thousand, "1000", "1000000"), func(c *ratelimit.Config) {
		openAI := c.Providers["openai"]
		openAI.Parts = map[string]config.Part{config.PartTool: {Tokens: 300}, config.PartFile: {Tokens: 5000}}
		c.Providers["openai"] = openAI
		c.Models = append(c.Models, config.Model{Name: "mine", Provider: "openai",
			Parts: map[string]config.Part{config.PartImage: {Tokens: 1000}, config.PartFile: {Refuse: true}, config.PartPrevious: {}}})
	})
	// 40 bytes of text are 10 tokens with these providers.
	for name, tc := range map[string]struct {
		ask     ask
		held    float64
		refused string // the kind that is named
	}{
		"pictures by reference":    {ask{model: "gpt-4o", prompt: 40, parts: "image:8:8:0"}, 10 + 8*1445 + 1, ""},
		"a picture of 3 MB":        {ask{model: "gpt-4o", prompt: 4_000_040, parts: "image:1:0:4000000"}, 10 + 1445 + 1, ""},
		"the model's price":        {ask{model: "mine", prompt: 40, parts: "image:2:1:0"}, 10 + 2000 + 1, ""},
		"the small model's":        {ask{model: "gpt-4o-mini", prompt: 40, parts: "image:1:1:0"}, 10 + 48169 + 1, ""},
		"sound by its bytes":       {ask{model: "gpt-4o", prompt: 40_040, parts: "audio:1:0:40000"}, 10 + 300 + 1, ""},
		"sound with Gemini":        {ask{provider: "gemini", model: "gemini-2.5-pro", prompt: 40_040, parts: "audio:1:0:40000"}, 10 + 960 + 1, ""},
		"sound by reference":       {ask{model: "gpt-4o", prompt: 40, parts: "audio:2:1:400"}, 0, "audio"},
		"the provider's price":     {ask{model: "gpt-4o", prompt: 40, parts: "tool:2:2:0,file:1:1:0"}, 10 + 600 + 5000 + 1, ""},
		"refused by the model":     {ask{model: "mine", prompt: 40, parts: "file:1:1:0"}, 0, "file"},
		"for nothing":              {ask{model: "mine", prompt: 40, parts: "previous:1:1:0"}, 10 + 1, ""},
		"no bound":                 {ask{model: "gpt-4o", prompt: 40, parts: "image:1:1:0,cached:1:1:0"}, 0, "cached"},
		"a model nobody knows":     {ask{provider: "gemini", model: "new", prompt: 40, parts: "image:1:1:0"}, 10 + 3096 + 1, ""},
		"a kind nobody knows":      {ask{prompt: 40, parts: "hologram:1:1:0"}, 0, "make no sense"},
		"not a number":             {ask{prompt: 40, parts: "image:x:1:0"}, 0, "make no sense"},
		"negative":                 {ask{prompt: 40, parts: "image:1:1:-5"}, 0, "make no sense"},
		"more bytes than a body":   {ask{model: "gpt-4o", prompt: 40, parts: "image:1:0:4000000"}, 1445 + 1, ""},
		"so many that it is a lot": {ask{model: "gpt-4o", prompt: 40, parts: "image:60000000:1:0"}, 0, "can ever hold"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.ask.user, tc.ask.maxTokens = uuid.NewString(), "1"
			r := e.ask(t, tc.ask)
			got := r.GetDynamicMetadata().GetFields()[attributes.Held].GetNumberValue()
			if tc.refused == "" {
				if r.GetOverallCode() != rls.RateLimitResponse_OK || got != tc.held {
					t.Errorf("want a hold of %v, got %v %s", tc.held, got, r.GetRawBody())
				}
				return
			}
			body := string(r.GetRawBody())
			if r.GetOverallCode() == rls.RateLimitResponse_OK || !strings.Contains(body, tc.refused) ||
				headers(r)["x-should-retry"] != "false" {
				t.Errorf("want a refusal that names %s, got %v", tc.refused, r)
			}
			if invalid := headers(r)[attributes.HeaderRefusal] != ""; invalid == (tc.refused == "can ever hold") {
				t.Errorf("want Envoy told whether the request is at fault, got %v", headers(r))
			}
		})
	}
}
