package meter

import (
	"math/rand/v2"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
)

// by makes a line another account's.
func by(account string, l *spool.Line) *spool.Line {
	l.Account = account
	return l
}

// TestEstimatesAreNotPoisoned: one account fills the estimator with answers whose bytes say
// nothing of their tokens. Neither they nor anybody else is then charged a fraction of a
// stream that is cut.
func TestEstimatesAreNotPoisoned(t *testing.T) {
	t.Parallel()
	k := kind{provider: "openai", model: "gpt-4o", route: "openai-chat", stream: true}
	for name, c := range map[string]struct {
		heavy  bool // the reader saw the log probabilities
		poison func(r *rand.Rand) *spool.Line
	}{
		"short answers with log probabilities": {true, func(r *rand.Rand) *spool.Line {
			return shape{head: 345, chunk: 1850, tail: 965, perChunk: 1}.line(4+r.Int64N(3), 400)
		}},
		"short answers of other bytes": {false, func(r *rand.Rand) *spool.Line {
			return shape{head: 345, chunk: 1850, tail: 965, perChunk: 1}.line(4+r.Int64N(3), 400)
		}},
		"long answers of other bytes": {false, func(r *rand.Rand) *spool.Line {
			return shape{head: 345, chunk: 3000, tail: 965, perChunk: 1}.line(100+r.Int64N(900), 400)
		}},
		"one token among many bytes": {false, func(*rand.Rand) *spool.Line {
			return shape{head: 1 << 20, chunk: 339, tail: 965, perChunk: 1}.line(1, 400)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, r := NewEstimator(nil), rand.New(rand.NewPCG(5, 6))
			for i := range 128 { // four honest accounts
				e.learn(by("user:"+string(rune('a'+i%4)), openaiShape.line(20+r.Int64N(1000), 400)))
			}
			for range 300 {
				l := by("user:mallory", c.poison(r))
				l.Answer.Heavy = c.heavy
				e.learn(l)
			}
			served := int64(990)
			got := e.output(k, answered{bytes: openaiShape.head + openaiShape.bytes(served)}, false)
			if got < served*9/10 || got > served*12/10 {
				t.Errorf("want about %d tokens, got %d", served, got)
			}
		})
	}
}

// TestTextIsNotPoisoned is TestEstimatesAreNotPoisoned for streams whose text was read: one account has
// the model write what has few tokens for its bytes, or more events than tokens.
func TestTextIsNotPoisoned(t *testing.T) {
	t.Parallel()
	k := kind{provider: "openai", model: "gpt-4o", route: "openai-chat", stream: true}
	line := func(account string, events, said, tokens int64) *spool.Line {
		l := openaiShape.line(tokens, 400)
		l.Answer.Events, l.Answer.Said = events, said
		return by(account, l)
	}
	for name, poison := range map[string]func(n int64) *spool.Line{
		"runs of spaces":              func(n int64) *spool.Line { return line("user:mallory", n, 64*n, n) },
		"a token of a megabyte":       func(int64) *spool.Line { return line("user:mallory", 1, 1<<20, 1) },
		"events like those of others": func(n int64) *spool.Line { return line("user:mallory", 16*n, 64*n, n) },
		"empty answers":               func(int64) *spool.Line { return line("user:mallory", 3, 4, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, r := NewEstimator(nil), rand.New(rand.NewPCG(5, 6))
			for i := range 128 {
				n := 20 + r.Int64N(1000)
				e.learn(line("user:"+string(rune('a'+i%4)), n, 4*n, n))
			}
			for range 300 {
				e.learn(poison(4 + r.Int64N(100)))
			}
			served := int64(990)
			got := e.output(k, answered{bytes: 1 << 20, events: served, text: text{said: float64(4 * served)}}, false)
			if got < served*9/10 || got > served*11/10 {
				t.Errorf("want about %d tokens, got %d", served, got)
			}
		})
	}
}

// TestEstimateCountsEvents: where nothing was learned but poison, an event is a token still.
func TestEstimateCountsEvents(t *testing.T) {
	t.Parallel()
	e := NewEstimator(nil)
	for range 300 {
		e.learn(by("user:mallory", shape{head: 345, chunk: 1850, tail: 965, perChunk: 1}.line(5, 400)))
	}
	k := kind{provider: "openai", model: "gpt-4o", route: "openai-chat", stream: true}
	if got := e.output(k, answered{bytes: openaiShape.bytes(990), events: 990}, false); got < 990 {
		t.Errorf("want a token for each event, got %d", got)
	}
}

// TestEstimatorLearnsNoInputFromParts: a picture's bytes say nothing of its tokens.
func TestEstimatorLearnsNoInputFromParts(t *testing.T) {
	t.Parallel()
	e := NewEstimator(nil)
	l := held(func(l *spool.Line) { l.Parts = "image:1:1:0" })
	e.learn(&l)
	if len(e.inputs)+len(e.ratios) != 0 || len(e.outputs) == 0 {
		t.Errorf("want the output learned alone, got %v %v %v", e.inputs, e.ratios, e.outputs)
	}
}
