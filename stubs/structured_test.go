package stubs

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestStructured: what callers ask for by a schema is answered in its form by each API, and counted.
func TestStructured(t *testing.T) {
	t.Parallel()
	const schema = `{"type":"object","properties":{"place":{"type":"string"},"litres":{"type":["integer","null"],"minimum":3},"of":{"enum":["tap","\"roof\""]},` +
		`"parts":{"type":"array","items":{"$ref":"#/$defs/part"}}},"required":["place","litres","of","parts"],"$defs":{"part":{"type":"boolean"}}}`
	openai, openaiURL := start(t, Config{Flavour: OpenAI})
	gemini, geminiURL := start(t, Config{Flavour: Gemini})
	for name, c := range map[string]struct {
		stub       *Server
		path, body string
		text       []any // where it is
	}{
		"chat": {openai, openaiURL + "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema",` +
			`"json_schema":{"name":"leak","schema":` + schema + `}}}`, []any{"choices", 0, "message", "content"}},
		"responses": {openai, openaiURL + "/v1/responses", `{"model":"m","input":"x","text":{"format":{"type":"json_schema","name":"leak","schema":` + schema + `}}}`,
			[]any{"output", 0, "content", 0, "text"}},
		"messages": {openai, openaiURL + "/v1/messages", `{"model":"m","max_tokens":500,"messages":[{"role":"user","content":"x"}],"output_config":{"format":` +
			`{"type":"json_schema","schema":` + schema + `}}}`, []any{"content", 0, "text"}},
		"gemini": {gemini, geminiURL + "/v1beta/models/m:generateContent", `{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"responseMimeType":` +
			`"application/json","responseJsonSchema":` + schema + `}}`, []any{"candidates", 0, "content", "parts", 0, "text"}},
	} {
		status, body := do(t, "POST", c.path, c.body)
		var answer any
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 {
			t.Fatalf("%s: %d %s", name, status, body)
		}
		for _, step := range c.text {
			if name, ok := step.(string); ok {
				answer = answer.(map[string]any)[name]
			} else {
				answer = answer.([]any)[step.(int)]
			}
		}
		var leak struct {
			Place, Of string
			Litres    int
			Parts     []bool
		}
		text, _ := answer.(string)
		if err := json.Unmarshal([]byte(text), &leak); err != nil || leak.Place == "" || leak.Litres != 3 || len(leak.Parts) != 1 ||
			!strings.Contains("tap \"roof\"", leak.Of) {
			t.Errorf("%s: want the form of the schema, got %q, %v", name, text, err)
		}
		all := c.stub.recorder.list("", 0, maxPageSize)
		if got := all[len(all)-1]; got.Output != countTokens(text) {
			t.Errorf("%s: want the tokens of the answer counted, %d, got %+v", name, countTokens(text), got)
		}
	}
}
