package stubs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genai"
)

// start serves a stub of the flavour and gives its address.
func start(t *testing.T, cfg Config) (*Server, string) {
	t.Helper()
	cfg.Metrics = prometheus.NewRegistry()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	return s, srv.URL
}

// do sends a request and gives the status and the body.
func do(t *testing.T, method, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil && !strings.Contains(err.Error(), "EOF") {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// served waits until the stub has finished n requests and gives the newest.
func served(t *testing.T, s *Server, n uint64) Served {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("%d requests finished", n), func() bool {
		c, _ := s.recorder.totals()
		return c.Total >= n && c.Open == 0
	})
	all := s.recorder.list("", 0, maxPageSize)
	return all[len(all)-1]
}

func TestOpenAIClient(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: OpenAI, APIKey: "secret"})
	client := openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("secret"), option.WithMaxRetries(0))
	params := openai.ChatCompletionNewParams{Model: "gpt-4o", MaxCompletionTokens: openai.Int(50),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello world [[tokens=30]]")}}

	answer, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(30); answer.Usage.CompletionTokens != want || len(answer.Choices[0].Message.Content) != 120 ||
		answer.Choices[0].FinishReason != "stop" {
		t.Errorf("want 30 tokens in 120 bytes and stop, got %+v", answer)
	}
	if want := int64(7); answer.Usage.PromptTokens != want {
		t.Errorf("want %d input tokens, got %d", want, answer.Usage.PromptTokens)
	}

	params.StreamOptions.IncludeUsage = openai.Bool(true)
	params.MaxCompletionTokens = openai.Int(10)
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var acc openai.ChatCompletionAccumulator
	chunks := 0
	for stream.Next() {
		chunks++
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if acc.Usage.CompletionTokens != 10 || acc.Choices[0].FinishReason != "length" || len(acc.Choices[0].Message.Content) != 40 {
		t.Errorf("want 10 tokens cut by length, got %+v", acc.ChatCompletion)
	}
	if want := 1 + 10 + 1 + 1; chunks != want {
		t.Errorf("want %d chunks (role, text, finish, usage), got %d", want, chunks)
	}
	if got := served(t, s, 2); got.Output != 10 || got.Input != 7 || got.Aborted || !got.Stream {
		t.Errorf("want 7 + 10 tokens served, got %+v", got)
	}

	models, err := client.Models.List(t.Context())
	if err != nil || len(models.Data) == 0 {
		t.Errorf("want models, got %v, %v", models, err)
	}
	bad := openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("other"), option.WithMaxRetries(0))
	_, err = bad.Chat.Completions.New(t.Context(), params)
	if refused, ok := errors.AsType[*openai.Error](err); !ok || refused.StatusCode != 401 || refused.Code != "invalid_api_key" {
		t.Errorf("want 401 invalid_api_key, got %v", err)
	}
}

func TestOpenAITools(t *testing.T) {
	t.Parallel()
	_, url := start(t, Config{Flavour: OpenAI})
	client := openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("x"), option.WithMaxRetries(0))
	params := openai.ChatCompletionNewParams{Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("weather? [[tokens=12]]")},
		Tools:      []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "look"})},
		ToolChoice: openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("required")}}
	answer, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	check := func(m openai.ChatCompletionMessage, finish string) {
		t.Helper()
		if finish != "tool_calls" || len(m.ToolCalls) != 1 || m.ToolCalls[0].Function.Name != "look" {
			t.Fatalf("want a call of look, got %q %+v", finish, m)
		}
		if arguments := m.ToolCalls[0].Function.Arguments; !json.Valid([]byte(arguments)) || len(arguments) != 48 {
			t.Errorf("want 48 bytes of JSON, got %q", arguments)
		}
	}
	check(answer.Choices[0].Message, answer.Choices[0].FinishReason)
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var acc openai.ChatCompletionAccumulator
	for stream.Next() {
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	check(acc.Choices[0].Message, acc.Choices[0].FinishReason)
}

