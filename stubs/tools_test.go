package stubs

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"google.golang.org/genai"
)

// TestParallelTools: where any function is to be called, each on offer is, whole and streamed alike, as
// the SDKs read it; the tokens of the answer are those of the arguments.
func TestParallelTools(t *testing.T) {
	t.Parallel()
	const question = "weather? [[tokens=25]]" // 13 and 12
	want := func(t *testing.T, got []invocation, tokens int64) {
		t.Helper()
		var names []string
		bytes := 0
		for _, one := range got {
			names = append(names, one.name)
			bytes += len(one.arguments)
			if !json.Valid([]byte(one.arguments)) {
				t.Errorf("want JSON, got %q", one.arguments)
			}
		}
		if !slices.Equal(names, []string{"look", "hear"}) || tokens != 25 || bytes != 25*bytesPerToken {
			t.Errorf("want look and hear called in 25 tokens, got %v in %d, of %d bytes", got, tokens, bytes)
		}
	}

	t.Run("chat", func(t *testing.T) {
		t.Parallel()
		_, url := start(t, Config{Flavour: OpenAI})
		client := openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("x"), option.WithMaxRetries(0))
		params := openai.ChatCompletionNewParams{Model: "gpt-4o", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
			ToolChoice:    openai.ChatCompletionToolChoiceOptionUnionParam{OfAuto: openai.String("required")},
			StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}}
		for _, name := range []string{"look", "hear"} {
			params.Tools = append(params.Tools, openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: name}))
		}
		calls := func(c openai.ChatCompletion) (all []invocation) {
			for _, one := range c.Choices[0].Message.ToolCalls {
				all = append(all, invocation{one.Function.Name, one.Function.Arguments})
			}
			return all
		}
		stream := client.Chat.Completions.NewStreaming(t.Context(), params)
		var acc openai.ChatCompletionAccumulator
		for stream.Next() {
			acc.AddChunk(stream.Current())
		}
		want(t, calls(acc.ChatCompletion), acc.Usage.CompletionTokens)
		params.StreamOptions = openai.ChatCompletionStreamOptionsParam{}
		answer, err := client.Chat.Completions.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		want(t, calls(*answer), answer.Usage.CompletionTokens)
		params.ParallelToolCalls = openai.Bool(false)
		if answer, err = client.Chat.Completions.New(t.Context(), params); err != nil || len(calls(*answer)) != 1 {
			t.Errorf("want one call where parallel ones are off, got %v %v", answer, err)
		}
	})

	t.Run("responses", func(t *testing.T) {
		t.Parallel()
		_, url := start(t, Config{Flavour: OpenAI})
		client := openai.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("x"), option.WithMaxRetries(0))
		params := responses.ResponseNewParams{Model: "gpt-4o", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(question)},
			ToolChoice: responses.ResponseNewParamsToolChoiceUnion{OfToolChoiceMode: openai.Opt(responses.ToolChoiceOptionsRequired)}}
		for _, name := range []string{"look", "hear"} {
			params.Tools = append(params.Tools, responses.ToolUnionParam{OfFunction: &responses.FunctionToolParam{Name: name}})
		}
		calls := func(r responses.Response) (all []invocation) {
			for _, item := range r.Output {
				all = append(all, invocation{item.Name, item.AsFunctionCall().Arguments})
			}
			return all
		}
		answer, err := client.Responses.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		want(t, calls(*answer), answer.Usage.OutputTokens)
		stream := client.Responses.NewStreaming(t.Context(), params)
		deltas := map[int64]string{}
		for stream.Next() {
			switch event := stream.Current(); event.Type {
			case "response.function_call_arguments.delta":
				deltas[event.OutputIndex] += event.Delta
			case "response.completed":
				whole := calls(event.Response)
				want(t, whole, event.Response.Usage.OutputTokens)
				if len(whole) == 2 && (deltas[0] != whole[0].arguments || deltas[1] != whole[1].arguments) {
					t.Errorf("want the deltas to add up to %v, got %v", whole, deltas)
				}
			}
		}
		if len(deltas) != 2 {
			t.Errorf("want two items, got %v, %v", deltas, stream.Err())
		}
	})

	t.Run("messages", func(t *testing.T) {
		t.Parallel()
		_, url := start(t, Config{Flavour: OpenAI})
		client := anthropic.NewClient(anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey("x"), anthropicoption.WithMaxRetries(0))
		params := anthropic.MessageNewParams{Model: "claude-haiku-4-5", MaxTokens: 64, ToolChoice: anthropic.ToolChoiceUnionParam{OfAny: &anthropic.ToolChoiceAnyParam{}},
			Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(question))}}
		for _, name := range []string{"look", "hear"} {
			params.Tools = append(params.Tools, anthropic.ToolUnionParam{OfTool: &anthropic.ToolParam{Name: name}})
		}
		calls := func(m anthropic.Message) (all []invocation) {
			for _, block := range m.Content {
				all = append(all, invocation{block.Name, string(block.Input)})
			}
			return all
		}
		answer, err := client.Messages.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		want(t, calls(*answer), answer.Usage.OutputTokens)
		stream := client.Messages.NewStreaming(t.Context(), params)
		var acc anthropic.Message
		for stream.Next() {
			if err := acc.Accumulate(stream.Current()); err != nil {
				t.Fatal(err)
			}
		}
		want(t, calls(acc), acc.Usage.OutputTokens)
		params.ToolChoice.OfAny.DisableParallelToolUse = anthropic.Bool(true)
		if answer, err = client.Messages.New(t.Context(), params); err != nil || len(answer.Content) != 1 {
			t.Errorf("want one call where parallel ones are off, got %v %v", answer, err)
		}
	})

	t.Run("gemini", func(t *testing.T) {
		t.Parallel()
		_, url := start(t, Config{Flavour: Gemini})
		client, err := genai.NewClient(t.Context(), &genai.ClientConfig{APIKey: "x", Backend: genai.BackendGeminiAPI, HTTPOptions: genai.HTTPOptions{BaseURL: url}})
		if err != nil {
			t.Fatal(err)
		}
		cfg := &genai.GenerateContentConfig{Tools: []*genai.Tool{{FunctionDeclarations: []*genai.FunctionDeclaration{{Name: "look"}, {Name: "hear"}}}},
			ToolConfig: &genai.ToolConfig{FunctionCallingConfig: &genai.FunctionCallingConfig{Mode: genai.FunctionCallingConfigModeAny}}}
		calls := func(r *genai.GenerateContentResponse) (all []invocation) {
			for _, one := range r.FunctionCalls() {
				arguments, _ := json.Marshal(one.Args) // of JSON that was read
				all = append(all, invocation{one.Name, strings.TrimSpace(string(arguments))})
			}
			return all
		}
		answer, err := client.Models.GenerateContent(t.Context(), "gemini-2.5-flash", genai.Text(question), cfg)
		if err != nil {
			t.Fatal(err)
		}
		want(t, calls(answer), int64(answer.UsageMetadata.CandidatesTokenCount))
		var all []invocation
		for piece, err := range client.Models.GenerateContentStream(t.Context(), "gemini-2.5-flash", genai.Text(question), cfg) {
			if err != nil {
				t.Fatal(err)
			}
			if all = append(all, calls(piece)...); len(all) == 2 {
				want(t, all, int64(piece.UsageMetadata.CandidatesTokenCount))
			}
		}
		if len(all) != 2 {
			t.Errorf("want a piece for each call, got %v", all)
		}
	})
}
