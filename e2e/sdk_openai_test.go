package e2e

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

// wantRow is what a call must be on the books: the provider's own count.
func wantRow(t *testing.T, who stacktest.Account, provider string, header http.Header, input, output int64) {
	t.Helper()
	row := booked(t, who, provider, header.Get("X-Request-Id"))
	if row.InputTokens != input || row.OutputTokens != output || row.Source != "provider" || input == 0 {
		t.Errorf("want %d and %d tokens as the provider told, got %+v", input, output, row)
	}
}

func response(prompt string, most int64) responses.ResponseNewParams {
	p := responses.ResponseNewParams{Model: "gpt-4o-mini", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(prompt)}}
	if most > 0 {
		p.MaxOutputTokens = openai.Int(most)
	}
	return p
}

func TestResponses(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := openaiClient(who, "/v1", &header)
	t.Run("plain", func(t *testing.T) {
		answer, err := client.Responses.New(t.Context(), response("Hello [[tokens=23]]", 0))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Usage.OutputTokens != 23 || answer.OutputText() == "" || answer.Status != "completed" {
			t.Errorf("want 23 tokens of text, got %+v", answer.Usage)
		}
		wantRow(t, who, "openai", header, answer.Usage.InputTokens, 23)
		answer, err = client.Responses.New(t.Context(), response("Hello [[tokens=5000]]", 0))
		if err != nil || answer.Usage.OutputTokens != 256 || answer.IncompleteDetails.Reason != "max_output_tokens" || header.Get("x-leaky-filled") != "256" {
			t.Errorf("want the 256 tokens that were filled in, got %v, %+v, %v", err, answer, header)
		}
	})
	t.Run("stream", func(t *testing.T) {
		p := response("Think [[tokens=31]]", 200)
		p.Reasoning.Effort = "high"
		stream := client.Responses.NewStreaming(t.Context(), p)
		var text strings.Builder
		var last responses.Response
		for stream.Next() {
			event := stream.Current()
			text.WriteString(event.AsResponseOutputTextDelta().Delta)
			last = event.AsResponseCompleted().Response
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if last.Usage.OutputTokensDetails.ReasoningTokens == 0 || text.String() != last.OutputText() || text.Len() == 0 {
			t.Errorf("want text after reasoning, got %q and %+v", text.String(), last.Usage)
		}
		wantRow(t, who, "openai", header, last.Usage.InputTokens, last.Usage.OutputTokens)
	})
	t.Run("tools", func(t *testing.T) {
		p := response("Weather? [[tokens=12]]", 64)
		p.Tools = []responses.ToolUnionParam{{OfFunction: &responses.FunctionToolParam{Name: "look", Parameters: map[string]any{"type": "object"}}}}
		p.ToolChoice = responses.ResponseNewParamsToolChoiceUnion{OfToolChoiceMode: openai.Opt(responses.ToolChoiceOptionsRequired)}
		answer, err := client.Responses.New(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if call := answer.Output[0].AsFunctionCall(); call.Name != "look" || call.Arguments == "" {
			t.Errorf("want a call of look, got %+v", answer.Output)
		}
		wantRow(t, who, "openai", header, answer.Usage.InputTokens, 12)
	})
	t.Run("refusals", func(t *testing.T) {
		background, earlier, hosted := response("x", 9), response("x", 9), response("x", 9)
		background.Background = openai.Bool(true)
		earlier.PreviousResponseID = openai.String("resp_1")
		hosted.Tools = []responses.ToolUnionParam{{OfWebSearch: &responses.WebSearchToolParam{Type: "web_search"}}}
		for want, p := range map[string]responses.ResponseNewParams{"background is not served": background, `kind "previous"`: earlier, `kind "tool"`: hosted} {
			_, err := client.Responses.New(t.Context(), p)
			if refused, ok := errors.AsType[*openai.Error](err); !ok || refused.StatusCode != 400 || !strings.Contains(refused.Message, want) {
				t.Errorf("want a 400 with %q, got %v", want, err)
			}
		}
		_, err := client.Responses.Get(t.Context(), "resp_1", responses.ResponseGetParams{})
		if refused, ok := errors.AsType[*openai.Error](err); !ok || refused.StatusCode != 404 || refused.Code != "unsupported_endpoint" {
			t.Errorf("want a 404 that says why, got %v", err)
		}
	})
}

func TestLegacyCompletions(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := openaiClient(who, "/v1", &header)
	p := openai.CompletionNewParams{Model: "gpt-4o-mini", N: openai.Int(2), MaxTokens: openai.Int(50),
		Prompt: openai.CompletionNewParamsPromptUnion{OfArrayOfStrings: []string{"Once [[tokens=9]]", "Twice"}}}
	answer, err := client.Completions.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Choices) != 4 || answer.Usage.CompletionTokens != 36 {
		t.Errorf("want two answers of 9 tokens to each prompt, got %+v", answer.Usage)
	}
	wantRow(t, who, "openai", header, answer.Usage.PromptTokens, 36)
	// Nothing is stated: 16 tokens, as OpenAI has it.
	p = openai.CompletionNewParams{Model: "gpt-4o-mini", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("Once [[tokens=99]]")}}
	if answer, err = client.Completions.New(t.Context(), p); err != nil || answer.Usage.CompletionTokens != 16 {
		t.Errorf("want 16 tokens, got %v, %+v", err, answer)
	}
	stream := client.Completions.NewStreaming(t.Context(), p)
	text := ""
	for stream.Next() {
		if current := stream.Current(); len(current.Choices) > 0 {
			text += current.Choices[0].Text
		} else {
			t.Errorf("an event came that nobody asked for: %+v", current)
		}
	}
	if stream.Err() != nil || text != answer.Choices[0].Text {
		t.Errorf("want the same text as a stream, got %v %q", stream.Err(), text)
	}
	wantRow(t, who, "openai", header, answer.Usage.PromptTokens, 16)
}