func TestEmbeddings(t *testing.T) {
	t.Parallel()
	_, url := start(t, Config{Flavour: OpenAI})
	client := openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("x"), option.WithMaxRetries(0))
	answer, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "text-embedding-3-small", Dimensions: openai.Int(8),
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"hello", "world!!!"}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Data) != 2 || len(answer.Data[1].Embedding) != 8 || answer.Usage.PromptTokens != 4 || answer.Usage.TotalTokens != 4 {
		t.Errorf("want 2 vectors of 8 for 4 tokens, got %+v", answer)
	}
	for name, c := range map[string]struct {
		body   string
		status int
		want   string
	}{
		"string as base64": {`{"model":"m","input":"abcd","dimensions":1,"encoding_format":"base64"}`, 200, `"prompt_tokens":1,`},
		"tokens":           {`{"model":"m","input":[1,2,3]}`, 200, `"prompt_tokens":2,`},
		"token arrays":     {`{"model":"m","input":[[1,2,3],[4]]}`, 200, `"prompt_tokens":3,`},
		"no input":         {`{"model":"m"}`, 400, `"param":"input"`},
		"empty":            {`{"model":"m","input":[]}`, 400, `"param":"input"`},
		"mixed":            {`{"model":"m","input":["a",{}]}`, 400, `"param":"input"`},
		"negative token":   {`{"model":"m","input":[[-1]]}`, 400, `"param":"input"`},
		"format":           {`{"model":"m","input":"a","encoding_format":"hex"}`, 400, `"param":"encoding_format"`},
	} {
		if status, body := do(t, "POST", url+"/v1/embeddings", c.body); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: want %d with %s, got %d %s", name, c.status, c.want, status, body)
		}
	}
}

