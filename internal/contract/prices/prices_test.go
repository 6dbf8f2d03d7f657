package prices_test

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

const list = `version: "7"
currency: USD
prices:
  - {provider: openai, model: gpt-4o, from: 2026-01-01, to: 2026-02-01, per_million: {input: 5, output: 15}}
  - {provider: openai, model: gpt-4o, from: 2026-02-01, per_million: {input: 2.50, cached: 1.25, cache_write_1h: 4, audio: 40, output: 10.00, reasoning: 12, audio_output: 80}}
  - {provider: openai, model: gpt-4o-*, from: 2026-01-01, per_million: {input: 0.000001, output: 0}}
  - {provider: openai, model: gpt-4o-mini*, from: 2026-01-01, per_million: {input: 0.15, output: 0.6}}
`

func table(t *testing.T, text string) *prices.Table {
	t.Helper()
	got, err := prices.Parse("prices.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func call(model string, at time.Time, input, output int64) usage.Event {
	return usage.Event{Provider: "openai", ModelAsked: model, Input: input, Output: output, Charged: input + output, Allowed: true, Timestamp: at}
}

func TestCostIsFrozen(t *testing.T) {
	t.Parallel()
	march := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	edge := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	kinds := call("gpt-4o", march, 1000, 500)
	kinds.Cached, kinds.CacheWrite5m, kinds.CacheWrite1h, kinds.Audio, kinds.Reasoning, kinds.AudioOutput = 100, 50, 25, 10, 200, 20
	served := call("gpt-4o", march, 1_000_000, 0)
	served.ModelServed = "gpt-4o-mini-2026"
	servedUnknown := call("gpt-4o", march, 1_000_000, 0)
	servedUnknown.ModelServed = "what"
	refused := call("gpt-4o", march, 0, 0)
	refused.Allowed, refused.Charged, refused.Source = false, 500, usage.FromRefusal
	parts := call("gpt-4o", march, 10, 0)
	parts.Cached = 40
	for name, c := range map[string]struct {
		event   usage.Event
		micros  int64
		unknown bool
	}{
		"a million of input":             {call("gpt-4o", march, 1_000_000, 0), 2_500_000, false},
		"input and output":               {call("gpt-4o", march, 12, 80), 30 + 800, false},
		"before the price changed":       {call("gpt-4o", edge.Add(-time.Nanosecond), 2, 2), 40, false},
		"as the price changed":           {call("gpt-4o", edge, 2, 2), 25, false},
		"each kind at its own price":     {kinds, (815*2_500_000 + 100*1_250_000 + 50*2_500_000 + 25*4_000_000 + 10*40_000_000 + 280*10_000_000 + 200*12_000_000 + 20*80_000_000 + 500_000) / 1_000_000, false},
		"the model that answered":        {served, 150_000, false},
		"that has no price, then asked":  {servedUnknown, 2_500_000, false},
		"the longer pattern":             {call("gpt-4o-mini-x", march, 1_000_000, 0), 150_000, false},
		"half a micro-unit rounds up":    {call("gpt-4o-x", march, 500_000, 0), 1, false},
		"less rounds down":               {call("gpt-4o-x", march, 499_999, 0), 0, false},
		"a refused call costs nothing":   {refused, 0, false},
		"more cached than input":         {parts, 50, false},
		"before any price":               {call("gpt-4o", time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), 5, 5), 0, true},
		"no such model":                  {call("gpt-9", march, 5, 5), 0, true},
		"no model":                       {call("", march, 5, 5), 0, true},
		"a cost beyond 2^53 micro-units": {call("gpt-4o", march, 1<<53, 1<<53), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prices := table(t, list)
			e := c.event
			prices.Freeze(&e)
			want := prices.Version
			if c.unknown {
				want = ""
			}
			if e.CostMicros != c.micros || e.PriceVersion != want || (e.Currency == "USD") == c.unknown {
				t.Errorf("want %d by %q, got %d %s by %q", c.micros, want, e.CostMicros, e.Currency, e.PriceVersion)
			}
		})
	}
}

func TestNoListPricesNothing(t *testing.T) {
	t.Parallel()
	e := call("gpt-4o", time.Now(), 5, 5)
	e.PriceVersion, e.CostMicros = "stale", 9
	(*prices.Table)(nil).Freeze(&e)
	if e.PriceVersion != "" || e.CostMicros != 0 {
		t.Errorf("want the call unpriced, got %+v", e)
	}
}

