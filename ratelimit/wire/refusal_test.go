package wire

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// TestRefusalsSpeakOfTheirAlgorithm: a window does not drain, and a token bucket refills.
func TestRefusalsSpeakOfTheirAlgorithm(t *testing.T) {
	t.Parallel()
	const second, now = 1_000_000, 1_700_000_060 * 1_000_000 // 20 s into a minute
	for _, tc := range []struct {
		name, limit, policy string
		settled, held       float64
		want                string
	}{
		{"window", "unit: minute, requests_per_unit: 30", "algorithm: fixed_window, unit: tokens", 30, 0,
			`Rate limit "r" reached: 30 tokens per minute; starts again in 40s.`},
		{"window of one", "unit: hour, requests_per_unit: 1", "algorithm: fixed_window, unit: tokens", 1, 0,
			`Rate limit "r" reached: 1 token per hour; starts again in 45m40s.`},
		{"window that running calls hold", "unit: minute, requests_per_unit: 30", "algorithm: fixed_window, unit: tokens", 0, 30,
			`Rate limit "r" reached: 30 tokens per minute; starts again in 40s.` +
				` Running calls may give back what they hold before: try again in 2s.`},
		{"leaky bucket", "unit: minute, requests_per_unit: 600", "algorithm: leaky_bucket, burst: 1000, unit: tokens", 1000, 0,
			`Rate limit "r" reached: holds 1000 tokens, drains 10 per second. Try again in 101ms.`},
		{"slow leaky bucket", "unit: day, requests_per_unit: 30", "algorithm: leaky_bucket, unit: tokens", 30, 0,
			`Rate limit "r" reached: holds 30 tokens, drains 1.25 per hour. Try again in 48m0.001s.`},
		{"slower leaky bucket", "unit: month, requests_per_unit: 45", "algorithm: leaky_bucket, unit: tokens", 45, 0,
			`Rate limit "r" reached: holds 45 tokens, drains 1.5 per day. Try again in 16h0m0.001s.`},
		{"one a minute", "unit: hour, requests_per_unit: 60", "algorithm: leaky_bucket, unit: tokens", 60, 0,
			`Rate limit "r" reached: holds 60 tokens, drains 1 per minute. Try again in 1m0.001s.`},
		{"token bucket", "unit: second, requests_per_unit: 2", "algorithm: token_bucket, burst: 50, unit: tokens", 50, 0,
			`Rate limit "r" reached: holds 50 tokens, refills 2 per second. Try again in 501ms.`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			set, err := limits.Parse([]byte("domain: leaky\ndescriptors:\n  - {key: count, value: tokens, rate_limit: {name: r, " + tc.limit +
				"}, metadata: {rate_limit_policy: {" + tc.policy + "}}}\n"))
			if err != nil {
				t.Fatal(err)
			}
			p := match.NewPolicy(match.Config{Limits: set, Tiers: config.Tiers{Default: "USER"}}, &match.State{})
			m := p.Match([]match.Descriptor{{{Key: "count", Value: "tokens"}}}, "user:ann", "USER", match.OneCall())
			states := []bucket.State{{Settled: tc.settled, Held: tc.held, At: now}}
			no := m.Blame(states, match.Cost{Output: 1}, now, 2*second)
			if got := explain(&match.Call{}, no); got != tc.want {
				t.Errorf("\nwant %s\ngot  %s", tc.want, got)
			}
		})
	}
}
