package xds_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
)

// asked is a sound call of each operation, with the default models.
type asked struct{ path, body string }

func everyOperation() map[string]asked {
	const gemini = "/v1beta/models/gemini-2.5-flash"
	return map[string]asked{
		"openai-chat":        {chatPath, body("")},
		"openai-embeddings":  {"/v1/embeddings", `{"model":"text-embedding-3-small","input":"x"}`},
		"qwen-chat":          {"/compatible-mode/v1/chat/completions", `{"model":"qwen-max","messages":[]}`},
		"openai-responses":   {"/v1/responses", `{"model":"gpt-4o","input":"x"}`},
		"openai-completions": {"/v1/completions", `{"model":"gpt-4o","prompt":"x"}`},
		"openai-moderations": {"/v1/moderations", `{"model":"omni-moderation-latest","input":"x"}`},
		"openai-images":      {"/v1/images/generations", `{"model":"pictures","prompt":"x","n":2}`},
		"openai-speech":      {"/v1/audio/speech", `{"model":"voice","input":"x"}`},
		"anthropic-messages": {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":9,"messages":[]}`},
		"anthropic-count":    {"/v1/messages/count_tokens", `{"model":"claude-haiku-4-5","messages":[]}`},
		"gemini-generate":    {gemini + ":generateContent", `{"contents":[]}`},
		"gemini-stream":      {gemini + ":streamGenerateContent", `{"contents":[]}`},
		"gemini-count":       {gemini + ":countTokens", `{"contents":[]}`},
		"gemini-embed":       {"/v1/models/gemini-embedding-001:embedContent", `{"content":{"parts":[{"text":"x"}]}}`},
		"gemini-embed-batch": {"/v1/models/gemini-embedding-001:batchEmbedContents", `{"requests":[{"content":{"parts":[{"text":"x"}]}}]}`},
	}
}

// TestEveryOperationReachesItsProvider: on the provider's own path; a call that takes tokens asks for
// a hold, and one that is free asks for none and leaves no line in the spool.
func TestEveryOperationReachesItsProvider(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		c.Models = append(c.Models, config.Model{Name: "pictures", Provider: "openai", Kind: config.KindImage, MaxOutput: 7},
			config.Model{Name: "voice", Provider: "openai", Kind: config.KindSpeech, MaxOutput: 7})
	}, nil)
	g.limit.set(admit(nil))
	calls := everyOperation()
	var metered []string
	for _, o := range operation.All() {
		a, ok := calls[o.Name]
		if !ok {
			t.Errorf("%s: no call of it is tried", o.Name)
			continue
		}
		got := g.do(t, "POST", a.path, a.body)
		if got.status != 200 {
			t.Errorf("%s: want 200, got %d %s", o.Name, got.status, got.body)
			continue
		}
		if seen := g.back.last(t); !strings.HasSuffix(seen.uri, o.Path) && !strings.HasSuffix(seen.uri, o.Upstream) || seen.body != a.body {
			t.Errorf("%s: the provider got %s %s", o.Name, seen.uri, seen.body)
		}
		held := len(g.limit.last()) > 0 && strings.HasPrefix(g.limit.last()[0], attributes.Hold+"=")
		if held == o.Free {
			t.Errorf("%s: free is %v, and the limiter was asked %v", o.Name, o.Free, g.limit.last())
		}
		if !o.Free {
			metered = append(metered, got.header.Get("x-request-id"))
			if want := "route=" + o.Name + ","; !strings.Contains(g.limit.last()[0], want) {
				t.Errorf("want %s in %s", want, g.limit.last()[0])
			}
		}
	}
	for _, id := range metered {
		g.rawLine(t, id)
	}
	text, err := os.ReadFile(g.spool)
	if lines := strings.Count(string(text), "\n"); err != nil || lines != len(metered) {
		t.Errorf("want a line for each of %d metered calls, got %d, %v", len(metered), lines, err)
	}
}

