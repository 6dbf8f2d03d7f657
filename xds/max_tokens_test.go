package xds_test

import (
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// TestARouteMayAskForMaxTokens and then refuses with 400 before anybody is asked; the
// others go on.
func TestARouteMayAskForMaxTokens(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		c.Limits.MaxTokens = config.MaxTokens{Default: config.MaxTokensReject,
			Routes: map[string]config.MaxTokensMode{"qwen-chat": config.MaxTokensModel}}
	}, nil)
	for name, c := range map[string]struct {
		path, body string
		status     int
	}{
		"not stated":            {chatPath, body(""), 400},
		"null":                  {chatPath, body(`,"max_tokens":null`), 400},
		"stated":                {chatPath, body(`,"max_tokens":7`), 200},
		"stated in the new way": {chatPath, body(`,"max_completion_tokens":7`), 200},
		"gemini without":        {genPath, `{"contents":[],"generationConfig":{"candidateCount":1}}`, 400},
		"gemini stream without": {streaming + "?alt=sse", `{}`, 400},
		"gemini with":           {genPath, `{"contents":[],"generationConfig":{"maxOutputTokens":9}}`, 200},
		"another route":         {"/compatible-mode/v1/chat/completions", `{"model":"qwen-max"}`, 200},
		"embeddings":            {"/v1/embeddings", `{"model":"text-embedding-3-small","input":"x"}`, 200},
	} {
		t.Run(name, func(t *testing.T) {
			reached, asked := g.back.count(), g.limit.count()
			a := g.do(t, "POST", c.path, c.body)
			if a.status != c.status {
				t.Fatalf("want %d, got %d %s", c.status, a.status, a.body)
			}
			if c.status == 400 && (!strings.Contains(a.body, "max_tokens is missing") || a.header.Get("x-should-retry") != "false" ||
				g.back.count() != reached || g.limit.count() != asked) {
				t.Errorf("want the refusal to say why and to reach nobody, got %v %s", a.header, a.body)
			}
		})
	}
}
