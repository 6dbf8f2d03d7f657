package demo

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"

	"github.com/google/go-cmp/cmp"
)

func testTargets() []judge.Target {
	return []judge.Target{
		{Provider: "gemini", Protocol: judge.ProtocolGemini, Models: []string{"gemini-2.5-flash", "gemini-2.5-pro"}},
		{Provider: "openai", Protocol: judge.ProtocolOpenAI, Path: "/v1/chat/completions", Models: []string{"gpt-4o"}},
		{Provider: "qwen", Protocol: judge.ProtocolOpenAI, Path: "/compatible-mode/v1/chat/completions", Models: []string{"qwen-plus"}},
	}
}

func asks(seed uint64, client, n int) []ask {
	p := newPlanner(seed, client, testTargets(), 1_000_001, 1)
	list := make([]ask, n)
	for i := range list {
		list[i] = p.next()
	}
	return list
}

func TestPlanFollowsTheSeed(t *testing.T) {
	t.Parallel()
	same := cmp.AllowUnexported(ask{}, manner{})
	if diff := cmp.Diff(asks(1, 3, 100), asks(1, 3, 100), same); diff != "" {
		t.Errorf("the same seed and client ask other things: %s", diff)
	}
	if cmp.Equal(asks(1, 3, 10), asks(2, 3, 10), same) || cmp.Equal(asks(1, 3, 10), asks(1, 4, 10), same) {
		t.Error("another seed or client asks the same")
	}
}

func TestPlanMixes(t *testing.T) {
	t.Parallel()
	var streams, stated, big, tooLarge, hangUps, two int
	providers := map[int]int{}
	const n = 5000
	for _, a := range asks(9, 0, n) {
		providers[a.provider]++
		streams += btoi(a.stream)
		stated += btoi(a.maxTokens > 0)
		big += btoi(a.prompt > mediumPrompt)
		tooLarge += btoi(a.maxTokens == 1_000_001)
		hangUps += btoi(a.hangUp > 0)
		two += btoi(a.n == 2)
	}
	for name, got := range map[string]int{"streams": streams, "stated maximum": stated, "big prompts": big, "first provider": providers[0],
		"second": providers[1], "third": providers[2]} {
		if got < n/5 || got > n*9/10 {
			t.Errorf("%s: %d of %d is no mix", name, got, n)
		}
	}
	if tooLarge == 0 || two == 0 || hangUps != 0 {
		t.Errorf("want some too large, some with two choices and no hang-ups of client 0, got %d, %d, %d", tooLarge, two, hangUps)
	}
	for _, a := range asks(9, 15, 100) {
		if !a.stream || a.hangUp < 1 || a.hangUp > a.answer {
			t.Fatalf("client 15 should hang up in every stream: %+v", a)
		}
	}
}

func TestPromptScaleAsksForMoreThanFits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limit   judge.Limit
		run     time.Duration
		maxBody int
		want    float64
	}{
		"a minute of a small limit":   {judge.Limit{Capacity: 1e6, Leak: 1e4}, time.Minute, 4 << 20, 0.423},
		"a minute of a large limit":   {judge.Limit{Capacity: 4e6, Leak: 4e4}, time.Minute, 4 << 20, 1.693},
		"a second of a large limit":   {judge.Limit{Capacity: 4e6, Leak: 4e4}, time.Second, 4 << 20, largestScale},
		"no limit known":              {judge.Limit{}, time.Minute, 4 << 20, 0.1},
		"a gateway that takes little": {judge.Limit{Capacity: 4e6, Leak: 4e4}, time.Minute, 100_000, 0.25},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := promptScale(test.limit, test.run, 21, 3, test.maxBody); math.Abs(got-test.want) > 0.001 {
				t.Errorf("want %.3f, got %.3f", test.want, got)
			}
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestRequestIsJSONOfItsProtocol(t *testing.T) {
	t.Parallel()
	text := filling(1)
	targets := testTargets()
	for name, test := range map[string]struct {
		ask  ask
		path string
		want map[string]any
	}{
		"openai stream": {ask{provider: 1, stream: true, prompt: 5, answer: 9, maxTokens: 7}, "/v1/chat/completions",
			map[string]any{"model": "gpt-4o", "stream": true, "max_tokens": 7.0,
				"stream_options": map[string]any{"include_usage": true}}},
		"qwen with the new name and two choices": {ask{provider: 2, prompt: 5, answer: 9, maxTokens: 7, newName: true, n: 2},
			"/compatible-mode/v1/chat/completions",
			map[string]any{"model": "qwen-plus", "n": 2.0, "max_completion_tokens": 7.0}},
		"openai without a maximum": {ask{provider: 1, prompt: largest, offset: fillingLength - 1, answer: 9}, "/v1/chat/completions",
			map[string]any{"model": "gpt-4o"}},
		"gemini": {ask{provider: 0, model: 1, prompt: 5, answer: 9}, "/v1beta/models/gemini-2.5-pro:generateContent",
			map[string]any{}},
		"gemini stream": {ask{provider: 0, stream: true, prompt: 5, answer: 9, maxTokens: 7},
			"/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
			map[string]any{"generationConfig": map[string]any{"temperature": 0.5, "maxOutputTokens": 7.0}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, body := test.ask.request(&targets[test.ask.provider], text)
			if path != test.path {
				t.Errorf("path: want %s, got %s", test.path, path)
			}
			var got map[string]any
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(body), "[[tokens=9]] "+text[test.ask.offset:test.ask.offset+test.ask.prompt]) {
				t.Error("the prompt is not in the body")
			}
			delete(got, "messages")
			delete(got, "contents")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