func TestFreeCallsOfOpenAI(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	client := openaiClient(who, "/v1", nil)
	for _, model := range []string{"", "omni-moderation-latest"} {
		got, err := client.Moderations.New(t.Context(), openai.ModerationNewParams{Model: model,
			Input: openai.ModerationNewParamsInputUnion{OfStringArray: []string{"a", "b"}}})
		if err != nil || len(got.Results) != 2 {
			t.Errorf("want two results, got %v, %+v", err, got)
		}
	}
	model, err := client.Models.Get(t.Context(), "acme/fast:1")
	if err != nil || model.ID != "acme/fast:1" {
		t.Errorf("want the model, got %v, %+v", err, model)
	}
	_, err = client.Models.Get(t.Context(), "claude-haiku-4-5")
	if refused, ok := errors.AsType[*openai.Error](err); !ok || refused.StatusCode != 404 || refused.Code != "model_not_found" {
		t.Errorf("want a model of another protocol not to be found, got %v", err)
	}
	_, err = client.Videos.New(t.Context(), openai.VideoNewParams{Prompt: "a leak"}, option.WithMaxRetries(2))
	if refused, ok := errors.AsType[*openai.Error](err); !ok || refused.StatusCode != 404 || !strings.Contains(refused.Message, "/v1/chat/completions") {
		t.Errorf("want a 404 that says what is there, got %v", err)
	}
}

// TestImagesAndSpeech are charged what the provider tells, else what each is held at.
func TestImagesAndSpeech(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := openaiClient(who, "/v1", &header)
	p := openai.ImageGenerateParams{Model: "gpt-image-1", Prompt: "A leak.", N: openai.Int(2), Quality: openai.ImageGenerateParamsQualityLow}
	got, err := client.Images.Generate(t.Context(), p)
	if err != nil || len(got.Data) != 2 || got.Data[0].B64JSON == "" || got.Usage.OutputTokens != 2*272 {
		t.Fatalf("want two pictures, got %v, %+v", err, got)
	}
	if held := header.Get("x-leaky-hold"); held < "12480" || len(held) != 5 { // 6240 each, and the prompt
		t.Errorf("want two pictures of high quality held, got %s", held)
	}
	wantRow(t, who, "openai", header, got.Usage.InputTokens, 2*272)
	stream := client.Images.GenerateStreaming(t.Context(), p)
	for stream.Next() {
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	wantRow(t, who, "openai", header, got.Usage.InputTokens, 2*272)
	p = openai.ImageGenerateParams{Model: "dall-e-3", Prompt: "A leak.", N: openai.Int(1)}
	if got, err = client.Images.Generate(t.Context(), p); err != nil || got.Data[0].URL == "" {
		t.Fatalf("want a picture, got %v, %+v", err, got)
	}
	if row := booked(t, who, "openai", header.Get("X-Request-Id")); row.OutputTokens != 4000 || row.Source != "held" || row.Reason != "usage_missing" {
		t.Errorf("want the price of a picture, got %+v", row)
	}
	sound, err := client.Audio.Speech.New(t.Context(), openai.AudioSpeechNewParams{Model: "tts-1", Input: "Drip.", Voice: openai.AudioSpeechNewParamsVoiceUnion{OfString: openai.String("alloy")}})
	if err != nil {
		t.Fatal(err)
	}
	defer sound.Body.Close()
	if text, err := io.ReadAll(sound.Body); err != nil || !strings.HasPrefix(string(text), "ID3") {
		t.Errorf("want sound, got %v, %.20q", err, text)
	}
	if row := booked(t, who, "openai", header.Get("X-Request-Id")); row.OutputTokens != 500 || row.Source != "held" {
		t.Errorf("want the price of a speech, got %+v", row)
	}
	_, err = client.Audio.Transcriptions.New(t.Context(), openai.AudioTranscriptionNewParams{Model: "whisper-1", File: strings.NewReader("x")})
	if refused, ok := errors.AsType[*openai.Error](err); !ok || refused.StatusCode != 404 || !strings.Contains(refused.Message, "input_audio") {
		t.Errorf("want a 404 that says what is there, got %v", err)
	}
}
