package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/stubs"
)

// generated is one call of any route.
type generated struct {
	method, path, body string
	header             []string // pairs
}

// posted is a call with a body.
func posted(path string, body map[string]any, header ...string) generated {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // the maps below always encode
	}
	return generated{method: http.MethodPost, path: path, body: string(text), header: header}
}

// picture is a PNG of one pixel, in a data URL.
const picture = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

// mixer makes sound calls with every option of them that changes what is counted.
type mixer struct{ *rand.Rand }

func (m mixer) one(of ...string) string { return of[m.IntN(len(of))] }

func (m mixer) sometimes() bool { return m.IntN(3) == 0 }

func (m mixer) prompt() string {
	words := []string{"leak ", "déjà ", "水滴 ", `"quoted" `, "\\ ", "\n", "💧 "}
	var b strings.Builder
	for range 1 + m.IntN(200) {
		b.WriteString(words[m.IntN(len(words))])
	}
	return b.String() + fmt.Sprintf("[[tokens=%d]]", 1+m.IntN(60))
}

// options are of chats, completions and Responses: a stream, its usage, a cache.
func (m mixer) options(body map[string]any, usageOption bool) map[string]any {
	if m.sometimes() {
		body["stream"] = true
		if usageOption && m.sometimes() {
			body["stream_options"] = map[string]any{"include_usage": m.sometimes()}
		}
	}
	return body
}

func (m mixer) chat() generated {
	content := any(m.prompt())
	model, path := m.one("gpt-4o", "gpt-4o-mini", "openai/gpt-4.1"), "/v1"
	switch m.IntN(5) {
	case 0:
		content = []any{map[string]any{"type": "text", "text": m.prompt()},
			map[string]any{"type": "image_url", "image_url": map[string]any{"url": picture, "detail": m.one("low", "high")}}}
	case 1:
		model, path = m.one("qwen-plus", "qwen-max"), m.one("/v1", "/compatible-mode/v1")
	}
	body := m.options(map[string]any{"model": model, "messages": []any{map[string]any{"role": "system", "content": "Be brief."},
		map[string]any{"role": "user", "content": content}}}, true)
	switch m.IntN(6) {
	case 0:
		body["n"] = 1 + m.IntN(3)
	case 1:
		body["reasoning_effort"] = "high"
	case 2:
		look, hear := map[string]any{"name": "look"}, map[string]any{"name": "hear"}
		body["tools"] = []any{map[string]any{"type": "function", "function": look}, map[string]any{"type": "function", "function": hear}}
		body["tool_choice"] = "required"
	case 3:
		body["max_completion_tokens"] = 1 + m.IntN(40)
	case 4:
		body["messages"] = []any{map[string]any{"role": "user", "content": strings.Repeat("leaky ", 1000)}}
		body["prompt_cache_key"] = "k"
	}
	return posted(path+"/chat/completions", body)
}

func (m mixer) completion() generated {
	body := m.options(map[string]any{"model": "gpt-4o-mini", "max_tokens": 1 + m.IntN(50)}, true)
	switch m.IntN(3) {
	case 0:
		body["prompt"] = m.prompt()
	case 1:
		body["prompt"], body["n"] = []string{m.prompt(), m.prompt()}, 1+m.IntN(2)
	case 2:
		body["prompt"], body["best_of"] = []int{1, 2, 3}, 1+m.IntN(3)
	}
	return posted("/v1/completions", body)
}

func (m mixer) response() generated {
	input := any(m.prompt())
	if m.sometimes() {
		input = []any{map[string]any{"role": "user", "content": []any{map[string]any{"type": "input_text", "text": m.prompt()},
			map[string]any{"type": "input_image", "image_url": picture}}}}
	}
	body := m.options(map[string]any{"model": m.one("gpt-4o", "gpt-4.1"), "input": input, "store": false}, false)
	switch m.IntN(5) {
	case 0:
		body["reasoning"] = map[string]any{"effort": "high"}
	case 1:
		body["tools"], body["tool_choice"] = []any{
			map[string]any{"type": "function", "name": "look"}, map[string]any{"type": "function", "name": "hear"}}, "required"
	case 2:
		body["max_output_tokens"] = 1 + m.IntN(40)
	case 3:
		body["instructions"], body["prompt_cache_key"] = strings.Repeat("leaky ", 1000), "k"
	}
	return posted("/v1/responses", body)
}