// Against math/big: rounded once, half up, whatever the counts.
func TestCostIsExact(t *testing.T) {
	t.Parallel()
	prices := table(t, list)
	rapid.Check(t, func(t *rapid.T) {
		in, cached := rapid.Int64Range(0, 1<<40).Draw(t, "input"), rapid.Int64Range(0, 1<<20).Draw(t, "cached")
		out := rapid.Int64Range(0, 1<<40).Draw(t, "output")
		e := call("gpt-4o", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), in+cached, out)
		e.Cached = cached
		prices.Freeze(&e)
		sum := new(big.Int)
		for tokens, rate := range map[*big.Int]int64{big.NewInt(in): 2_500_000, big.NewInt(cached): 1_250_000, big.NewInt(out): 10_000_000} {
			sum.Add(sum, tokens.Mul(tokens, big.NewInt(rate)))
		}
		sum.Add(sum, big.NewInt(500_000)).Div(sum, big.NewInt(1_000_000))
		if sum.Cmp(big.NewInt(e.CostMicros)) != 0 {
			t.Fatalf("want %s, got %d", sum, e.CostMicros)
		}
	})
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	swap := func(from, to string) string {
		if !strings.Contains(list, from) {
			t.Fatalf("%s is not in the list", from)
		}
		return strings.Replace(list, from, to, 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":             {"", "version"},
		"no YAML":           {"prices: [", "prices.yaml"},
		"unknown key":       {swap("currency:", "curency:"), "curency"},
		"no version":        {swap(`version: "7"`, `version: ""`), "prices.yaml:1: version"},
		"no currency":       {swap("USD", "dollars"), "prices.yaml:2: currency"},
		"no prices":         {"version: a\ncurrency: USD\nprices: []\n", "prices: there is no price"},
		"unknown kind":      {swap("cached:", "cachd:"), "did you mean cached?"},
		"no output":         {swap(", output: 15", ""), "prices.yaml:4: prices[0]: per_million.output is missing"},
		"negative":          {swap("input: 5", "input: -5"), "no price"},
		"too fine":          {swap("0.000001", "0.0000001"), "at most six places"},
		"exponent":          {swap("input: 5", "input: 1e3"), "no price"},
		"too much":          {swap("input: 5", "input: 1000001"), "more than 1000000"},
		"text":              {swap("input: 5", "input: cheap"), "no price"},
		"not a number":      {swap("input: 5", "input: .nan"), "no price"},
		"bad date":          {swap("2026-02-01, per", "tomorrow, per"), "no date"},
		"ends before":       {swap("to: 2026-02-01", "to: 2025-02-01"), "not after from"},
		"overlap":           {swap("to: 2026-02-01", "to: 2026-02-02"), "has a price at that time already (prices[0])"},
		"overlap, open":     {swap("to: 2026-02-01, ", ""), "has a price at that time already"},
		"bad pattern":       {swap("gpt-4o-*", "'gpt-['"), "write a model's name"},
		"no model":          {swap("model: gpt-4o,", "model: '',"), "write a model's name"},
		"bad provider":      {swap("provider: openai", "provider: Open AI"), "a provider's name"},
		"several at a time": {swap("input: 5, output: 15", "input: x"), "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := prices.Parse("prices.yaml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want a mistake with %q, got %v", c.want, err)
			}
		})
	}
}

func TestGapsAreFound(t *testing.T) {
	t.Parallel()
	if gaps := table(t, list).Gaps(); len(gaps) != 0 {
		t.Errorf("want no gap, got %v", gaps)
	}
	gaps := table(t, strings.Replace(list, "to: 2026-02-01", "to: 2026-01-20", 1)).Gaps()
	if len(gaps) != 1 || gaps[0].Model != "gpt-4o" || gaps[0].From.Day() != 20 || gaps[0].To.Month() != time.February {
		t.Errorf("want the gap in gpt-4o, got %v", gaps)
	}
}

func TestTheVersionFollowsTheText(t *testing.T) {
	t.Parallel()
	one, two := table(t, list), table(t, strings.Replace(list, "input: 5", "input: 6", 1))
	if one.Version == two.Version || !strings.HasPrefix(one.Version, "7.") {
		t.Errorf("want two versions of list 7, got %s and %s", one.Version, two.Version)
	}
	if marked := table(t, "\ufeff"+list); marked.Version != one.Version || one.List() != "7" || two.List() != "7" {
		t.Errorf("want list 7, marked or not, got %s, %s and %s", marked.Version, one.List(), two.List())
	}
}

func TestTheBuiltInListIsRight(t *testing.T) {
	t.Parallel()
	built, err := prices.Load("")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	for provider, model := range map[string]string{"openai": "gpt-4o", "gemini": "gemini-2.5-flash", "qwen": "qwen-plus"} {
		if built.Find(provider, model, at) == nil {
			t.Errorf("want a price of %s", model)
		}
	}
	for _, e := range built.Entries {
		if e.Source == "" {
			t.Errorf("want a source of %s", e.Model)
		}
	}
	if gaps := built.Gaps(); len(gaps) > 0 {
		t.Errorf("want no gaps, got %v", gaps)
	}
}

func TestMoney(t *testing.T) {
	t.Parallel()
	for micros, want := range map[int64]string{0: "0.00", 1: "0.000001", 2_500_000: "2.50", -75: "-0.000075", 1_234_567: "1.234567", 1 << 53: "9007199254.740992"} {
		if got := prices.Money(micros); got != want {
			t.Errorf("%d: want %s, got %s", micros, want, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{list, "", "{}", "version: [", "version: a\ncurrency: USD\nprices: [{}]", "prices: 3", "version: 1\ncurrency: USD\nprices:\n- per_million: {input: 0x10}\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := prices.Parse("prices.yaml", text)
		if err != nil {
			return
		}
		e := call("gpt-4o", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), 1<<53, 1<<53)
		if got.Freeze(&e); e.CostMicros < 0 || got.Version == "" {
			t.Errorf("want a cost of 0 or more by a version, got %d", e.CostMicros)
		}
	})
}

// TestADeepTextIsNotParsed: it would cost memory that grows with the square of its depth.
func TestADeepTextIsNotParsed(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"brackets": strings.Repeat("[", 5_000), "lists": strings.Repeat("- ", 5_000) + "a"} {
		if _, err := prices.Parse("prices.yaml", []byte("version: 7\nprices: "+text)); err == nil || !strings.Contains(err.Error(), "prices.yaml:2: it nests more than 64 deep") {
			t.Errorf("%s: want it refused, got %.200v", name, err)
		}
	}
}
