package envoy_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/reader"
)

// TestTextIsCounted: what a model produced, in bytes as it reads, by its kind, whatever is around it.
func TestTextIsCounted(t *testing.T) {
	t.Parallel()
	s := reader.New(t)
	event := func(data string) string { return "data: " + data + "\n\n" }
	chat := func(delta string) string {
		return event(`{"id":"c","choices":[{"index":0,"delta":{` + delta + `},"logprobs":null,"finish_reason":null}],"usage":null}`)
	}
	response := func(kind, more string) string {
		return event(`{"type":"response.` + kind + `","sequence_number":1,` + more + `}`)
	}
	for name, c := range map[string]struct {
		answer                       string
		said, thought, called, other int64
	}{
		"chat":               {chat(`"role":"assistant","content":""`) + chat(`"content":"four"`) + chat(`"content":" and","refusal":null`), 8, 0, 0, 0},
		"with spaces":        {event(`{"choices": [{"index": 0, "delta": {"content": "four"}}], "usage": null}`), 4, 0, 0, 0},
		"escapes":            {chat(`"content":"a\nb\"c\\\/\u0041"`), 8, 0, 0, 0},
		"other letters":      {chat(`"content":"日本語"`), 0, 0, 0, 9},
		"and escaped":        {chat(`"content":"\u65e5\u672c \u00e9 \ud83d\ude00"`), 0, 0, 0, 14},
		"text like a member": {chat(`"content":"\"content\":\"x\", \"delta\":{\"text\":\""`), 32, 0, 0, 0},
		"thoughts":           {chat(`"content":null,"reasoning_content":"hm"`) + chat(`"reasoning":"hmm","content":""`), 0, 5, 0, 0},
		"a call": {chat(`"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"look","arguments":""}}]`) +
			chat(`"tool_calls":[{"index":0,"function":{"arguments":"{\"q\":"}}]`), 0, 0, 5, 0},
		"two choices in a line": {event(`{"choices":[{"index":0,"delta":{"content":"ab"}},{"index":1,"delta":{"content":"cde"}}]}`), 5, 0, 0, 0},
		"a usage beside":        {chat(`"content":"four"`) + event(`{"choices":[{"delta":{"content":"six"}}],"usage":{"prompt_tokens":1}}`), 7, 0, 0, 0},
		"completions":           {event(`{"choices":[{"text":"four","index":0,"logprobs":null}]}`), 4, 0, 0, 0},
		"responses": {response("output_text.delta", `"delta":"four","obfuscation":"xxxxxxxx"`) + response("output_text.done", `"text":"four"`) +
			response("reasoning_summary_text.delta", `"delta":"hm"`) + response("function_call_arguments.delta", `"delta":"{\"q\""`) +
			response("output_audio.delta", `"delta":"UklGRg"`), 4, 2, 4, 0},
		"messages": {event(`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"no"}}`) +
			event(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"four"}}`) +
			event(`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}`) +
			event(`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}`) +
			event(`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"q"}}`), 4, 2, 3, 0},
		"gemini": {event(`{"candidates":[{"content":{"parts":[{"text":"four"},{"functionCall":{"name":"look","args":{"q":"}\"","r":{}}}}],"role":"model"}}]}`),
			4, 0, 16, 0},
		"a list of gemini": {`[{"candidates":[{"content":{"parts":[{"text":"four"}]}}]},` + "\n" + `{"candidates":[{"content":{"parts":[{"text": "six"}]}}]}]`, 7, 0, 0, 0},
		"a picture":        {event(`{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}]}`), 0, 0, 0, 0},
		"no content":       {event(`{"object":"delta","text":"no","choices":[{"delta":{}}]}`) + event(`{"content":"no"}`), 0, 0, 0, 0},
		"a broken line":    {event(`{"choices":[{"delta":{"content":"four`) + event(`"content":"no"}`), 4, 0, 0, 0},
	} {
		for _, answer := range []string{c.answer, strings.Repeat(": ping\n\n", 2) + strings.Repeat(event("{}"), 2) + c.answer} { // lines behind the first two are skipped where they can be
			if answer[0] == ':' && c.answer[0] == '[' {
				continue
			}
			_, got := read(t, s, false, answer)
			if got.said != c.said || got.thought != c.thought || got.called != c.called || got.wide != c.other {
				t.Errorf("%s: want %d said, %d thought, %d called and %d in other letters, got %+v", name, c.said, c.thought, c.called, c.other, got)
			}
			for seed := range uint64(40) {
				pieces := split(rand.New(rand.NewPCG(seed, 9)), answer)
				if _, parts := read(t, s, false, pieces...); parts.made() != got.made() {
					t.Errorf("%s, split %q: want %d bytes in all, got %+v", name, pieces, got.made(), parts)
					break
				}
			}
		}
	}
}
