package e2e

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

const haiku = "claude-haiku-4-5"

// anthropicClient is Anthropic's SDK pointed at the gateway; header collects the last answer's headers.
func anthropicClient(who stacktest.Account, header *http.Header, more ...option.RequestOption) anthropic.Client {
	remember := option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		res, err := next(r)
		if res != nil && header != nil {
			*header = res.Header
		}
		return res, err
	})
	return anthropic.NewClient(append([]option.RequestOption{option.WithBaseURL(running.Gateway), option.WithAPIKey(who.Key), remember,
		option.WithMaxRetries(0)}, more...)...)
}

func message(prompt string, most int64) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{Model: haiku, MaxTokens: most,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(prompt))}}
}

// inputOf is everything that Anthropic bills of an input.
func inputOf(u anthropic.Usage) int64 {
	return u.InputTokens + u.CacheReadInputTokens + u.CacheCreationInputTokens
}

func TestMessages(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	var header http.Header
	client := anthropicClient(who, &header)
	t.Run("plain, with a cache", func(t *testing.T) {
		p := message(strings.Repeat("Hello. ", 400)+"[[tokens=23]]", 64)
		p.System = []anthropic.TextBlockParam{{Text: "Be brief.", CacheControl: anthropic.CacheControlEphemeralParam{TTL: "1h"}}}
		answer, err := client.Messages.New(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		u := answer.Usage
		if u.OutputTokens != 23 || answer.Content[0].Text == "" || u.CacheCreation.Ephemeral1hInputTokens == 0 || u.CacheReadInputTokens == 0 {
			t.Errorf("want 23 tokens of text and a cache, got %s", answer.RawJSON())
		}
		if id := header.Get("Request-Id"); id == "" || id != header.Get("X-Request-Id") {
			t.Errorf("want the gateway's id of the request, got %q", id)
		}
		wantRow(t, who, "anthropic", header, inputOf(u), 23)
	})
	t.Run("stream, with thinking", func(t *testing.T) {
		p := message("Think [[tokens=40]]", 3000)
		p.Thinking = anthropic.ThinkingConfigParamOfEnabled(1024)
		stream := client.Messages.NewStreaming(t.Context(), p)
		whole := anthropic.Message{}
		for stream.Next() {
			if err := whole.Accumulate(stream.Current()); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if len(whole.Content) != 2 || whole.Content[1].Text == "" || whole.Usage.OutputTokens != 50 {
			t.Errorf("want thoughts and text of 50 tokens, got %+v", whole)
		}
		wantRow(t, who, "anthropic", header, inputOf(whole.Usage), 50)
	})
	t.Run("tools, by another name and credential", func(t *testing.T) {
		p := message("Weather? [[tokens=12]]", 64)
		p.Model = "acme/haiku"
		p.Tools = []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "look"}}}
		p.ToolChoice = anthropic.ToolChoiceUnionParam{OfAny: &anthropic.ToolChoiceAnyParam{}}
		bearer := anthropic.NewClient(option.WithBaseURL(running.Gateway), option.WithAuthToken(who.Key), option.WithResponseInto(new(*http.Response)))
		var got *http.Response
		answer, err := bearer.Messages.New(t.Context(), p, option.WithResponseInto(&got))
		if err != nil {
			t.Fatal(err)
		}
		if answer.StopReason != anthropic.StopReasonToolUse || answer.Content[0].Name != "look" || answer.Model != haiku {
			t.Errorf("want a call of look, got %s", answer.RawJSON())
		}
		wantRow(t, who, "anthropic", got.Header, inputOf(answer.Usage), 12)
	})
	t.Run("given up", func(t *testing.T) {
		ctx, hangUp := context.WithCancel(t.Context())
		defer hangUp()
		stalled := anthropicClient(who, &header, option.WithHeader("x-stub-stall-after-chunks", "40")) // it never ends by itself
		stream := stalled.Messages.NewStreaming(ctx, message("[[tokens=400]]", 400))
		for deltas := 0; deltas < 30 && stream.Next(); {
			if stream.Current().Type == "content_block_delta" {
				deltas++
			}
		}
		hangUp()
		stream.Close()
		if row := booked(t, who, "anthropic", header.Get("X-Request-Id")); row.Source != "estimated" || row.OutputTokens < 30 || row.OutputTokens >= 400 {
			t.Errorf("want an estimate between 30 tokens and all, got %+v", row)
		}
	})
}

func TestFreeCallsOfAnthropic(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	client := anthropicClient(who, nil)
	counted, err := client.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{Model: "acme/haiku",
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("12345678"))}})
	if err != nil || counted.InputTokens != 2 {
		t.Errorf("want 2 tokens, got %v, %+v", err, counted)
	}
	names := map[string]bool{}
	pages := client.Models.ListAutoPaging(t.Context(), anthropic.ModelListParams{Limit: anthropic.Int(1)})
	for pages.Next() {
		names[pages.Current().ID] = true
	}
	if pages.Err() != nil || !names[haiku] || !names["acme/haiku"] || names["gpt-4o"] {
		t.Errorf("want the models of the protocol, got %v, %v", pages.Err(), names)
	}
	for _, name := range []string{haiku, "acme/haiku"} {
		if model, err := client.Models.Get(t.Context(), name, anthropic.ModelGetParams{}); err != nil || model.ID != name {
			t.Errorf("%s: want it found, got %v", name, err)
		}
	}
}

// TestRefusalsThatAnthropicsSDKActsOn: their classes, and whether it tries again.
func TestRefusalsThatAnthropicsSDKActsOn(t *testing.T) {
	t.Parallel()
	who, tiny := newAccount(t), newAccount(t, "TINY")
	stranger := who
	stranger.Key = "leaky_" + strings.Repeat("a", 40)
	for name, tc := range map[string]struct {
		who    stacktest.Account
		p      anthropic.MessageNewParams
		status int
		kind   string
	}{
		"never fits":     {tiny, message("x", 5000), 429, "rate_limit_error"},
		"unknown key":    {stranger, message("x", 9), 401, "authentication_error"},
		"unknown model":  {who, anthropic.MessageNewParams{Model: "claude-nope", MaxTokens: 9, Messages: message("x", 9).Messages}, 404, "not_found_error"},
		"no maximum":     {who, message("x", 0), 400, "invalid_request_error"},
		"a hosted tool":  {who, withTool(message("x", 9)), 400, "invalid_request_error"},
		"another's path": {who, anthropic.MessageNewParams{Model: "gpt-4o", MaxTokens: 9, Messages: message("x", 9).Messages}, 404, "not_found_error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var header http.Header
			var tries atomic.Int32
			client := anthropicClient(tc.who, &header, option.WithMaxRetries(2), option.WithMiddleware(
				func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
					tries.Add(1)
					return next(r)
				}))
			_, err := client.Messages.New(t.Context(), tc.p)
			refused, ok := errors.AsType[*anthropic.Error](err)
			if !ok || refused.StatusCode != tc.status || string(refused.Type()) != tc.kind || refused.RequestID != header.Get("X-Request-Id") {
				t.Fatalf("want %d %s with the request's id, got %v, %v", tc.status, tc.kind, err, header)
			}
			if n := tries.Load(); n != 1 {
				t.Errorf("it was tried %d times", n)
			}
		})
	}
}

// withTool adds a tool that the provider runs.
func withTool(p anthropic.MessageNewParams) anthropic.MessageNewParams {
	p.Tools = []anthropic.ToolUnionParam{{OfWebSearchTool20250305: &anthropic.WebSearchTool20250305Param{}}}
	return p
}
