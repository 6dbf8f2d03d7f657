package xds_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

func TestSpliceAppendsAndTouchesNothingElse(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	const tokens, generation = `"max_tokens":256,"stream_options":{"include_usage":true}`, `"maxOutputTokens":256`
	for name, c := range map[string]struct{ path, body, want string }{
		"plain":                {chatPath, `{"model":"gpt-4o"}`, `{"model":"gpt-4o",` + tokens + `}`},
		"trailing white space": {chatPath, "{\"model\":\"gpt-4o\" \n}\r\n\t \n", "{\"model\":\"gpt-4o\" \n," + tokens + "}\r\n\t \n"},
		"brace in last string": {chatPath, `{"model":"gpt-4o","x":"}{\"}"}`, `{"model":"gpt-4o","x":"}{\"}",` + tokens + `}`},
		"object last":          {chatPath, `{"model":"gpt-4o","x":{"y":{}}}`, `{"model":"gpt-4o","x":{"y":{}},` + tokens + `}`},
		"empty object last":    {chatPath, `{"model":"gpt-4o","x":{}}`, `{"model":"gpt-4o","x":{},` + tokens + `}`},
		"percent sign":         {chatPath, `{"model":"gpt-4o","x":"100%1 %s"}`, `{"model":"gpt-4o","x":"100%1 %s",` + tokens + `}`},
		"null overridden":      {chatPath, `{"model":"gpt-4o","max_tokens":null}`, `{"model":"gpt-4o","max_tokens":null,` + tokens + `}`},
		"large": {chatPath, `{"model":"gpt-4o","x":"` + strings.Repeat("y", 1<<20) + `"}`, `{"model":"gpt-4o","x":"` +
			strings.Repeat("y", 1<<20) + `",` + tokens + `}`},
		"gemini empty":         {genPath, `{}`, `{"generationConfig":{` + generation + `}}`},
		"gemini empty, spaced": {genPath, " { } ", ` { "generationConfig":{` + generation + `}} `},
		"gemini none":          {genPath, `{"contents":[{}]}`, `{"contents":[{}],"generationConfig":{` + generation + `}}`},
		"gemini empty config":  {genPath, `{"generationConfig":{},"contents":[]}`, `{"generationConfig":{` + generation + `},"contents":[]}`},
		"gemini spaced config": {genPath, `{"generationConfig": { } }`, `{"generationConfig": { ` + generation + `} }`},
		"gemini config": {genPath, `{"generationConfig":{"topK":1,"x":"}"},"contents":[]}`, `{"generationConfig":{"topK":1,"x":"}",` +
			generation + `},"contents":[]}`},
		"gemini snake config": {genPath, `{"generation_config":{"topK":1}}`, `{"generation_config":{"topK":1,` + generation + `}}`},
		"gemini null config":  {genPath, `{"generationConfig":null,"contents":[]}`, `{"generationConfig":{` + generation + `},"contents":[]}`},
		"gemini config in text": {genPath, `{"contents":[{"generationConfig":{}}]}`,
			`{"contents":[{"generationConfig":{}}],"generationConfig":{` + generation + `}}`},
		"gemini stream": {streaming + "?alt=sse", `{"contents":[]}`, `{"contents":[],"generationConfig":{` + generation + `}}`},
	} {
		t.Run(name, func(t *testing.T) {
			key, members := attributes.Splice, tokens
			if strings.HasPrefix(c.path, "/v1beta") {
				key, members = attributes.SpliceGeneration, generation
			}
			g.limit.set(admit(map[string]any{key: members}))
			a := g.do(t, "POST", c.path, c.body)
			if a.status != 200 {
				t.Fatalf("want 200, got %d %s", a.status, a.body)
			}
			got := g.back.last(t)
			if got.body != c.want {
				t.Errorf("want %.300s, got %.300s", c.want, got.body)
			}
			if !json.Valid([]byte(got.body)) {
				t.Errorf("what the provider got is not JSON: %.300s", got.body)
			}
		})
	}
	t.Run("nothing asked", func(t *testing.T) {
		g.limit.set(admit(nil))
		text := " " + body(`,"max_tokens":5`) + "\n"
		if g.do(t, "POST", chatPath, text); g.back.last(t).body != text {
			t.Errorf("want the body untouched, got %q", g.back.last(t).body)
		}
	})
}

// TestSpliceThatFailsEndsTheCall: without its max_tokens a call may cost more than it holds.
func TestSpliceThatFailsEndsTheCall(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	g.limit.set(admit(map[string]any{attributes.Splice: map[string]any{"not": "text"}}))
	a := g.do(t, "POST", chatPath, body(""))
	if a.status != 503 || g.back.count() != 0 {
		t.Errorf("want 503 and nothing at the provider, got %+v and %d", a, g.back.count())
	}
	if raw, l := g.rawLine(t, a.header.Get("x-request-id")); l.Held == nil || l.WireRecv != 0 {
		t.Errorf("want a line that gives the hold back, got %s", raw)
	}
}
