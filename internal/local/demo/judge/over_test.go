package judge

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTokensOver(t *testing.T) {
	t.Parallel()
	limit := Limit{Capacity: 100, Leak: 10}
	at := func(seconds float64, tokens int64) serving {
		d := time.Duration(seconds * float64(time.Second))
		return serving{sent: d, answered: d, tokens: tokens}
	}
	for name, test := range map[string]struct {
		servings []serving
		want     int64
	}{
		"nothing":                      {nil, 0},
		"all of the capacity at once":  {[]serving{at(0, 60), at(0, 40)}, 0},
		"one more":                     {[]serving{at(0, 60), at(0, 41)}, 1},
		"what leaked meanwhile":        {[]serving{at(0, 100), at(2, 20)}, 0},
		"more than leaked":             {[]serving{at(0, 100), at(2, 25)}, 5},
		"a burst after idle time":      {[]serving{at(0, 1), at(60, 80), at(60, 50)}, 30},
		"late answers widen a window":  {[]serving{{sent: 0, answered: 3 * time.Second, tokens: 130}}, 0},
		"order of answers is no order": {[]serving{at(2, 20), at(0, 100)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tokensOver(test.servings, limit); got != test.want {
				t.Errorf("want %d, got %d", test.want, got)
			}
		})
	}
}

// A real bucket never goes over, whatever the arrivals, and whatever time passes between
// a request's start, its admission and its answer.
func TestTokensOverOfAnHonestBucket(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := Limit{Capacity: float64(rapid.IntRange(1, 500).Draw(t, "capacity")), Leak: float64(rapid.IntRange(0, 100).Draw(t, "leak"))}
		level, now := 0.0, time.Duration(0)
		var servings []serving
		for range rapid.IntRange(0, 50).Draw(t, "calls") {
			gap := time.Duration(rapid.IntRange(0, 3000).Draw(t, "gap")) * time.Millisecond
			now += gap
			level = max(0, level-limit.Leak*gap.Seconds())
			tokens := rapid.Int64Range(1, 200).Draw(t, "tokens")
			if level+float64(tokens) > limit.Capacity {
				continue
			}
			level += float64(tokens)
			before := time.Duration(rapid.IntRange(0, 500).Draw(t, "before")) * time.Millisecond
			after := time.Duration(rapid.IntRange(0, 500).Draw(t, "after")) * time.Millisecond
			servings = append(servings, serving{sent: now - before, answered: now + after, tokens: tokens})
		}
		if over := tokensOver(servings, limit); over != 0 {
			t.Fatalf("want 0, got %d", over)
		}
	})
}
