package xds_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// decided are answers of ratelimit's that change a body.
func decided(what string) map[string]any {
	fields := map[string]any{}
	for word := range strings.FieldsSeq(what) {
		switch word {
		case "fill":
			fields[attributes.MaxTokens], fields[attributes.MaxTokensName] = 256, attributes.MaxTokens
		case "completion":
			fields[attributes.MaxTokens], fields[attributes.MaxTokensName] = 256, attributes.MaxCompletionTokens
		case "gemini":
			fields[attributes.MaxTokens], fields[attributes.MaxTokensName] = 256, attributes.MaxOutputTokens
		case "usage":
			fields[attributes.AskUsage] = "true"
		case "model":
			fields[attributes.SetModel] = `"gpt-4o"`
		case "rename":
			fields[attributes.MaxTokensRename], fields[attributes.MaxTokensName] = attributes.MaxTokens, attributes.MaxCompletionTokens
		}
	}
	return fields
}

func TestSpliceReplacesInPlaceAndTouchesNothingElse(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	const tokens, usage, generation = `"max_tokens":256`, `"stream_options":{"include_usage":true}`, `"maxOutputTokens":256`
	const both = tokens + "," + usage
	for name, c := range map[string]struct{ decided, path, body, want string }{
		"plain":                {"fill usage", chatPath, `{"model":"gpt-4o"}`, `{"model":"gpt-4o",` + both + `}`},
		"trailing white space": {"fill", chatPath, "{\"model\":\"gpt-4o\" \n}\r\n\t \n", "{\"model\":\"gpt-4o\" \n," + tokens + "}\r\n\t \n"},
		"brace in last string": {"fill", chatPath, `{"model":"gpt-4o","x":"}{\"}"}`, `{"model":"gpt-4o","x":"}{\"}",` + tokens + `}`},
		"object last":          {"fill", chatPath, `{"model":"gpt-4o","x":{"y":{}}}`, `{"model":"gpt-4o","x":{"y":{}},` + tokens + `}`},
		"empty object last":    {"fill", chatPath, `{"model":"gpt-4o","x":{}}`, `{"model":"gpt-4o","x":{},` + tokens + `}`},
		"percent sign":         {"fill", chatPath, `{"model":"gpt-4o","x":"100%1 %s"}`, `{"model":"gpt-4o","x":"100%1 %s",` + tokens + `}`},
		"null replaced": {"fill", chatPath, `{"model":"gpt-4o","max_tokens": null ,"x":1}`,
			`{"model":"gpt-4o","max_tokens": 256 ,"x":1}`},
		"the other null stays": {"fill", chatPath, `{"model":"gpt-4o","max_completion_tokens":null}`,
			`{"model":"gpt-4o","max_completion_tokens":null,` + tokens + `}`},
		"the new name":      {"completion", chatPath, `{"model":"gpt-4o"}`, `{"model":"gpt-4o","max_completion_tokens":256}`},
		"the new name null": {"completion", chatPath, `{"max_completion_tokens":null,"model":"gpt-4o"}`, `{"max_completion_tokens":256,"model":"gpt-4o"}`},
		"renamed":           {"rename", chatPath, `{"max_tokens" : 7,"model":"gpt-4o"}`, `{"max_completion_tokens" : 7,"model":"gpt-4o"}`},
		"model":             {"model", chatPath, `{"model" : "openai/gpt-4o","n":1}`, `{"model" : "gpt-4o","n":1}`},
		"model escaped":     {"model", chatPath, `{"model":"openai\/gpt-4o"}`, `{"model":"gpt-4o"}`},
		"all of it": {"fill usage model", chatPath, `{"stream_options":null,"max_tokens":null,"model":"openai/gpt-4o","stream":true}`,
			`{` + usage + `,` + tokens + `,"model":"gpt-4o","stream":true}`},
		"other options kept": {"usage", chatPath, `{"model":"gpt-4o","stream_options":{"include_obfuscation":false}}`,
			`{"model":"gpt-4o","stream_options":{"include_obfuscation":false,"include_usage":true}}`},
		"no options":     {"usage", chatPath, `{"model":"gpt-4o","stream_options":{ }}`, `{"model":"gpt-4o","stream_options":{ "include_usage":true}}`},
		"usage declined": {"usage", chatPath, `{"stream_options":{"include_usage":false,"x":1},"model":"gpt-4o"}`, `{"stream_options":{"include_usage":true,"x":1},"model":"gpt-4o"}`},
		"usage null":     {"usage", chatPath, `{"stream_options":{"include_usage":null},"model":"gpt-4o"}`, `{"stream_options":{"include_usage":true},"model":"gpt-4o"}`},
		"large": {"fill", chatPath, `{"model":"gpt-4o","x":"` + strings.Repeat("y", 1<<20) + `"}`, `{"model":"gpt-4o","x":"` +
			strings.Repeat("y", 1<<20) + `",` + tokens + `}`},
		"gemini empty":         {"gemini", genPath, `{}`, `{"generationConfig":{` + generation + `}}`},
		"gemini empty, spaced": {"gemini", genPath, " { } ", ` { "generationConfig":{` + generation + `}} `},
		"gemini none":          {"gemini", genPath, `{"contents":[{}]}`, `{"contents":[{}],"generationConfig":{` + generation + `}}`},
		"gemini empty config":  {"gemini", genPath, `{"generationConfig":{},"contents":[]}`, `{"generationConfig":{` + generation + `},"contents":[]}`},
		"gemini spaced config": {"gemini", genPath, `{"generationConfig": { } }`, `{"generationConfig": { ` + generation + `} }`},
		"gemini config": {"gemini", genPath, `{"generationConfig":{"topK":1,"x":"}"},"contents":[]}`, `{"generationConfig":{"topK":1,"x":"}",` +
			generation + `},"contents":[]}`},
		"gemini snake config": {"gemini", genPath, `{"generation_config":{"topK":1}}`, `{"generation_config":{"topK":1,` + generation + `}}`},
		"gemini null config":  {"gemini", genPath, `{"generationConfig":null,"contents":[]}`, `{"generationConfig":{` + generation + `},"contents":[]}`},
		"gemini null maximum": {"gemini", genPath, `{"generationConfig":{"maxOutputTokens":null}}`, `{"generationConfig":{` + generation + `}}`},
		"gemini snake null":   {"gemini", genPath, `{"generation_config":{"max_output_tokens":null}}`, `{"generation_config":{"max_output_tokens":256}}`},
		"gemini config in text": {"gemini", genPath, `{"contents":[{"generationConfig":{}}]}`,
			`{"contents":[{"generationConfig":{}}],"generationConfig":{` + generation + `}}`},
		"gemini stream":         {"gemini", streaming + "?alt=sse", `{"contents":[]}`, `{"contents":[],"generationConfig":{` + generation + `}}`},
		"nothing asked":         {"", chatPath, ` {"model":"gpt-4o","max_tokens":5}` + "\n", ` {"model":"gpt-4o","max_tokens":5}` + "\n"},
		"byte order mark":       {"fill", chatPath, "\ufeff" + `{"model":"gpt-4o","max_tokens":null}`, `{"model":"gpt-4o",` + tokens + `}`},
		"byte order mark alone": {"", chatPath, "\ufeff" + `{"model":"gpt-4o"}`, `{"model":"gpt-4o"}`},
	} {
		t.Run(name, func(t *testing.T) {
			g.limit.set(admit(decided(c.decided)))
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
}

// TestSpliceThatFailsEndsTheCall: without its max_tokens a call may cost more than it holds.
func TestSpliceThatFailsEndsTheCall(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	g.limit.set(admit(map[string]any{attributes.SetModel: map[string]any{"not": "text"}}))
	a := g.do(t, "POST", chatPath, body(""))
	if a.status != 503 || g.back.count() != 0 {
		t.Errorf("want 503 and nothing at the provider, got %+v and %d", a, g.back.count())
	}
	if raw, l := g.rawLine(t, a.header.Get("x-request-id")); l.Held == nil || l.WireRecv != 0 {
		t.Errorf("want a line that gives the hold back, got %s", raw)
	}
}