func TestGuardStatesTheFactsOfEachAPI(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for name, c := range map[string]struct{ path, body, want string }{
		"responses": {"/v1/responses", `{"model":"gpt-4o","input":"x","max_output_tokens":7,"stream":true,"stream_options":{"include_obfuscation":false}}`,
			"max_tokens=7,max_completion_tokens=-,n=-,stream=true,include_usage=-"},
		"responses, other names of a maximum":      {"/v1/responses", `{"model":"gpt-4o","max_tokens":7}`, "max_tokens=-,max_completion_tokens=-,n=-"},
		"responses, a tool that the provider runs": {"/v1/responses", `{"model":"gpt-4o","tools":[{"type":"web_search"},{"type":"function","name":"f","parameters":{}},{"type":"custom","name":"c"}]}`, "parts=tool:1:1:0"},
		"responses, an earlier one":                {"/v1/responses", `{"model":"gpt-4o","previous_response_id":"resp_1"}`, "parts=previous:1:1:0"},
		"responses, a prompt of the provider's":    {"/v1/responses", `{"model":"gpt-4o","prompt":{"id":"pmpt_1"}}`, "parts=previous:1:1:0"},
		"responses, an item by reference":          {"/v1/responses", `{"model":"gpt-4o","input":[{"type":"item_reference","id":"x"}]}`, "parts=previous:1:1:0"},
		"responses, a picture":                     {"/v1/responses", `{"model":"gpt-4o","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,AAAA"}]}]}`, "parts=image:1:0:26"},
		"responses, a picture as a result":         {"/v1/responses", `{"model":"gpt-4o","input":[{"type":"function_call_output","call_id":"c","output":[{"type":"input_image","file_id":"f"}]}]}`, "parts=image:1:1:0"},
		"responses, a summary":                     {"/v1/responses", `{"model":"gpt-4o","context_management":[{"type":"compaction"}]}`, "parts=tool:1:1:0"},
		"completions":                              {"/v1/completions", `{"model":"gpt-4o","prompt":"x","max_tokens":7,"n":3}`, "max_tokens=7,max_completion_tokens=-,n=3,"},
		"completions, prompts":                     {"/v1/completions", `{"model":"gpt-4o","prompt":["a","b", "c"],"n":3,"best_of":4}`, "n=12,"},
		"completions, tokens":                      {"/v1/completions", `{"model":"gpt-4o","prompt":[1,2,3]}`, "n=-,"},
		"completions, lists of tokens":             {"/v1/completions", `{"model":"gpt-4o","prompt":[[1,2],[3]]}`, "n=2,"},
		"completions, no prompt":                   {"/v1/completions", `{"model":"gpt-4o","prompt":null}`, "n=-,"},
		"messages":                                 {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"stream":true,"n":9}`, "max_tokens=7,max_completion_tokens=-,n=-,stream=true"},
		"messages, tools": {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"tools":[{"name":"f","input_schema":{},"defer_loading":true},{"type":"bash_20250124","name":"bash"}]}`,
			"parts=tool_prompt:2:2:0"},
		"messages, no tools":         {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"tools":[]}`, "parts=-"},
		"messages, a hosted tool":    {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"tools":[{"type":"web_search_20250305","name":"web_search"}]}`, "parts=tool:1:1:0,tool_prompt:1:1:0"},
		"messages, a container":      {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"container":{"skills":[]}}`, "parts=tool:1:1:0"},
		"messages, edits of context": {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"context_management":{"edits":[{"type":"clear_thinking_20251015"}]}}`, "parts=-"},
		"messages, a picture":        {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}`, "parts=image:1:0:4"},
		"messages, a document":       {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"url","url":"https://x"}}]}]}`, "parts=file:1:1:0"},
		"messages, a tool's result":  {"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":7,"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}]}]}`, "parts=image:1:1:0"},
		"embedding of a picture":     {"/v1beta/models/gemini-embedding-001:embedContent", `{"content":{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}`, "parts=image:1:0:4"},
		"embeddings of pictures":     {"/v1beta/models/gemini-embedding-001:batchEmbedContents", `{"requests":[{"model":"models/gemini-embedding-001","content":{"parts":[{"fileData":{"mimeType":"image/png","fileUri":"x"}}]}}]}`, "parts=image:1:1:0"},
		"gemini, a name in the body": {genPath, `{"model":"models/gemini-2.5-pro"}`, "model=gemini-2.5-flash"},
		"gemini, as a list of JSON":  {streaming, `{}`, "route=gemini-stream,provider=gemini,model=gemini-2.5-flash,max_tokens=-,max_completion_tokens=-,n=-,stream=true"},
	} {
		t.Run(name, func(t *testing.T) {
			a := g.do(t, "POST", c.path, c.body)
			if a.status != 200 {
				t.Fatalf("want 200, got %d %s", a.status, a.body)
			}
			if got := g.limit.last(); len(got) == 0 || !strings.Contains(got[0]+",", c.want) {
				t.Errorf("want %s in\n%v", c.want, got)
			}
		})
	}
}

