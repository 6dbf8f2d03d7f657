package ratelimit_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

func TestAdmit(t *testing.T) {
	t.Parallel()
	e := start(t, thousand)
	id := uuid.NewString()
	r := e.ask(t, ask{id: id, user: "u1", maxTokens: "100", prompt: 402, stream: "true"})
	if r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Fatalf("want OK, got %v", r)
	}
	want := map[string]any{"account": "user:u1", "held": 201.0, "input": 101.0, "model": "gpt-4o", "stream": "true",
		"ask_usage": "true"}
	if diff := cmp.Diff(want, r.GetDynamicMetadata().AsMap()); diff != "" {
		t.Errorf("metadata differs (-want +got):\n%s", diff)
	}
	h := headers(r)
	for name, want := range map[string]string{
		"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "799",
		"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "599", "x-ratelimit-reset-requests": "11ms",
		"x-leaky-hold": "201", "x-leaky-policy": "user-tokens",
		"ratelimit-policy": `"user-tokens";q=1000;w=86400000, "user-requests";q=600;w=6`,
	} {
		if h[name] != want {
			t.Errorf("header %s: want %q, got %q", name, want, h[name])
		}
	}
	if !strings.HasPrefix(h["ratelimit"], `"user-tokens";r=799;t=173664`) || !strings.HasSuffix(h["ratelimit"],
		`, "user-requests";r=599;t=1`) {
		t.Errorf("header ratelimit: %q", h["ratelimit"])
	}
	if got := e.settle(t, "user:u1", id, 30); got.GetStatus().String() != "SETTLED" || got.GetHeld() != 201 {
		t.Errorf("settle: %v", got)
	}
	if got := e.settle(t, "user:u1", id, 30); got.GetStatus().String() != "DUPLICATE" || got.GetCharged() != 30 {
		t.Errorf("settle again: %v", got)
	}
	if b := e.level(t, "u1"); b.GetHeld() != 0 || b.GetLevel() > 30 || b.GetLevel() < 29.9 {
		t.Errorf("bucket after settlement: %v", b)
	}
}

func TestSplice(t *testing.T) {
	t.Parallel()
	e := start(t, thousand)
	for name, tc := range map[string]struct {
		ask    ask
		splice string
		held   float64
	}{
		"maximum stated":               {ask{maxTokens: "10", prompt: 40}, "", 20},
		"other spelling":               {ask{maxCompletion: "10", prompt: 40}, "", 20},
		"both spellings, equal":        {ask{maxTokens: "10", maxCompletion: "10", prompt: 40}, "", 20},
		"three choices":                {ask{maxTokens: "10", n: "3", prompt: 40}, "", 40},
		"nothing stated":               {ask{prompt: 40}, "max_tokens=247", 257},
		"nothing stated, two choices":  {ask{prompt: 40, n: "2"}, "max_tokens=123", 257},
		"stream":                       {ask{maxTokens: "10", prompt: 40, stream: "true"}, "usage", 20},
		"stream that asks itself":      {ask{maxTokens: "10", prompt: 40, stream: "true", iu: "true"}, "", 20},
		"stream that declines":         {ask{maxTokens: "10", prompt: 40, stream: "true", iu: "false"}, "usage", 31},
		"provider named":               {ask{maxTokens: "10", prompt: 40, model: "openai/gpt-4o"}, `model="gpt-4o"`, 20},
		"provider named, quotes":       {ask{prompt: 40, model: "openai/a\"b", maxTokens: "1"}, `model="a\"b"`, 12},
		"all of it":                    {ask{prompt: 40, model: "openai/gpt-4o", stream: "true"}, `model="gpt-4o" max_tokens=247 usage`, 257},
		"embedding":                    {ask{prompt: 41, model: "embed"}, "", 11},
		"gemini":                       {ask{prompt: 40, provider: "gemini", model: "gemini-2.5-flash", stream: "true"}, "maxOutputTokens=247", 257},
		"gemini with a maximum stated": {ask{prompt: 40, provider: "gemini", model: "gemini-2.5-flash", maxTokens: "5"}, "", 15},
		"the new name":                 {ask{prompt: 40, model: "gpt-5"}, "max_completion_tokens=247", 257},
		"the old name to the new":      {ask{prompt: 40, model: "o3-mini", maxTokens: "5"}, "max_tokens becomes max_completion_tokens", 15},
		"the new name to the old":      {ask{prompt: 40, model: "qwen-plus", maxCompletion: "5"}, "max_completion_tokens becomes max_tokens", 15},
		"both names, equal":            {ask{prompt: 40, model: "o3", maxTokens: "5", maxCompletion: "5"}, "", 15},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.ask.user = uuid.NewString()
			r := e.ask(t, tc.ask)
			if r.GetOverallCode() != rls.RateLimitResponse_OK {
				t.Fatalf("want OK, got %v", r)
			}
			m := r.GetDynamicMetadata().GetFields()
			if got := spliced(m); got != tc.splice {
				t.Errorf("splice: want %s, got %s", tc.splice, got)
			}
			if got := headers(r)["x-leaky-filled"]; got != filled(tc.splice) {
				t.Errorf("x-leaky-filled: want %q, got %q", filled(tc.splice), got)
			}
			if got := m["held"].GetNumberValue(); got != tc.held {
				t.Errorf("held: want %g, got %g", tc.held, got)
			}
		})
	}
}