func TestGeminiClient(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: Gemini, APIKey: "secret"})
	client, err := genai.NewClient(t.Context(), &genai.ClientConfig{APIKey: "secret", Backend: genai.BackendGeminiAPI,
		HTTPOptions: genai.HTTPOptions{BaseURL: url}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &genai.GenerateContentConfig{MaxOutputTokens: 40, ThinkingConfig: &genai.ThinkingConfig{ThinkingBudget: genai.Ptr(int32(100))},
		SystemInstruction: genai.NewContentFromText("be kind", genai.RoleUser)}
	answer, err := client.Models.GenerateContent(t.Context(), "gemini-2.5-flash", genai.Text("hello [[tokens=32]]"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	u := answer.UsageMetadata
	if u.PromptTokenCount != 7 || u.CandidatesTokenCount != 32 || u.ThoughtsTokenCount != 8 || u.TotalTokenCount != 47 ||
		len(answer.Text()) != 128 {
		t.Errorf("want 7 + 32 + 8 tokens, got %+v", u)
	}
	cfg.MaxOutputTokens = 20
	var last *genai.GenerateContentResponse
	text, messages := "", 0
	for m, err := range client.Models.GenerateContentStream(t.Context(), "gemini-2.5-flash", genai.Text("hello [[tokens=32]]"), cfg) {
		if err != nil {
			t.Fatal(err)
		}
		if m.UsageMetadata == nil {
			t.Fatal("want the usage on every message")
		}
		text, last = text+m.Text(), m
		messages++
	}
	if u := last.UsageMetadata; u.ThoughtsTokenCount != 8 || u.CandidatesTokenCount != 12 ||
		last.Candidates[0].FinishReason != "MAX_TOKENS" || len(text) != 48 || messages != 12 {
		t.Errorf("want 8 thoughts and 12 tokens in 12 messages, got %+v, %d bytes, %d messages", u, len(text), messages)
	}
	if got := served(t, s, 2); got.Output != 20 || got.Generated != 20 || got.Input != 7 {
		t.Errorf("want 7 + 20 served, got %+v", got)
	}
	if _, err := client.Models.GenerateContent(t.Context(), "m", nil, nil); err == nil {
		t.Error("want an error without contents")
	}
}

func TestErrorsAndBadInput(t *testing.T) {
	t.Parallel()
	_, openaiURL := start(t, Config{Flavour: OpenAI, Models: []string{"gpt-4o"}})
	_, qwenURL := start(t, Config{Flavour: Qwen})
	_, geminiURL := start(t, Config{Flavour: Gemini})
	chat, generate := openaiURL+"/v1/chat/completions", geminiURL+"/v1beta/models/m:generateContent"
	for name, c := range map[string]struct {
		url, body string
		status    int
		want      string
	}{
		"not JSON":         {chat, `{`, 400, `"type":"invalid_request_error"`},
		"an array":         {chat, `[]`, 400, `"param":null`},
		"null":             {chat, `null`, 400, `"code":null`},
		"not UTF-8":        {chat, "{\"model\":\"\xff\"}", 400, "UTF-8"},
		"no model":         {chat, `{}`, 400, "model"},
		"unknown model":    {chat, `{"model":"x"}`, 404, "model_not_found"},
		"no messages":      {chat, `{"model":"gpt-4o"}`, 400, `"param":"messages"`},
		"empty messages":   {chat, `{"model":"gpt-4o","messages":[]}`, 400, `"param":"messages"`},
		"no role":          {chat, `{"model":"gpt-4o","messages":[{}]}`, 400, `"param":"messages[0].role"`},
		"content a number": {chat, `{"model":"gpt-4o","messages":[{"role":"user","content":1}]}`, 400, `"param":"messages[0].content"`},
		"max_tokens zero": {chat, `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"max_tokens":0}`, 400,
			"integer_below_min_value"},
		"max_tokens text": {chat, `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"max_tokens":"5"}`, 400, "invalid_type"},
		"max_tokens huge": {chat, `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"max_tokens":1000000000000000000}`, 400,
			"integer_above_max_value"},
		"max_tokens fraction": {chat, `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"max_tokens":1.5}`, 400, "invalid_type"},
		"stream_options alone": {chat, `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"stream_options":{"include_usage":true}}`,
			400, "stream_options"},
		"n too large":     {chat, `{"model":"gpt-4o","messages":[{"role":"user","content":"a"}],"n":129}`, 400, `"param":"n"`},
		"unknown path":    {openaiURL + "/v1/nothing", `{}`, 404, "unknown_url"},
		"qwen":            {qwenURL + "/compatible-mode/v1/chat/completions", `{`, 400, `"request_id":"req_`},
		"gemini not JSON": {generate, `{`, 400, `"status":"INVALID_ARGUMENT"`},
		"gemini max zero": {generate, `{"contents":[{"parts":[{"text":"a"}]}],"generationConfig":{"maxOutputTokens":0}}`, 400, `"code":400`},
		"gemini snake case": {generate, `{"contents":{"parts":[{"text":"a"}]},"generation_config":{"max_output_tokens":3}}`, 200,
			`"candidatesTokenCount":3,`},
		"gemini unknown path": {geminiURL + "/v1beta/models/m:paint", `{}`, 404, `"status":"NOT_FOUND"`},
		"last duplicate wins": {chat, `{"model":"gpt-4o","max_tokens":100,"Max_Tokens":90,"messages":[{"role":"user","content":"a"}],"max_tokens":7}`, 200, `"completion_tokens":7,`},
	} {
		status, body := do(t, "POST", c.url, c.body)
		if status != c.status || !strings.Contains(body, c.want) || !json.Valid([]byte(body)) {
			t.Errorf("%s: want %d with %s, got %d %s", name, c.status, c.want, status, body)
		}
	}
	if status, body := do(t, "GET", chat, ""); status != 405 {
		t.Errorf("GET: want 405, got %d %s", status, body)
	}
}

const question = `{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hello there"}]}`

// TestAbort hangs up in the middle of a slow stream: only what was written counts.
func TestAbort(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: OpenAI})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := uuid.NewString()
	req, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/chat/completions", strings.NewReader(question))
	req.Header.Set("X-Request-Id", id)
	req.Header.Set("X-Stub-Chunk-Delay-Ms", "5")
	req.Header.Set("X-Stub-Tokens", "1000")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for seen := 0; seen < 10 && lines.Scan(); {
		if strings.Contains(lines.Text(), `"content":"`) {
			seen++
		}
	}
	cancel()
	resp.Body.Close()
	got := served(t, s, 1)
	if !got.Aborted || got.Output < 9 || got.Output >= 1000 || got.Generated != 1000 || got.Input != 3 || got.ID != id {
		t.Errorf("want about 10 of 1000 tokens for %s, got %+v", id, got)
	}
	if page := s.recorder.list(id, 0, 10); len(page) != 1 {
		t.Errorf("want one request with that id, got %v", page)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: OpenAI})
	chat := url + "/v1/chat/completions"
	plain := `{"model":"gpt-4o","messages":[{"role":"user","content":"hello there"}],"max_tokens":10}`
	put := func(body string) { //nolint:thelper // one line
		if status, text := do(t, "PUT", url+"/__stub/config", body); status != 200 {
			t.Fatalf("put %s: %d %s", body, status, text)
		}
	}
	put(`{"failNext":2,"status":503}`)
	for i, want := range []int{503, 503, 200, 200} {
		if got, body := do(t, "POST", chat, plain); got != want {
			t.Errorf("failNext, call %d: want %d, got %d %s", i, want, got, body)
		}
	}
	put(`{"status":429}`)
	if got, body := do(t, "POST", chat, plain); got != 429 || !strings.Contains(body, "rate_limit_exceeded") {
		t.Errorf("status: got %d %s", got, body)
	}
	put(`{"omitUsage":true,"ignoreMaxTokens":true}`)
	if _, body := do(t, "POST", chat, plain, "X-Stub-Tokens", "50"); strings.Contains(body, `"usage"`) || !strings.Contains(body,
		`"finish_reason":"stop"`) {
		t.Errorf("want no usage and no cut, got %s", body)
	}
	if got := served(t, s, 6); got.Output != 50 || !got.NoUsage {
		t.Errorf("want 50 tokens without usage, got %+v", got)
	}
	put(`{"truncateAfterChunks":3}`)
	_, body := do(t, "POST", chat, question, "X-Stub-Tokens", "50")
	if n := strings.Count(body, `"content":"`); n != 4 || strings.Contains(body, "DONE") { // the role chunk has an empty content
		t.Errorf("want the role and 3 chunks, got %d: %s", n, body)
	}
	if got := served(t, s, 7); got.Output != 3 || !got.Truncated || got.Aborted {
		t.Errorf("want 3 tokens truncated, got %+v", got)
	}
	put(`{"brokenJson":true}`)
	if _, body := do(t, "POST", chat, plain); json.Valid([]byte(body)) {
		t.Errorf("want broken JSON, got %s", body)
	}
	if status, text := do(t, "GET", url+"/__stub/config", ""); status != 200 || !strings.Contains(text, `"brokenJson":true`) {
		t.Errorf("get config: %d %s", status, text)
	}
	for _, bad := range []string{`{"delayms":"1"}`, `{"x":1}`, `[]`, `{} {}`, `{"errorRate":1.5}`, `{"status":200}`, `{"delayMs":-1}`,
		`{"hang":1}`, ``} {
		if status, text := do(t, "PUT", url+"/__stub/config", bad); status != 400 || !strings.Contains(text, "detail") {
			t.Errorf("put %q: want 400 with a reason, got %d %s", bad, status, text)
		}
	}
}

