package ratelimit_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/replay"
)

// recorded lets callers use a limiter at once, and gives what the meter would say of their calls.
func recorded(t *testing.T, e *env, seed uint64) []usage.Event {
	t.Helper()
	var mu sync.Mutex
	var all []usage.Event
	var callers sync.WaitGroup
	for c := range uint64(6) {
		user := uuid.NewString()
		callers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, c))
			for range 40 {
				one := usage.Event{RequestID: uuid.NewString(), UserID: user, Tier: "USER", Route: "openai-chat", Provider: "openai", ModelAsked: "gpt-4o",
					Timestamp: time.Now().UTC().Truncate(time.Millisecond)}
				in, out := rng.Int64N(60), 1+rng.Int64N(60)
				got, err := e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: one.RequestID, User: user, Tier: "USER",
					Provider: "openai", Model: "gpt-4o", Route: "openai-chat"}, InputTokens: in, OutputTokens: out,
					Balance: limitpb.BalancePolicy_BALANCE_NONE})
				if err != nil {
					t.Error(err)
					return
				}
				if one.Allowed = got.GetAdmitted(); one.Allowed {
					one.Held, one.Charged = got.GetHeld(), in+rng.Int64N(out+1)
					if _, err := e.limiter.Settle(t.Context(), &limitpb.SettleRequest{Settlements: []*limitpb.Settlement{{RequestId: one.RequestID,
						Account: "user:" + user, Charged: one.Charged}}}); err != nil {
						t.Error(err)
						return
					}
				}
				one.LatencyMS = time.Since(one.Timestamp).Milliseconds()
				mu.Lock()
				all = append(all, one)
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	slices.SortFunc(all, func(a, b usage.Event) int { return a.Timestamp.Compare(b.Timestamp) })
	return all
}

// again replays calls under a file.
func again(t *testing.T, text string, calls []usage.Event) replay.Report {
	t.Helper()
	set, err := limits.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	rules := match.NewPolicy(match.Config{Limits: set, Tiers: config.Tiers{Default: "USER", Levels: map[string]config.Tier{"USER": {Capacity: 1,
		LeakRate: 1}}}}, &match.State{}).Rules
	r, err := replay.Run(rules, func(yield func(usage.Event, error) bool) {
		for _, c := range calls {
			if !yield(c, nil) {
				return
			}
		}
	}, calls[0].Timestamp, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheSameFileDecidesAsThen(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	calls := recorded(t, start(t, thousand), seed)
	same := again(t, thousand, calls)
	if same.Admitted == 0 || same.RefusedThen == 0 || same.Certain == 0 || same.CertainAgreed != same.Certain || same.NewlyRefused != 0 {
		t.Errorf("seed %d: want every certain call decided as then, got %+v", seed, same)
	}
	tight := again(t, strings.Replace(thousand, "burst: 1000", "burst: 300", 1), calls)
	if tight.NewlyRefused == 0 || len(tight.Refused) != 6 || tight.Refused[0].Rules[0] != "user-tokens" || tight.Refused[0].Tokens == 0 ||
		tight.Refused[0].First.Before(calls[0].Timestamp) {
		t.Errorf("seed %d: want each caller refused by a smaller bucket, got %+v", seed, tight)
	}
	var tokens int64
	for _, one := range tight.Refused {
		tokens += one.Tokens
	}
	var charged int64
	for _, c := range calls {
		charged += c.Charged
	}
	if left := charged - tokens; left > 6*300 {
		t.Errorf("seed %d: six buckets of 300 leave at most 1800 tokens, got %d", seed, left)
	}
	loose := again(t, strings.Replace(thousand, "burst: 1000", "burst: 100000", 1), calls)
	if loose.NewlyRefused != 0 || loose.NewlyAdmitted != loose.RefusedThen || loose.Estimated < loose.RefusedThen {
		t.Errorf("seed %d: want all admitted, and those refused then told as estimates, got %+v", seed, loose)
	}
	none := again(t, strings.NewReplacer("unit: minute, requests_per_unit: 6000", "unit: day, requests_per_unit: 1", "burst: 600", "burst: 1").Replace(thousand), calls)
	if none.NewlyRefused == 0 || none.Refused[0].Rules[0] != "user-requests" {
		t.Errorf("seed %d: want all but the first of each refused by requests, got %+v", seed, none)
	}
}

// TestWhoComesMeanwhileDecidesNothing: calls that are under way together may have been decided in
// either order, and before or after the others ended.
func TestWhoComesMeanwhileDecidesNothing(t *testing.T) {
	t.Parallel()
	begun := time.Now().UTC().Truncate(time.Second)
	call := func(after, lasts time.Duration, held, charged int64) usage.Event {
		return usage.Event{RequestID: uuid.NewString(), UserID: "5a6f5a2e-6f7e-4d0e-9a51-3f6f3f1f2b11", Tier: "USER", Route: "openai-chat", Provider: "openai",
			ModelAsked: "gpt-4o", Timestamp: begun.Add(after), LatencyMS: lasts.Milliseconds(), Held: held, Charged: charged, Allowed: true}
	}
	for name, calls := range map[string][]usage.Event{
		"the one before ended":     {call(0, 400*time.Millisecond, 900, 10), call(100*time.Millisecond, 600*time.Millisecond, 500, 500)},
		"the one before was later": {call(0, 900*time.Millisecond, 900, 900), call(100*time.Millisecond, 20*time.Millisecond, 900, 10)},
	} {
		r := again(t, thousand, calls)
		if r.Calls != 2 || r.NewlyRefused != 0 || r.Certain != r.CertainAgreed || r.Estimated != 1 {
			t.Errorf("%s: want the second call told as an estimate, got %+v", name, r)
		}
	}
}