// spliced tells what Envoy is to put into the body.
func spliced(m map[string]*structpb.Value) string {
	var all []string
	name := m[attributes.MaxTokensName].GetStringValue()
	if v := m[attributes.SetModel]; v != nil {
		all = append(all, "model="+v.GetStringValue())
	}
	if v := m[attributes.MaxTokens]; v != nil {
		all = append(all, fmt.Sprintf("%s=%g", name, v.GetNumberValue()))
	}
	if v := m[attributes.MaxTokensRename]; v != nil {
		all = append(all, v.GetStringValue()+" becomes "+name)
	}
	if m[attributes.AskUsage].GetStringValue() == "true" {
		all = append(all, "usage")
	}
	return strings.Join(all, " ")
}

// filled is the number of tokens that a splice states.
func filled(splice string) string {
	_, after, _ := strings.Cut(splice, "okens=")
	number, _, _ := strings.Cut(after, " ")
	return number
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	e := start(t, thousand)
	e.ask(t, ask{user: "full", maxTokens: "980", prompt: 80})
	for name, tc := range map[string]struct {
		ask     ask
		message string
		headers map[string]string
		family  string
	}{
		"full": {ask{user: "full", maxTokens: "10"}, `Rate limit "user-tokens" reached: holds 1000 tokens, drains 1 per day. Try again in`,
			map[string]string{"x-should-retry": "true", "retry-after": "1", "x-ratelimit-remaining-tokens": "0", "x-leaky-policy": "user-tokens",
				"content-type": "application/json"}, "openai"},
		"full for gemini": {ask{user: "full", maxTokens: "10", provider: "gemini", model: "gemini-2.5-pro"}, `Rate limit "user-tokens" reached`,
			map[string]string{"x-should-retry": "true", "retry-after": "1"}, "gemini"},
		"larger than the bucket": {ask{maxTokens: "1000", prompt: 80},
			`may use 1020 tokens (20 for its input), more than rate limit "user-tokens" can ever hold (1000). A max_tokens of at most 980 would fit.`,
			map[string]string{"x-should-retry": "false", "retry-after": ""}, "openai"},
		"input larger than the bucket": {ask{prompt: 5000}, `Its input alone does not fit`, map[string]string{"x-should-retry": "false"},
			"openai"},
		"zero":     {ask{maxTokens: "0"}, "max_tokens must be", map[string]string{"x-should-retry": "false"}, "openai"},
		"negative": {ask{maxTokens: "-5"}, "max_tokens must be", map[string]string{"x-should-retry": "false"}, "openai"},
		"text":     {ask{maxTokens: "many"}, "max_tokens must be", map[string]string{"x-should-retry": "false"}, "openai"},
		"huge": {ask{maxTokens: "1000000000000000000"}, "max_tokens must be",
			map[string]string{"x-should-retry": "false"}, "openai"},
		"fraction": {ask{maxTokens: "1.5"}, "max_tokens must be", map[string]string{"x-should-retry": "false"}, "openai"},
		"spellings differ": {ask{maxTokens: "1", maxCompletion: "2"}, "differ", map[string]string{"x-should-retry": "false"},
			"openai"},
		"no choices":       {ask{maxTokens: "1", n: "0"}, "n must be", map[string]string{"x-should-retry": "false"}, "openai"},
		"too many choices": {ask{maxTokens: "1", n: "4097"}, "n must be", map[string]string{"x-should-retry": "false"}, "openai"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.ask.id = uuid.NewString()
			r := e.ask(t, tc.ask)
			if r.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT {
				t.Fatalf("want OVER_LIMIT, got %v", r)
			}
			var body struct {
				Error struct{ Message, Type, Status string }
			}
			if err := json.Unmarshal(r.GetRawBody(), &body); err != nil {
				t.Fatalf("body %q: %v", r.GetRawBody(), err)
			}
			if !strings.Contains(body.Error.Message, tc.message) || !strings.Contains(body.Error.Message, tc.ask.id) {
				t.Errorf("want a message with %q and the request id, got %q", tc.message, body.Error.Message)
			}
			if gemini := body.Error.Status == "RESOURCE_EXHAUSTED"; gemini != (tc.family == "gemini") {
				t.Errorf("want the shape of %s, got %s", tc.family, r.GetRawBody())
			}
			h := headers(r)
			for name, want := range tc.headers {
				if h[name] != want {
					t.Errorf("header %s: want %q, got %q", name, want, h[name])
				}
			}
			if r.GetDynamicMetadata().GetFields()["account"] != nil {
				t.Error("a refusal names an account to settle")
			}
		})
	}
}

