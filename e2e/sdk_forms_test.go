package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"
	"google.golang.org/genai"
)

// leakSchema is the form that answers are asked for in.
func leakSchema() map[string]any {
	return map[string]any{"type": "object", "required": []string{"place", "litres"}, "additionalProperties": false,
		"properties": map[string]any{"place": map[string]any{"type": "string"}, "litres": map[string]any{"type": "integer"}}}
}

func wantLeak(t *testing.T, text string) {
	t.Helper()
	var leak struct {
		Place  string
		Litres *int
	}
	if err := json.Unmarshal([]byte(text), &leak); err != nil || leak.Place == "" || leak.Litres == nil {
		t.Errorf("want the form that was asked for, got %q, %v", text, err)
	}
}

// TestStructuredOutput by each SDK for Go: the form arrives as it was asked for, and is charged as told.
func TestStructuredOutput(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	t.Run("chat", func(t *testing.T) {
		t.Parallel()
		var header http.Header
		p := ask("gpt-4o-mini", "A leak, please.", 64)
		p.ResponseFormat.OfJSONSchema = &openai.ResponseFormatJSONSchemaParam{JSONSchema: openai.ResponseFormatJSONSchemaJSONSchemaParam{Name: "leak",
			Schema: leakSchema(), Strict: openai.Bool(true)}}
		client := openaiClient(who, "/v1", &header)
		answer, err := client.Chat.Completions.New(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		wantLeak(t, answer.Choices[0].Message.Content)
		wantRow(t, who, "openai", header, answer.Usage.PromptTokens, answer.Usage.CompletionTokens)
	})
	t.Run("responses", func(t *testing.T) {
		t.Parallel()
		var header http.Header
		p := response("A leak, please.", 64)
		p.Text.Format.OfJSONSchema = &responses.ResponseFormatTextJSONSchemaConfigParam{Name: "leak", Schema: leakSchema()}
		client := openaiClient(who, "/v1", &header)
		answer, err := client.Responses.New(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		wantLeak(t, answer.OutputText())
		wantRow(t, who, "openai", header, answer.Usage.InputTokens, answer.Usage.OutputTokens)
	})
	t.Run("messages", func(t *testing.T) {
		t.Parallel()
		var header http.Header
		p := message("A leak, please.", 64)
		p.OutputConfig.Format = anthropic.JSONOutputFormatParam{Schema: leakSchema()}
		client := anthropicClient(who, &header)
		answer, err := client.Messages.New(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		wantLeak(t, answer.Content[0].Text)
		wantRow(t, who, "anthropic", header, inputOf(answer.Usage), answer.Usage.OutputTokens)
	})
	t.Run("gemini", func(t *testing.T) {
		t.Parallel()
		var id atomic.Value
		answer, err := geminiClient(t, who, "v1beta", &id).Models.GenerateContent(t.Context(), "gemini-2.5-flash", genai.Text("A leak, please."),
			&genai.GenerateContentConfig{ResponseMIMEType: "application/json", ResponseJsonSchema: leakSchema()})
		if err != nil {
			t.Fatal(err)
		}
		wantLeak(t, answer.Text())
		if row := booked(t, who, "gemini", id.Load().(string)); row.Tokens != int64(answer.UsageMetadata.TotalTokenCount) || row.Source != "provider" {
			t.Errorf("want %+v on the books, got %+v", answer.UsageMetadata, row)
		}
	})
}

// TestGoogleSDKToolsAbortAndRefusals: a function is called, a stream is left, and refusals are told apart.
func TestGoogleSDKToolsAbortAndRefusals(t *testing.T) {
	t.Parallel()
	const flash = "gemini-2.5-flash"
	who, tiny := newAccount(t), newAccount(t, "TINY")
	stranger := who
	stranger.Key = "leaky_" + strings.Repeat("a", 40)
	var id atomic.Value
	client := geminiClient(t, who, "v1", &id)
	look := &genai.GenerateContentConfig{Tools: []*genai.Tool{{FunctionDeclarations: []*genai.FunctionDeclaration{{Name: "look"}}}},
		ToolConfig: &genai.ToolConfig{FunctionCallingConfig: &genai.FunctionCallingConfig{Mode: genai.FunctionCallingConfigModeAny}}}
	answer, err := client.Models.GenerateContent(t.Context(), flash, genai.Text("Weather? [[tokens=12]]"), look)
	if err != nil || len(answer.FunctionCalls()) != 1 || answer.FunctionCalls()[0].Name != "look" {
		t.Errorf("want a call of look, got %v, %+v", err, answer)
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stalled := &genai.GenerateContentConfig{HTTPOptions: &genai.HTTPOptions{Headers: http.Header{"X-Stub-Stall-After-Chunks": {"30"}}}}
	pieces := 0
	for _, err := range client.Models.GenerateContentStream(ctx, flash, genai.Text("A story [[tokens=100]]"), stalled) {
		if pieces++; err != nil || pieces == 30 {
			break
		}
	}
	leave()
	if row := booked(t, who, "gemini", id.Load().(string)); pieces != 30 || row.OutputTokens < 27 || row.OutputTokens > 33 {
		t.Errorf("want about 30 tokens after as many pieces, got %d and %+v", pieces, row)
	}
	for status, by := range map[int]*genai.Client{401: geminiClient(t, stranger, "v1", &id), 429: geminiClient(t, tiny, "v1", &id)} {
		_, err := by.Models.GenerateContent(t.Context(), flash, genai.Text("x"), &genai.GenerateContentConfig{MaxOutputTokens: 5000})
		if refused, ok := errors.AsType[genai.APIError](err); !ok || refused.Code != status {
			t.Errorf("want %d, got %v", status, err)
		}
	}
}