func (m mixer) message() generated {
	body := m.options(map[string]any{"model": haiku, "max_tokens": 1 + m.IntN(80),
		"messages": []any{map[string]any{"role": "user", "content": m.prompt()}}}, false)
	switch m.IntN(4) {
	case 0:
		marked := map[string]any{"type": "ephemeral", "ttl": m.one("5m", "1h")}
		body["system"] = []any{map[string]any{"type": "text", "text": strings.Repeat("Be brief. ", 300), "cache_control": marked}}
	case 1:
		body["max_tokens"], body["thinking"] = 1200, map[string]any{"type": "enabled", "budget_tokens": 1024}
	case 2:
		schema := map[string]any{"type": "object"}
		body["tools"] = []any{map[string]any{"name": "look", "input_schema": schema}, map[string]any{"name": "hear", "input_schema": schema}}
		body["tool_choice"] = map[string]any{"type": "any"}
	case 3:
		source := map[string]any{"type": "base64", "media_type": "image/png", "data": strings.TrimPrefix(picture, "data:image/png;base64,")}
		body["messages"] = []any{map[string]any{"role": "user", "content": []any{map[string]any{"type": "image", "source": source}}}}
	}
	return posted("/v1/messages", body, "anthropic-version", "2023-06-01")
}

func (m mixer) gemini() generated {
	content := map[string]any{"role": "user", "parts": []any{map[string]any{"text": m.prompt()}}}
	at := "/" + m.one("v1", "v1beta") + "/models/"
	if m.IntN(4) == 0 {
		if m.sometimes() {
			return posted(at+"gemini-embedding-001:embedContent", map[string]any{"content": content})
		}
		one := map[string]any{"model": "models/gemini-embedding-001", "content": content}
		return posted(at+"gemini-embedding-001:batchEmbedContents", map[string]any{"requests": []any{one, one}})
	}
	options := map[string]any{}
	body := map[string]any{"contents": []any{content}, "generationConfig": options}
	switch m.IntN(4) {
	case 0:
		options["candidateCount"] = 1 + m.IntN(2)
	case 1:
		options["thinkingConfig"] = map[string]any{"thinkingBudget": 128}
	case 2:
		options["maxOutputTokens"] = 1 + m.IntN(40)
	case 3:
		body["systemInstruction"] = map[string]any{"parts": []any{map[string]any{"text": "Be brief."}}}
	}
	return posted(at+m.one("gemini-2.5-flash", "gemini-2.5-pro")+m.one(":generateContent", ":streamGenerateContent?alt=sse", ":streamGenerateContent"), body)
}

func (m mixer) embedding() generated {
	input := any([]string{m.prompt(), m.prompt()})
	if m.sometimes() {
		input = [][]int{{1, 2, 3}, {4}}
	}
	return posted("/v1/embeddings", map[string]any{"model": m.one("text-embedding-3-small", "text-embedding-3-large"), "input": input,
		"encoding_format": m.one("float", "base64")})
}

func (m mixer) image() generated {
	return posted("/v1/images/generations", map[string]any{"model": "gpt-image-1", "prompt": m.prompt(), "n": 1 + m.IntN(2), "quality": m.one("low", "medium"),
		"stream": m.sometimes()})
}

// free is a call that costs no tokens.
func (m mixer) free() generated {
	messages := []any{map[string]any{"role": "user", "content": m.prompt()}}
	switch m.IntN(4) {
	case 0:
		return posted("/v1/moderations", map[string]any{"input": m.prompt()})
	case 1:
		return posted("/v1/messages/count_tokens", map[string]any{"model": haiku, "messages": messages})
	case 2:
		return posted("/v1beta/models/gemini-2.5-flash:countTokens", map[string]any{"contents": []any{map[string]any{"parts": []any{map[string]any{"text": "x"}}}}})
	}
	return generated{method: http.MethodGet, path: "/v1/models/gpt-4o"}
}

func (m mixer) call() generated {
	return []func() generated{m.chat, m.chat, m.completion, m.response, m.message, m.gemini, m.gemini, m.embedding, m.image, m.free}[m.IntN(10)]()
}

// tokenSums are tokens by kind, of calls that were served.
type tokenSums struct {
	Calls        int64 `json:"totalEvents"`
	Input        int64 `json:"inputTokens"`
	Output       int64 `json:"outputTokens"`
	Cached       int64 `json:"cachedTokens"`
	CacheWrite5m int64 `json:"cacheWrite5mTokens"`
	CacheWrite1h int64 `json:"cacheWrite1hTokens"`
	Reasoning    int64 `json:"reasoningTokens"`
	Estimated    int64 `json:"estimatedTokens"`
}

func (s *tokenSums) add(c stubs.Served) {
	if c.Input+c.Output > 0 {
		s.Calls++
	}
	s.Input += int64(c.Input)
	s.Output += int64(c.Output)
	s.Cached += int64(c.CacheRead)
	s.CacheWrite5m += int64(c.CacheWrite5m)
	s.CacheWrite1h += int64(c.CacheWrite1h)
	s.Reasoning += int64(c.Reasoning)
}