func TestHang(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: Gemini})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1beta/models/m:generateContent", strings.NewReader(`{"contents":[{"parts":[{"text":"four"}]}]}`))
	req.Header.Set("X-Stub-Hang", "true")
	ended := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		ended <- err
	}()
	testenv.Eventually(t, "the stub has the request", func() bool {
		c, _ := s.recorder.totals()
		return c.Open == 1
	})
	leave()
	if err := <-ended; err == nil {
		t.Fatal("want no answer")
	}
	if got := served(t, s, 1); got.Status != 0 || got.Input != 1 || got.Output != 0 || !got.Aborted {
		t.Errorf("want the input read and nothing answered, got %+v", got)
	}
}

// TestErrorInside answers 200 and serves nothing.
func TestErrorInside(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: OpenAI})
	status, body := do(t, "POST", url+"/v1/chat/completions", `{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}`,
		"X-Stub-Error-Inside", "true")
	if status != 200 || !strings.Contains(body, `"error":{`) {
		t.Errorf("want an error in a 200, got %d %s", status, body)
	}
	if record := served(t, s, 1); record.Status != 200 || record.Input+record.Output != 0 {
		t.Errorf("want nothing served, got %+v", record)
	}
}

// TestLinger ends the answer later than its last byte comes.
func TestLinger(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: OpenAI})
	ctx, leave := context.WithTimeout(t.Context(), 10*time.Second)
	defer leave()
	req, _ := http.NewRequestWithContext(ctx, "POST", url+"/v1/chat/completions",
		strings.NewReader(`{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hi"}]}`))
	req.Header.Set("X-Stub-Linger-Ms", "60000")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "data: [DONE]" {
	}
	if lines.Text() != "data: [DONE]" {
		t.Fatalf("want the last event at once, got %q, %v", lines.Text(), lines.Err())
	}
	leave()
	if got := served(t, s, 1); got.Output != got.Generated || !got.Aborted {
		t.Errorf("want everything served and its end not waited for, got %+v", got)
	}
}

func TestRequestsPages(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: Qwen, Keep: 5})
	for range 8 {
		do(t, "POST", url+"/compatible-mode/v1/chat/completions", `{"model":"qwen-plus","messages":[{"role":"user","content":"hi"}]}`,
			"X-Request-Id", uuid.NewString())
	}
	served(t, s, 8)
	_, text := do(t, "GET", url+"/__stub/requests?after=4&limit=3", "")
	var page RequestsPage
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Requests) != 3 || page.Requests[0].Seq != 5 || page.Next != 7 || page.Counts.Total != 8 || len(page.Last) != 8 {
		t.Errorf("want 5..7 of 8, got %+v", page)
	}
	if _, lines := do(t, "GET", url+"/__stub/requests?format=ndjson", ""); strings.Count(lines, "\n") != 5 {
		t.Errorf("want the last 5, got %s", lines)
	}
	if status, _ := do(t, "GET", url+"/__stub/requests?after=x", ""); status != 400 {
		t.Errorf("want 400, got %d", status)
	}
	do(t, "DELETE", url+"/__stub/requests", "")
	if c, _ := s.recorder.totals(); c.Total != 0 {
		t.Errorf("want none after the reset, got %d", c.Total)
	}
}

