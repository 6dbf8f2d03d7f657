package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

// scenario is one kind of request, made in turn by all accounts.
type scenario struct {
	name    string
	rate    float64 // requests a second
	p95     time.Duration
	good    []int // statuses
	request func(who stacktest.Account) (method, path string, header http.Header, body any)
}

func byKey(who stacktest.Account) http.Header {
	return http.Header{"Authorization": {"Bearer " + who.Key}, "Content-Type": {"application/json"}}
}

func scenarios(o options) []scenario {
	consume := func(prompt string) func(stacktest.Account) (string, string, http.Header, any) {
		return func(who stacktest.Account) (string, string, http.Header, any) {
			body := map[string]any{"userId": who.ID, "provider": "openai", "tokens": 10}
			if prompt != "" {
				body["prompt"] = prompt
			}
			return http.MethodPost, "/api/v1/tokens/consume", byKey(who), body
		}
	}
	chat := func(stream bool) func(stacktest.Account) (string, string, http.Header, any) {
		return func(who stacktest.Account) (string, string, http.Header, any) {
			return http.MethodPost, "/v1/chat/completions", byKey(who), map[string]any{"model": "gpt-4o-mini", "stream": stream,
				"messages": []any{map[string]string{"role": "user", "content": "[[tokens=50]] " + strings.Repeat("word ", 100)}}}
		}
	}
	return []scenario{
		{"AnalyticsQuery", o.rate, o.p95, []int{200}, func(who stacktest.Account) (string, string, http.Header, any) {
			return http.MethodGet, "/api/v1/analytics/usage?provider=openai&limit=10", byKey(who), nil
		}},
		{"AuthLogin", o.rate / 10, 5 * o.p95, []int{200}, func(who stacktest.Account) (string, string, http.Header, any) {
			return http.MethodPost, "/api/v1/auth/login", http.Header{"Content-Type": {"application/json"}},
				map[string]string{"username": who.Name, "password": stacktest.Password}
		}},
		{"TokenConsume", o.rate, o.p95, []int{200, 429}, consume("")},
		{"TokenPurchaseSaga", o.rate, o.p95, []int{202}, func(who stacktest.Account) (string, string, http.Header, any) {
			header := byKey(who)
			header.Set("Idempotency-Key", uuid.NewString())
			return http.MethodPost, "/api/v1/tokens/purchase", header, map[string]any{"userId": who.ID, "provider": "openai", "tokens": 100}
		}},
		{"TokenQuotaCheck", o.rate, o.p95, []int{200}, func(who stacktest.Account) (string, string, http.Header, any) {
			return http.MethodGet, "/api/v1/tokens/quota?provider=openai&userId=" + who.ID, byKey(who), nil
		}},
		{"TokenUsagePublish", o.rate, o.p95, []int{200, 429}, consume("count these words")},
		{"ModelCall", o.rate, o.p95, []int{200, 429}, chat(false)},
		{"ModelStream", o.rate, o.p95, []int{200, 429}, chat(true)},
	}
}

// load is the product and who calls it.
type load struct {
	stack *stacktest.Stack
	who   []stacktest.Account
	o     options
}

// outcome is what became of a scenario's requests.
type outcome struct {
	requests, good, limited, failed int
	took                            time.Duration
	latency                         []time.Duration // sorted, of the good ones
	first                           string          // failure
}

func steady(rate float64) vegeta.Pacer {
	return vegeta.Rate{Freq: int(rate * 100), Per: 100 * time.Second}
}

func rising(rate float64, ramp time.Duration) vegeta.Pacer {
	return vegeta.LinearPacer{StartAt: vegeta.Rate{Freq: 1, Per: time.Second}, Slope: rate / max(1, ramp.Seconds())}
}

// attack sends a scenario's requests at the pacer's times, whether or not the earlier ones are answered.
func (l *load) attack(ctx context.Context, s scenario, pace vegeta.Pacer, window time.Duration) (o outcome) {
	var turn atomic.Int64
	next := func(t *vegeta.Target) error {
		method, path, header, body := s.request(l.who[int(turn.Add(1))%len(l.who)])
		t.Method, t.URL, t.Header = method, l.stack.Gateway+path, header
		if body == nil {
			t.Body = nil
			return nil
		}
		text, err := json.Marshal(body)
		t.Body = text
		return err
	}
	attacker := vegeta.NewAttacker(vegeta.Timeout(30*time.Second), vegeta.MaxBody(300))
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	begun := time.Now()
	for r := range attacker.Attack(next, pace, window, s.name) {
		o.add(s, r)
	}
	o.took = time.Since(begun)
	slices.Sort(o.latency)
	return o
}

func (o *outcome) add(s scenario, r *vegeta.Result) {
	o.requests++
	switch {
	case !slices.Contains(s.good, int(r.Code)):
		o.failed++
		o.first = cmp.Or(o.first, fmt.Sprintf("%d %s %.200s", r.Code, r.Error, r.Body))
		return
	case r.Code == http.StatusTooManyRequests:
		o.limited++
	default:
		o.good++
	}
	o.latency = append(o.latency, r.Latency)
}

func (o *outcome) at(q float64) time.Duration {
	if len(o.latency) == 0 {
		return 0
	}
	return rounds.Quantile(o.latency, q).Round(100 * time.Microsecond)
}

// head is that of the table whose lines are rows.
const head = `| scenario | a second | requests | good | refused by a limit | failed | p50 | p95 | p99 | most |
|---|---|---|---|---|---|---|---|---|---|
`

func (o *outcome) row(s scenario) string {
	return fmt.Sprintf("| %s | %.3g | %d | %d | %d | %d | %v | %v | %v | %v |", s.name, float64(o.requests)/o.took.Seconds(), o.requests, o.good,
		o.limited, o.failed, o.at(0.5), o.at(0.95), o.at(0.99), o.at(1))
}

// judge is what is wrong with an outcome: too slow, too many failures, or hardly anything served.
func (o *outcome) judge(s scenario, want options) error {
	switch failed := float64(o.failed) / float64(max(1, o.requests)); {
	case failed > want.failures:
		return fmt.Errorf("%s: %.2f %% failed, at most %.2f %%; the first: %s", s.name, 100*failed, 100*want.failures, o.first)
	case o.good <= o.limited:
		return fmt.Errorf("%s: %d served, %d refused by a limit: the limit was measured", s.name, o.good, o.limited)
	case o.at(0.95) > s.p95:
		return fmt.Errorf("%s: p95 is %v, at most %v", s.name, o.at(0.95), s.p95)
	}
	return nil
}
