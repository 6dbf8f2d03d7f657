package e2e

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"google.golang.org/genai"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

// openaiClient is openai-go pointed at the gateway; header collects the last answer's headers.
func openaiClient(who stacktest.Account, path string, header *http.Header, more ...option.RequestOption) openai.Client {
	remember := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		res, err := next(r)
		if res != nil && header != nil {
			*header = res.Header
		}
		return res, err
	})
	return openai.NewClient(append([]option.RequestOption{option.WithBaseURL(running.Gateway + path), option.WithAPIKey(who.Key), remember,
		option.WithMaxRetries(0)}, more...)...)
}

func ask(model, prompt string, max int64) openai.ChatCompletionNewParams {
	p := openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(prompt)}}
	if max > 0 {
		p.MaxTokens = openai.Int(max)
	}
	return p
}

func TestOpenAIPlainCallIsOnTheBooks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, path, model, provider string }{
		{"openai", "/v1", "gpt-4o-mini", "openai"},
		{"openai, provider/model", "/v1", "openai/gpt-4o-mini", "openai"},
		{"qwen by model", "/v1", "qwen-plus", "qwen"},
		{"qwen compatible mode", "/compatible-mode/v1", "qwen-plus", "qwen"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			var header http.Header
			client := openaiClient(who, tc.path, &header)
			answer, err := client.Chat.Completions.New(t.Context(), ask(tc.model, "Say something, please. [[tokens=37]]", 0))
			if err != nil {
				t.Fatal(err)
			}
			if answer.Usage.CompletionTokens != 37 || answer.Choices[0].Message.Content == "" {
				t.Fatalf("want 37 tokens of text, got %+v", answer)
			}
			row := booked(t, who, tc.provider, header.Get("X-Request-Id"))
			if row.InputTokens != answer.Usage.PromptTokens || row.OutputTokens != 37 || row.Tokens != answer.Usage.TotalTokens ||
				row.Source != "provider" {
				t.Fatalf("books %+v, provider %+v", row, answer.Usage)
			}
			for _, name := range []string{"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
				"x-ratelimit-limit-requests",
				"x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "RateLimit", "RateLimit-Policy", "x-leaky-hold",
				"X-Content-Type-Options", "X-Correlation-Id"} {
				if header.Get(name) == "" {
					t.Errorf("the answer has no %s", name)
				}
			}
		})
	}
}

func TestOpenAIStreamIsMeteredWithoutAskingForUsage(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := openaiClient(who, "/v1", &header)
	stream := client.Chat.Completions.NewStreaming(t.Context(), ask("gpt-4o", "Count the drops. [[tokens=41]]", 64))
	var text strings.Builder
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			text.WriteString(choice.Delta.Content)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if text.Len() == 0 {
		t.Fatal("the stream is empty")
	}
	row := booked(t, who, "openai", header.Get("X-Request-Id"))
	if row.OutputTokens != 41 || row.Source != "provider" {
		t.Fatalf("want 41 output tokens from the provider, got %+v", row)
	}
}

func TestMaxTokensOfTheClientIsKept(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := openaiClient(who, "/v1", &header)
	p := ask("gpt-4o-mini", "[[tokens=500]]", 0)
	p.MaxCompletionTokens = openai.Int(9)
	answer, err := client.Chat.Completions.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Usage.CompletionTokens != 9 || answer.Choices[0].FinishReason != "length" {
		t.Fatalf("want 9 tokens cut by length, got %+v", answer)
	}
	// Nothing stated: the gateway fills in its default, 256.
	answer, err = client.Chat.Completions.New(t.Context(), ask("gpt-4o-mini", "[[tokens=5000]]", 0))
	if err != nil {
		t.Fatal(err)
	}
	if answer.Usage.CompletionTokens != 256 {
		t.Fatalf("want the filled-in 256 tokens, got %d", answer.Usage.CompletionTokens)
	}
}

func TestEmbeddingsAndModels(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := openaiClient(who, "/v1", &header)
	got, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "text-embedding-3-small",
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one leak", "two leaks"}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Data) != 2 || len(got.Data[0].Embedding) == 0 {
		t.Fatalf("want two vectors, got %+v", got)
	}
	row := booked(t, who, "openai", header.Get("X-Request-Id"))
	if row.InputTokens != got.Usage.PromptTokens || row.OutputTokens != 0 {
		t.Fatalf("books %+v, provider %+v", row, got.Usage)
	}
	models, err := client.Models.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, m := range models.Data {
		found[m.ID] = true
	}
	if !found["gpt-4o-mini"] || found["gemini-2.5-flash"] || !found["qwen-plus"] {
		t.Fatalf("want the models of the protocol, got %v", found)
	}
}

func TestToolCallBodyPassesUntouched(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	client := openaiClient(who, "/v1", nil)
	p := ask("gpt-4o", "What is the weather in {\"city\":\"Paris\"}?", 64)
	p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "weather",
		Parameters: openai.FunctionParameters{"type": "object", "properties": map[string]any{"model": map[string]any{"type": "string"}}}})}
	p.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("required")}
	answer, err := client.Chat.Completions.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if calls := answer.Choices[0].Message.ToolCalls; len(calls) != 1 || calls[0].Function.Name != "weather" {
		t.Fatalf("want a call of weather, got %+v", answer.Choices[0].Message)
	}
}