func TestLegacyChat(t *testing.T) {
	t.Parallel()
	_, url := start(t, Config{Flavour: Qwen})
	path := url + "/api/v1/qwen/chat"
	for name, c := range map[string]struct {
		method, body, media string
		status              int
		want                string
	}{
		"echo":      {"POST", `{"a":1}`, "application/json", 200, `"received":{"a":1}`},
		"usage":     {"POST", `{"a":1}`, "application/json", 200, `"total_tokens":8`},
		"array":     {"POST", `[]`, "application/json", 400, `"detail"`},
		"malformed": {"POST", `{`, "application/json", 400, `"detail"`},
		"text":      {"POST", `{}`, "text/plain", 415, `"detail"`},
		"get":       {"GET", ``, "application/json", 405, `"detail"`},
	} {
		if status, body := do(t, c.method, path, c.body, "Content-Type", c.media); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: want %d with %s, got %d %s", name, c.status, c.want, status, body)
		}
	}
	if status, body := do(t, "POST", path, `{"m":1}`); status != 200 || !strings.Contains(body, "Stubbed Qwen response") {
		t.Errorf("got %d %s", status, body)
	}
}

// TestDeterministic asks the same twice and checks the bound that holds rely on.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	s, url := start(t, Config{Flavour: OpenAI})
	bodies := []string{`{"model":"m","messages":[{"role":"user","content":"a"}]}`,
		`{"model":"m","messages":[{"role":"u","content":"ab"},{"role":"u","content":"é"}]}`,
		`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"part"},{"text":"p"}]}],"n":3}`}
	for i, body := range bodies {
		do(t, "POST", url+"/v1/chat/completions", body)
		first := served(t, s, uint64(2*i+1))
		do(t, "POST", url+"/v1/chat/completions", body)
		second := served(t, s, uint64(2*i+2))
		if first.Output != second.Output || first.Input != second.Input || first.Output == 0 {
			t.Errorf("want the same counts twice, got %+v and %+v", first, second)
		}
		if first.Input*4 > len(body) {
			t.Errorf("%d input tokens exceed a quarter of %d bytes", first.Input, len(body))
		}
	}
}

// FuzzRequests sends any body to every route.
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{question, `{`, `{"model":"m","messages":[{"role":"u","content":[{"text":"[[tokens=9]]"}]}],"tools":[{}],"tool_choice":"required"}`,
		`{"model":"m","input":[[1]]}`, `{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"candidateCount":2}}`,
		`{"model":"m","input":"x","text":{"format":{"type":"json_schema","schema":{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"}]}}}}}}`,
		`{"model":"m","max_tokens":9,"messages":[{"role":"u","content":[]}],"tools":[{"name":"f"}],"tool_choice":{"type":"any"},"thinking":{"budget_tokens":1024}}`,
		`{"model":"m","prompt":["a",[1]],"best_of":2,"stream":true}`, `{"requests":[{"content":{"parts":[{}]}}]}`,
		`{"contents":[],"tools":[{"functionDeclarations":[{}]}],"toolConfig":{"functionCallingConfig":{"mode":"ANY"}}}`} {
		f.Add([]byte(seed))
	}
	handlers := map[string]http.Handler{}
	paths := []string{"/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/responses", "/v1/moderations", "/v1/messages",
		"/v1/messages/count_tokens", "/v1/images/generations", "/v1/audio/speech"}
	for _, verb := range []string{"generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"} {
		paths = append(paths, "/v1beta/models/m:"+verb)
	}
	for _, path := range paths {
		flavour := OpenAI
		if strings.HasPrefix(path, "/v1beta") {
			flavour = Gemini
		}
		s, err := New(Config{Flavour: flavour})
		if err != nil {
			f.Fatal(err)
		}
		handlers[path] = s.Handler()
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for path, h := range handlers {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader(string(body))))
			if w.Code >= 500 {
				t.Errorf("%s: %d for %q", path, w.Code, body)
			}
		}
	})
}