// TestMixedCallsOfAllRoutes: a thousand calls of every route with every option that changes what
// is counted. What the books have of each account is what the stubs served it, to the token and
// by each kind of them.
func TestMixedCallsOfAllRoutes(t *testing.T) {
	t.Parallel()
	const accounts, calls = 10, 100
	who := make([]stacktest.Account, accounts)
	asked := make([]map[string]generated, accounts) // by request id
	var all sync.WaitGroup
	for n := range accounts {
		who[n], asked[n] = newAccount(t), map[string]generated{}
		all.Go(func() {
			m := mixer{rand.New(rand.NewPCG(uint64(n), 14))}
			for range calls {
				call := m.call()
				status, header, text, err := running.Send(t.Context(), call.method, call.path, who[n].Key, call.body, call.header...)
				if err != nil || status != 200 {
					t.Errorf("%s %.200s: want 200, got %d %.300s, %v", call.path, call.body, status, text, err)
					continue
				}
				asked[n][header.Get("X-Request-Id")] = call
			}
		})
	}
	all.Wait()
	var served map[string]stubs.Served
	testenv.Eventually(t, "the stubs know of every call", func() bool { // an answer is read before they write it down
		served = servedBy(t, "openai", "gemini", "qwen")
		for n := range accounts {
			for id, call := range asked[n] {
				if _, ok := served[id]; !ok && call.method == http.MethodPost {
					return false
				}
			}
		}
		return true
	})
	for n := range accounts {
		var want tokenSums
		for id, call := range asked[n] {
			got := served[id]
			if got.Output != got.Generated {
				t.Errorf("%s %.200s: the stub served %+v", call.path, call.body, got)
			}
			want.add(got)
		}
		wantSums(t, who[n], want)
	}
}

// servedBy is what the stubs served, by request id.
func servedBy(t *testing.T, providers ...string) map[string]stubs.Served {
	t.Helper()
	served := map[string]stubs.Served{}
	for _, provider := range providers {
		res, err := http.Get(running.Stub[provider] + "/__stub/requests?format=ndjson")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for lines := json.NewDecoder(res.Body); ; {
			var one stubs.Served
			if err := lines.Decode(&one); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if one.ID != "" && one.Status == 200 {
				served[one.ID] = one
			}
		}
	}
	return served
}

// wantSums waits for the calls of an account on the books.
func wantSums(t *testing.T, who stacktest.Account, want tokenSums) {
	t.Helper()
	var got struct{ Total tokenSums }
	testenv.Eventually(t, fmt.Sprintf("%d calls on the books", want.Calls), func() bool {
		told(t, "/api/v1/me/usage", &got, byKey(who)...)
		return got.Total.Calls >= want.Calls
	})
	if got.Total != want {
		t.Errorf("want what the stubs served, %+v, got %+v", want, got.Total)
	}
}

// TestStreamsThatEndEarly: of 100 pieces 30 come, since the caller leaves or the provider breaks
// off. They are charged within a tenth on every route that streams, once a few streams of the model
// came to their end.
func TestStreamsThatEndEarly(t *testing.T) {
	t.Parallel()
	const gemini = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
	chat := func(model string) string {
		return `{"model":"` + model + `","stream":true,"max_tokens":200,"messages":[{"role":"user","content":"Tell me a story."}]}`
	}
	const contents = `{"contents":[{"parts":[{"text":"Tell me a story."}]}]}`
	for _, route := range []struct {
		name, provider, piece string // piece stands in each event with content
		path, body            string
	}{
		{"chat", "openai", `"delta":{"content":`, chatPath, chat("acme/fast:1")},
		{"chat of Qwen", "qwen", `"delta":{"content":`, "/compatible-mode" + chatPath, chat("Acme Best (preview), 2026")},
		{"completions", "openai", `{"text":`, "/v1/completions", `{"model":"acme/fast:1","stream":true,"max_tokens":200,"prompt":"Tell me a story."}`},
		{"responses", "openai", `{"type":"response.output_text.delta"`, "/v1/responses", `{"model":"acme/fast:1","stream":true,"input":"Tell me a story."}`},
		{"messages", "anthropic", `"text_delta"`, "/v1/messages", chat("acme/haiku")},
		{"gemini, events", "gemini", `"candidatesTokenCount"`, gemini + "?alt=sse", contents},
		{"gemini, a list", "gemini", `"candidatesTokenCount"`, gemini, contents},
	} {
		t.Run(route.name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			last := rawAnswer{}
			for n := range 20 {
				last = callRaw(t.Context(), t, who, route.path, route.body, "", nil, "X-Stub-Tokens", strconv.Itoa(20+7*n))
			}
			booked(t, who, route.provider, last.request)
			for _, fault := range []string{"X-Stub-Stall-After-Chunks", "X-Stub-Truncate-After-Chunks"} { // the caller leaves; the provider breaks off
				read := 0
				got := callRaw(t.Context(), t, who, route.path, route.body, "", func(text string) bool {
					read = strings.Count(text, route.piece)
					return read == 30 && fault == "X-Stub-Stall-After-Chunks"
				}, "X-Stub-Tokens", "100", fault, "30")
				row := booked(t, who, route.provider, got.request)
				if read != 30 || row.OutputTokens < 27 || row.OutputTokens > 33 || row.InputTokens == 0 {
					t.Errorf("%s: want 30 pieces charged within a tenth, got %d and %+v", fault, read, row)
				}
			}
		})
	}
}
