package meter

import (
	"cmp"
	"math"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
)

// The kinds of text that a model produces: a byte of each takes tokens of its own.
const (
	said    = iota // text in ASCII
	thought        // thoughts that are shown; some providers bill more than they show
	called         // arguments of tools, in JSON
	wide           // any of them in other letters
	kinds
)

const (
	// Answers are alike whose events carry about as much text, at most so many times more or less.
	// The others have a small say: they decide where none is alike.
	alikeEvents = 1.5
	unlike      = 1.0 / 32

	// leastShare of its text is what an answer has of a kind that teaches it.
	leastShare = 0.1
	// textQuantile takes the tokens of a byte from the upper half of what was seen, as slopeQuantile.
	textQuantile = 0.6
	// eventQuantile is low: answers that split tokens are often among others, and an event that carries
	// less than a token must not count as one.
	eventQuantile = 0.25
	// rounds is how often the kinds are fitted to what the others leave, until none moves by a
	// thousandth; a kind ends within farthest times what a byte takes in all.
	rounds    = 12
	settledAt = 1e-3
	farthest  = 8.0
)

// text is bytes of UTF-8 that a model produced, by their kind.
type text [kinds]float64

func textOf(a *spool.Answer) text {
	return text{said: float64(a.Said), thought: float64(a.Thought), called: float64(a.Called), wide: float64(a.Wide)}
}

func (t text) total() float64 { return t[said] + t[thought] + t[called] + t[wide] }

func (t text) times(n float64) text {
	for k := range t {
		t[k] *= n
	}
	return t
}

// byText is what text takes.
type byText struct {
	rate   [kinds]float64 // tokens of a byte
	event  float64        // tokens that an event takes at least, at most 1
	hidden float64        // tokens that a model thinks before it shows anything
}

// usual is what text takes with usual tokenizers, before anything was learned.
func usual() byText {
	return byText{rate: [kinds]float64{said: 1.0 / 4, thought: 1.0 / 4, called: 1.0 / 4, wide: 1.0 / 3}, event: 1}
}

// tokens are those of a text. Where thoughts are shown, none is hidden.
func (b byText) tokens(t text) float64 {
	sum := b.hidden
	if t[thought] > 0 {
		sum = 0
	}
	for k, bytes := range t {
		sum += b.rate[k] * bytes
	}
	return sum
}

// byText is what text takes in an answer whose events carry about so many bytes of it; false: nothing
// was learned.
//
// The tokens of an answer are the sum over the kinds of rate × bytes. The rates are found by turns:
// each is a quantile of what the other kinds leave of the samples' tokens for a byte of this one. So an
// answer of one kind teaches that kind alone, a mixed one shares what it tells, and one that lies has
// the weight of one.
func (f *fit) byText(bytesPerEvent float64) (byText, bool) {
	if f == nil {
		return byText{}, false
	}
	var all []weighed
	for _, s := range f.samples {
		total := s.text.total()
		if total == 0 || s.tokens <= s.hidden {
			continue
		}
		w := weighed{sample: s, weight: 1, total: total}
		if math.Abs(math.Log(total/max(s.events, 1)/bytesPerEvent)) > math.Log(alikeEvents) {
			w.weight = unlike
		}
		all = append(all, w)
	}
	if len(all) == 0 {
		return byText{}, false
	}
	same := func(w weighed) float64 { return w.weight }
	overall := middle(all, textQuantile, same, func(w weighed) float64 { return w.shown() / w.total })
	by := byText{
		event:  min(1, middle(all, eventQuantile, same, func(w weighed) float64 { return w.shown() / max(w.events, 1) })),
		hidden: middle(all, 0.5, same, func(w weighed) float64 { return w.hidden }),
	}
	for k := range by.rate {
		by.rate[k] = overall
	}
	for range rounds {
		if !by.refit(all, overall) {
			break
		}
	}
	return by, true
}

// refit fits each kind to what the others leave, and reports whether any moved.
func (b *byText) refit(all []weighed, overall float64) bool {
	moved := false
	for k := range b.rate {
		rate := middle(all, textQuantile, func(w weighed) float64 {
			share := w.text[k] / w.total
			if share < leastShare {
				return 0
			}
			return w.weight * share * share // the purer the more
		}, func(w weighed) float64 {
			rest := w.shown()
			for other, bytes := range w.text {
				if other != k {
					rest -= b.rate[other] * bytes
				}
			}
			return rest / w.text[k]
		})
		if math.IsNaN(rate) { // no answer has any of it
			continue
		}
		rate = min(max(rate, overall/farthest), overall*farthest)
		moved = moved || math.Abs(rate-b.rate[k]) > settledAt*b.rate[k]
		b.rate[k] = rate
	}
	return moved
}

// weighed is a sample, and how much it says.
type weighed struct {
	sample
	weight, total float64
}

// shown are the tokens that are in its text.
func (w weighed) shown() float64 { return w.tokens - w.hidden }

// middle is the weighted quantile of a value over those samples that have any weight; NaN: none has.
func middle(all []weighed, q float64, weight, value func(weighed) float64) float64 {
	type one struct{ value, weight float64 }
	values, sum := make([]one, 0, len(all)), 0.0
	for _, w := range all {
		if weight := weight(w); weight > 0 {
			values = append(values, one{value(w), weight})
			sum += weight
		}
	}
	slices.SortFunc(values, func(a, b one) int { return cmp.Compare(a.value, b.value) })
	sum *= q
	for _, v := range values {
		if sum -= v.weight; sum < 0 {
			return v.value
		}
	}
	return math.NaN()
}