func TestNoRequestID(t *testing.T) {
	t.Parallel()
	e := start(t, thousand)
	for name, id := range map[string]string{"absent": "-", "braces": "{x}", "long": strings.Repeat("a", 129), "line break": "a\nb"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := e.envoy.ShouldRateLimit(t.Context(), ask{id: id}.request()); err == nil {
				t.Error("want an error, which Envoy answers with 503, got none")
			}
		})
	}
}

func TestTiers(t *testing.T) {
	t.Parallel()
	e := start(t, thousand)
	for tier, want := range map[string]string{"USER": "1000", "GOLD": "4000", "UNHEARD-OF": "1000"} {
		if got := headers(e.ask(t, ask{user: tier, tier: tier, maxTokens: "1"}))["x-ratelimit-limit-tokens"]; got != want {
			t.Errorf("tier %s: want a capacity of %s, got %s", tier, want, got)
		}
	}
}

func TestPlainRequests(t *testing.T) {
	t.Parallel()
	e := start(t, thousand, inAnHour)
	request := ask{address: "2001:db8::1", user: "-"}.request()
	request.Descriptors = request.Descriptors[1:]
	for i, remaining := range []string{"2", "1", "0"} {
		r, err := e.envoy.ShouldRateLimit(t.Context(), request)
		if err != nil || r.GetOverallCode() != rls.RateLimitResponse_OK {
			t.Fatalf("request %d: %v, %v", i, r, err)
		}
		h := headers(r)
		if h["x-ratelimit-limit"] != "3" || h["x-ratelimit-remaining"] != remaining || len(h["x-ratelimit-reset"]) != 10 {
			t.Errorf("request %d: headers %v", i, h)
		}
	}
	r, err := e.envoy.ShouldRateLimit(t.Context(), request)
	if err != nil || r.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT {
		t.Fatalf("fourth request: %v, %v", r, err)
	}
	var problem map[string]any
	if err := json.Unmarshal(r.GetRawBody(), &problem); err != nil {
		t.Fatal(err)
	}
	h := headers(r)
	if problem["message"] != "rate limit exceeded" || problem["retryAfterSeconds"].(float64) < 1 ||
		h["content-type"] != "application/problem+json" ||
		h["x-ratelimit-remaining"] != "0" || h["retry-after"] == "" {
		t.Errorf("problem %v, headers %v", problem, h)
	}
}

func TestRepeatedHoldChargesOnce(t *testing.T) {
	t.Parallel()
	e := start(t, thousand)
	a := ask{id: uuid.NewString(), user: "twice", prompt: 40}
	first, second := e.ask(t, a), e.ask(t, a)
	if diff := cmp.Diff(first.GetDynamicMetadata().AsMap(), second.GetDynamicMetadata().AsMap()); diff != "" {
		t.Errorf("the second answer differs (-first +second):\n%s", diff)
	}
	if b := e.level(t, "twice"); b.GetHeld() != first.GetDynamicMetadata().AsMap()["held"] {
		t.Errorf("want one hold in the bucket, got %v", b)
	}
}

func TestNeedsItsParts(t *testing.T) {
	t.Parallel()
	if _, err := ratelimit.New(ratelimit.Config{}); err == nil {
		t.Error("want an error for an empty configuration, got none")
	}
}
