package ledger

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestWhenAChargeComesIsAllTheSame: a pool ends with what it would have if every charge had
// come as its call began, however late and in whatever order they come.
func TestWhenAChargeComesIsAllTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		const window = time.Minute
		start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		fresh := func() *Pool {
			return &Pool{Account: "user:u", Provider: "openai", Total: 1000, Remaining: 1000, Window: window, Anchor: start, ResetTime: start.Add(window)}
		}
		type late struct {
			at, comes time.Time
			tokens    int64
		}
		var charges []late
		for range rapid.IntRange(0, 40).Draw(rt, "charges") {
			at := start.Add(time.Duration(rapid.IntRange(0, 20*60).Draw(rt, "second")) * time.Second)
			charges = append(charges, late{at, at.Add(time.Duration(rapid.IntRange(0, 14*60).Draw(rt, "later")) * time.Second),
				rapid.Int64Range(1, 900).Draw(rt, "tokens")})
		}
		end := start.Add(40 * window)
		prompt, tardy := fresh(), fresh()
		slices.SortFunc(charges, func(a, b late) int { return a.at.Compare(b.at) })
		for _, c := range charges {
			prompt.advance(c.at)
			prompt.spend(c.tokens, c.at)
		}
		slices.SortStableFunc(charges, func(a, b late) int { return a.comes.Compare(b.comes) })
		for _, c := range charges {
			tardy.advance(c.comes)
			tardy.refillPast(tardy.spend(c.tokens, c.at), "r", c.at)
		}
		prompt.advance(end.Add(-1))
		tardy.advance(end.Add(-1))
		if prompt.Remaining != tardy.Remaining || !slices.Equal(prompt.rests, tardy.rests) {
			rt.Fatalf("want %d left and rests of %v, got %d and %v for %v", prompt.Remaining, prompt.rests, tardy.Remaining, tardy.rests, charges)
		}
	})
}

// TestACorrectionIsAllTheSame: a pool ends with what it would have if every call had been charged at
// once what it is charged at last, whenever corrections come.
func TestACorrectionIsAllTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		const window = time.Minute
		start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		fresh := func() *Pool {
			return &Pool{Account: "user:u", Provider: "openai", Total: 1000, Remaining: 1000, Window: window, Anchor: start, ResetTime: start.Add(window)}
		}
		type word struct {
			at, comes time.Time
			tokens    int64
		}
		var right, told []word
		for range rapid.IntRange(0, 25).Draw(rt, "calls") {
			at := start.Add(time.Duration(rapid.IntRange(0, 12*60).Draw(rt, "second")) * time.Second)
			was := int64(0)
			for n := rapid.IntRange(1, 3).Draw(rt, "words"); n > 0; n-- {
				tokens := rapid.Int64Range(0, 900).Draw(rt, "tokens")
				told = append(told, word{at, at.Add(time.Duration(rapid.IntRange(0, 14*60).Draw(rt, "later")) * time.Second), tokens - was})
				was = tokens
			}
			right = append(right, word{at, at, was})
		}
		end := start.Add(30 * window)
		once, mended := fresh(), fresh()
		slices.SortFunc(right, func(a, b word) int { return a.at.Compare(b.at) })
		for _, w := range right {
			once.advance(w.at)
			once.spend(w.tokens, w.at)
		}
		slices.SortStableFunc(told, func(a, b word) int { return a.comes.Compare(b.comes) })
		for _, w := range told {
			mended.advance(w.comes)
			mended.refillPast(mended.spend(w.tokens, w.at), "r", w.at)
		}
		once.advance(end.Add(-1))
		mended.advance(end.Add(-1))
		if once.Remaining != mended.Remaining || !slices.Equal(once.rests, mended.rests) {
			rt.Fatalf("want %d left and rests of %v, got %d and %v for %v", once.Remaining, once.rests, mended.Remaining, mended.rests, told)
		}
	})
}

// TestALateChargeThatItsWindowCannotPayIsOwed, and one that it can pay is not.
func TestALateChargeThatItsWindowCannotPayIsOwed(t *testing.T) {
	t.Parallel()
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct{ before, late, want int64 }{
		"its window pays":       {400, 600, 1000},
		"it pays a part":        {400, 900, 700},
		"it has nothing left":   {1000, 300, 700},
		"it was overdrawn":      {1200, 300, 500},
		"more than two windows": {0, 2500, -500},
	} {
		p := &Pool{Account: "user:u", Provider: "openai", Total: 1000, Remaining: 1000, Window: time.Hour, Anchor: start, ResetTime: start.Add(time.Hour)}
		p.spend(c.before, start)
		p.advance(start.Add(90 * time.Minute))
		p.refillPast(p.spend(c.late, start.Add(59*time.Minute)), "r", start)
		if p.Remaining != c.want {
			t.Errorf("%s: want %d left, got %d", name, c.want, p.Remaining)
		}
	}
}