func TestOneMegabytePrompt(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := openaiClient(who, "/v1", &header)
	answer, err := client.Chat.Completions.New(t.Context(), ask("gpt-4.1", strings.Repeat("leak ", 1<<20/5)+"[[tokens=5]]", 16))
	if err != nil {
		t.Fatal(err)
	}
	row := booked(t, who, "openai", header.Get("X-Request-Id"))
	if answer.Usage.PromptTokens < 1<<18 || row.Tokens != answer.Usage.TotalTokens {
		t.Fatalf("books %+v, provider %+v", row, answer.Usage)
	}
}

func TestGeminiPlainAndStream(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var requestID atomic.Value
	client, err := genai.NewClient(t.Context(), &genai.ClientConfig{APIKey: who.Key, Backend: genai.BackendGeminiAPI,
		HTTPOptions: genai.HTTPOptions{BaseURL: running.Gateway},
		HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			res, err := http.DefaultTransport.RoundTrip(r)
			if res != nil {
				requestID.Store(res.Header.Get("X-Request-Id"))
			}
			return res, err
		})}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Models.GenerateContent(t.Context(), "gemini-2.5-flash", genai.Text("Hello [[tokens=23]]"),
		&genai.GenerateContentConfig{Temperature: genai.Ptr[float32](0.5)})
	if err != nil {
		t.Fatal(err)
	}
	row := booked(t, who, "gemini", requestID.Load().(string))
	total := int64(answer.UsageMetadata.TotalTokenCount)
	if total == 0 || row.Tokens != total || row.InputTokens != int64(answer.UsageMetadata.PromptTokenCount) || row.Source != "provider" {
		t.Fatalf("books %+v, provider %+v", row, answer.UsageMetadata)
	}
	var last *genai.GenerateContentResponse
	for part, err := range client.Models.GenerateContentStream(t.Context(), "gemini-2.5-flash", genai.Text("Hello [[tokens=31]]"), nil) {
		if err != nil {
			t.Fatal(err)
		}
		last = part
	}
	row = booked(t, who, "gemini", requestID.Load().(string))
	if last == nil || row.Tokens != int64(last.UsageMetadata.TotalTokenCount) || row.Tokens == 0 {
		t.Fatalf("books %+v, last part %+v", row, last)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAbortedStreamIsEstimatedAndChargedOnce(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := openaiClient(who, "/v1", &header, option.WithHeader("x-stub-stall-after-chunks", "20")) // so that it never ends by itself
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	stream := client.Chat.Completions.NewStreaming(ctx, ask("gpt-4o", "[[tokens=400]]", 400))
	for chunks := 0; chunks < 12 && stream.Next(); chunks++ {
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	hangUp()
	stream.Close()
	row := booked(t, who, "openai", header.Get("X-Request-Id"))
	if row.Source != "estimated" || row.OutputTokens == 0 || row.OutputTokens >= 400 {
		t.Fatalf("want an estimate between none and all, got %+v", row)
	}
}

func TestRefusalIsRetriedByTheSDK(t *testing.T) {
	t.Parallel()
	who := newAccount(t, "TINY")
	var header http.Header
	// 3600 input + hold of the maximum is more than the bucket can ever hold: no retry.
	var tries atomic.Int32
	counted := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		tries.Add(1)
		return next(r)
	})
	client := openaiClient(who, "/v1", &header, option.WithMaxRetries(2), counted)
	_, err := client.Chat.Completions.New(t.Context(), ask("gpt-4o-mini", "never fits", 5000))
	refused, ok := errors.AsType[*openai.Error](err)
	if !ok || refused.StatusCode != 429 || refused.Code != "rate_limit_exceeded" || header.Get("x-should-retry") != "false" {
		t.Fatalf("want a final 429, got %v, headers %v", err, header)
	}
	if n := tries.Load(); n != 1 {
		t.Fatalf("a call that never fits was tried %d times", n)
	}
	if !strings.Contains(refused.Message, header.Get("X-Request-Id")) || !strings.Contains(refused.Message, "max_tokens") {
		t.Fatalf("the message names neither request nor cure: %q", refused.Message)
	}
	// A hold in flight blocks the second call; the SDK waits as it is told and gets through. The first
	// one stalls until the second was refused.
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	slow := openaiClient(who, "/v1", nil, option.WithHeader("x-stub-stall-after-chunks", "5"))
	stream := slow.Chat.Completions.NewStreaming(ctx, ask("gpt-4o-mini", "[[tokens=30]]", 700))
	defer stream.Close()
	if !stream.Next() {
		t.Fatal(stream.Err())
	}
	tries.Store(0)
	leaving := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		res, err := next(r)
		if res != nil && res.StatusCode == http.StatusTooManyRequests {
			leave()
		}
		return res, err
	})
	patient := openaiClient(who, "/v1", &header, option.WithMaxRetries(100), counted, leaving)
	if _, err := patient.Chat.Completions.New(t.Context(), ask("gpt-4o-mini", "[[tokens=10]]", 700)); err != nil {
		t.Fatal(err)
	}
	if tries.Load() < 2 {
		t.Fatal("the second call was not refused first")
	}
}