// TestGuardRefusesOnEveryPath what it refuses of a chat, and what only the path knows, in the shape
// of the path's API.
func TestGuardRefusesOnEveryPath(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	reached := g.back.count()
	refuse := func(t *testing.T, path, body, want string, headers ...string) {
		t.Helper()
		a := g.do(t, "POST", path, body, headers...)
		if a.status < 400 || a.status > 415 || !strings.Contains(a.body, want) || !shaped(path, a.body) {
			t.Errorf("%s %.80s: want a refusal with %q, got %d %s", path, body, want, a.status, a.body)
		}
		if strings.Contains(path, "/messages") && a.header.Get("request-id") != a.header.Get("x-request-id") {
			t.Errorf("%s: want the request's id in request-id, got %v", path, a.header)
		}
	}
	for name, sound := range everyOperation() {
		t.Run(name, func(t *testing.T) {
			for _, hostile := range []struct{ body, want string }{
				{"", "no body"}, {"[]", "not a JSON object"}, {sound.body[:len(sound.body)-1], "middle of a value"},
				{sound.body + "x", "not a JSON object"}, {"{\"\u017ftream\":1," + sound.body[1:], "not ASCII"},
				{`{"a":1,"A":2,` + sound.body[1:], "duplicate member"}, {`{"\u006d":1,` + sound.body[1:], "escapes in the name"},
				{`{"x":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + "," + sound.body[1:], "not a JSON object"},
				{`{"x":NaN,` + sound.body[1:], "unexpected NaN"}, {`{"model":"a","model":"b","x":` + sound.body + "}", "duplicate member"},
				{`{"model":5,"x":` + sound.body + "}", "model must be a string"},
			} {
				if strings.HasPrefix(name, "gemini-gen") || name == "gemini-stream" {
					hostile.body = strings.Replace(hostile.body, `{"model":5`, `{"generationConfig":5`, 1)
					hostile.want = strings.Replace(hostile.want, "model must be a string", "generationConfig must be an object", 1)
				}
				refuse(t, sound.path, hostile.body, hostile.want)
			}
			refuse(t, sound.path, sound.body, "content-type", "Content-Type", "text/plain")
			refuse(t, sound.path, sound.body, "uncompressed", "Content-Encoding", "gzip")
		})
	}
	for _, c := range []struct{ path, body, want string }{
		{"/v1/responses", `{"model":"gpt-4o","background":true}`, "background is not served"},
		{"/v1/responses", `{"model":"gpt-4o","background":"true"}`, "background must be true or false"},
		{"/v1/responses", `{"model":"gpt-4o","max_output_tokens":0}`, "max_output_tokens must be"},
		{"/v1/responses", `{"model":"gpt-4o","Max_Output_Tokens":5}`, "did you mean max_output_tokens?"},
		{"/v1/completions", `{"model":"gpt-4o","prompt":["` + strings.Repeat(`a","`, 100) + `"],"n":128}`, "at most 4096 answers"},
		{"/v1/messages", `{"model":"claude-haiku-4-5","messages":[]}`, "max_tokens is missing"},
		{"/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":"9"}`, "max_tokens must be"},
		{"/v1/messages", `{"model":"claude-nope","max_tokens":9}`, "claude-nope"},
		{"/v1/messages", `{"model":"gpt-4o","max_tokens":9}`, "this path does not serve it"},
		{"/v1/messages/count_tokens", `{"messages":[]}`, "model is missing"},
		{chatPath, `{"model":"claude-haiku-4-5"}`, "this path does not serve it"},
		{chatPath, `{"model":"omni-moderation-latest"}`, "this path does not serve it"},
		{"/v1/embeddings", `{"model":"gpt-4o"}`, "this path does not serve it"},
		{"/v1/models/gemini-embedding-001:embedContent", `{"model":"gemini-2.5-pro"}`, "another than the path"},
		{"/v1/models/gemini-embedding-001:batchEmbedContents", `{"requests":[{"model":"models/gemini-embedding-001"},{"model":"models/x"}]}`, "another than the path"},
		{"/v1/models/gemini-embedding-001:batchEmbedContents", `{"requests":[{"model":"models/x","model":"models/gemini-embedding-001"}]}`, "duplicate member"},
		{"/v1/models/gemini-embedding-001:batchEmbedContents", `{"requests":{}}`, "requests must be a list"},
		{"/v1/models/gemini-embedding-001:batchEmbedContents", `{"requests":[1]}`, "each must be an object"},
		{"/v1/models/gemini-embedding-001:generateContent", `{}`, "no such model or operation"},
		{"/v1beta/models/gemini-2.5-flash:countTokens", `{"generateContentRequest":{"model":"models/gemini-2.5-pro"}}`, "another than the path"},
		{"/v1beta/models/nope:generateContent", `{}`, "no such model or operation"},
	} {
		refuse(t, c.path, c.body, c.want)
	}
	if got := g.back.count(); got != reached {
		t.Errorf("%d refused calls reached a provider", got-reached)
	}
}

// shaped says that an error has the shape of its path's API.
func shaped(path, text string) bool {
	var e struct {
		Type      string
		RequestID *string `json:"request_id"`
		Error     map[string]any
	}
	if json.Unmarshal([]byte(text), &e) != nil || e.Error["message"] == nil {
		return false
	}
	switch {
	case strings.Contains(path, "/messages"):
		return e.Type == "error" && e.RequestID != nil && e.Error["type"] != nil && len(e.Error) == 2
	case strings.Contains(path, "/models/"), strings.HasPrefix(path, "/v1beta"):
		return e.Error["status"] != nil && e.Error["code"] != nil && e.Error["type"] == nil
	}
	_, code := e.Error["code"]
	_, param := e.Error["param"]
	return code && param && e.Error["type"] != nil
}

// TestModelsHaveTheirProvidersNames also where ratelimit is not asked, or is asked by another name.
func TestModelsHaveTheirProvidersNames(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		c.Models = append(c.Models, config.Model{Name: "mod", Provider: "openai", Model: "omni-2", Kind: config.KindModeration},
			config.Model{Name: "sonnet", Provider: "anthropic", Model: "claude-sonnet-9"},
			config.Model{Name: "vec", Provider: "gemini", Model: "gemini-embedding-9", Kind: config.KindEmbedding},
			config.Model{Name: "flash", Provider: "gemini", Model: "gemini-9"})
	}, nil)
	g.limit.set(admit(nil))
	for _, c := range []struct{ path, body, uri, want string }{
		{"/v1/moderations", `{"input":"x"}`, "/v1/moderations", `{"input":"x","model":"omni-moderation-latest"}`},
		{"/v1/moderations", `{"model":null,"input":"x"}`, "/v1/moderations", `{"model":"omni-moderation-latest","input":"x"}`},
		{"/v1/moderations", `{"model":"openai/mod","input":"x"}`, "/v1/moderations", `{"model":"omni-2","input":"x"}`},
		{"/v1/messages/count_tokens", `{ "model" : "sonnet" }`, "/v1/messages/count_tokens", `{ "model" : "claude-sonnet-9" }`},
		{"/v1/models/vec:embedContent", `{"model":"models/vec","content":{}}`, "/v1beta/models/gemini-embedding-9:embedContent", `{"model":"models/gemini-embedding-9","content":{}}`},
		{"/v1/models/vec:embedContent", `{"content":{}}`, "/v1beta/models/gemini-embedding-9:embedContent", `{"content":{}}`},
		{"/v1/models/vec:batchEmbedContents", `{"requests":[{"model":"models/vec"},{"content":{}},{"model":"vec"}]}`, "/v1beta/models/gemini-embedding-9:batchEmbedContents",
			`{"requests":[{"model":"models/gemini-embedding-9"},{"content":{}},{"model":"models/gemini-embedding-9"}]}`},
		{"/v1beta/models/flash:countTokens", `{"generateContentRequest":{"model":"models/flash","contents":[]}}`, "/v1beta/models/gemini-9:countTokens",
			`{"generateContentRequest":{"model":"models/gemini-9","contents":[]}}`},
	} {
		a := g.do(t, "POST", c.path, c.body)
		if seen := g.back.last(t); a.status != 200 || seen.uri != c.uri || seen.body != c.want {
			t.Errorf("%s %s: want %s %s, got %d %s, and the provider %s %s", c.path, c.body, c.uri, c.want, a.status, a.body, seen.uri, seen.body)
		}
	}
}

// TestListsOfModelsAreToldApart by what SDKs send.
func TestListsOfModelsAreToldApart(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for _, c := range []struct {
		path, uri string
		headers   []string
	}{
		{"/v1/models", "/v1/models", nil},
		{"/v1/models/a/b:c", "/v1/models/a/b:c", nil},
		{"/v1/models", "/anthropic/v1/models", []string{"anthropic-version", "2023-06-01"}},
		{"/v1/models/claude?limit=3", "/anthropic/v1/models/claude?limit=3", []string{"anthropic-version", "2023-06-01"}},
		{"/v1/models", "/v1beta/models", []string{"x-goog-api-key", "k"}},
		{"/v1/models/g", "/v1beta/models/g", []string{"x-goog-api-client", "google-genai-sdk/3"}},
		{"/v1/models?key=k&pageSize=2", "/v1beta/models?pageSize=2", nil},
		{"/v1beta/models", "/v1beta/models", nil},
		{"/v1beta/models/g", "/v1beta/models/g", nil},
		{"/v1/models/a%2Fb%3Ac", "/v1/models/a%2Fb%3Ac", nil},
		{"/v1/models/a%2fb%2Fc?limit=3", "/anthropic/v1/models/a%2fb%2Fc?limit=3", []string{"anthropic-version", "2023-06-01"}},
	} {
		a := g.do(t, "GET", c.path, "", c.headers...)
		if got := g.back.last(t).uri; a.status != 200 || got != c.uri {
			t.Errorf("%s %v: want %s asked, got %s and %d %s", c.path, c.headers, c.uri, got, a.status, a.body)
		}
	}
}

// TestEncodedSlashesAreOfNamesAlone: anywhere else, and in what could be a way up, they are refused.
func TestEncodedSlashesAreOfNamesAlone(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	reached := g.back.count()
	for _, path := range []string{"/v1/models/..%2fx", "/v1/models/a%2f..%2f..%2fapi", "/v1/models/a%2f.b", "/v1/models/%2fa", "/v1/models/a%2f",
		"/v1/models/a/..%2fb", "/v1/models/a%2fb/c", "/v1/models/a%2f%2fb", "/v1%2fmodels/a", "/api/v1/models/a%2fb", "/v1/models/a%5cb", "/x%2fy",
		"/v1/models/a%252f..%2fb", "/v1/models/a%2fb%00"} {
		for _, key := range []string{goodKey, ""} {
			if a := g.do(t, "GET", path, "", "Authorization", key); a.status != 400 {
				t.Errorf("%s, key %q: want 400, got %d %s", path, key, a.status, a.body)
			}
		}
	}
	if got := g.back.count(); got != reached {
		t.Errorf("%d of them reached a service", got-reached)
	}
}

// TestWhatIsNotServedSaysWhatIs in the shape of the API that it belongs to.
func TestWhatIsNotServedSaysWhatIs(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for _, c := range []struct{ method, path, want string }{
		{"POST", "/v1/images/edits", "parts of a message"}, {"POST", "/v1/audio/transcriptions", "input_audio"},
		{"POST", "/v1/files", "POST /v1/chat/completions"}, {"GET", "/v1/files/file-1", "within the request"}, {"POST", "/v1/batches", "each call by itself"},
		{"GET", "/v1/responses/resp_1", "store: false"}, {"POST", "/v1/responses/resp_1/cancel", "store: false"},
		{"GET", "/v1/responses/resp_1/input_items", "store: false"}, {"DELETE", "/v1/responses/resp_1", "store: false"},
		{"POST", "/v1/messages/batches", "POST /v1/messages"}, {"GET", "/v1/messages/batches/b/results", "POST /v1/messages"},
		{"POST", "/v1beta/cachedContents", ":generateContent"}, {"POST", "/v1beta/files", "inlineData"},
		{"POST", "/v1/chat/completions/", "without a slash"}, {"POST", "/v1/completions/", "without a slash"}, {"POST", "/chat/completions", "/v1/chat/completions"},
		{"POST", "/v1/v1/chat/completions", "did you mean /v1/chat/completions?"}, {"POST", "/responses", "/v1/responses"}, {"POST", "/messages", "/v1/messages"},
		{"GET", "/v1/nothing", "no such path"},
	} {
		a := g.do(t, c.method, c.path, `{}`)
		if a.status != 404 || !strings.Contains(a.body, c.want) || !shaped(c.path, a.body) || a.header.Get("x-should-retry") != "false" {
			t.Errorf("%s %s: want a 404 with %q, got %d %s", c.method, c.path, c.want, a.status, a.body)
		}
	}
}

// TestWebSocketsAreRefusedWithTheReason by 426, upon which clients go on without one.
func TestWebSocketsAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for _, path := range []string{"/v1/responses", "/v1/realtime"} {
		text := rawRequest(t, g.url, "GET "+path+" HTTP/1.1\r\nHost: g\r\nAuthorization: "+goodKey+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		if !strings.HasPrefix(text, "HTTP/1.1 426 ") || !strings.Contains(text, "websocket_not_supported") {
			t.Errorf("%s: want 426, got %s", path, text)
		}
	}
}

// TestAnthropicsAnswersAreTheGateways: its id of the request, and no word of whose account it is.
func TestAnthropicsAnswersAreTheGateways(t *testing.T) {
	t.Parallel()
	g := start(t, nil, map[string]string{})
	g.limit.set(admit(nil))
	g.back.set(func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"anthropic-organization-id", "anthropic-ratelimit-tokens-remaining", "request-id", "x-ratelimit-limit"} {
			w.Header().Set(name, "theirs")
		}
		fmt.Fprint(w, `{"type":"message","usage":{"input_tokens":5,"output_tokens":7}}`)
	})
	sound := everyOperation()["anthropic-messages"]
	a := g.do(t, "POST", sound.path, sound.body, "anthropic-version", "2023-06-01", "anthropic-beta", "x-2025", "x-other", "y")
	for name, values := range a.header {
		if strings.Join(values, "") == "theirs" {
			t.Errorf("%s of the provider's reached the caller", name)
		}
	}
	if id := a.header.Get("request-id"); id == "" || id != a.header.Get("x-request-id") {
		t.Errorf("want the request's id, got %q", id)
	}
	seen := g.back.last(t).header
	if seen.Get("Anthropic-Version") != "2023-06-01" || seen.Get("Anthropic-Beta") != "x-2025" || seen.Get("X-Other") != "" {
		t.Errorf("want the version to reach the provider and nothing unknown, got %v", seen)
	}
	if _, l := g.rawLine(t, a.header.Get("x-request-id")); l.Answer.In != 5 || l.Answer.Out != 7 {
		t.Errorf("want 5 and 7 tokens told, got %+v", l.Answer)
	}
	for _, status := range []int{401, 403} {
		g.back.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if a := g.do(t, "POST", sound.path, sound.body); a.status != 503 || !shaped(sound.path, a.body) {
			t.Errorf("want the gateway's 503 for the provider's %d, got %d %s", status, a.status, a.body)
		}
	}
}
