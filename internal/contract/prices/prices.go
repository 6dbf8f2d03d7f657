// Package prices is what tokens cost: the list of prices.yaml, and the cost of a call by it. Who
// publishes a usage event freezes the cost in it (Table.Freeze); analytics reads the list again to
// find what was priced otherwise.
package prices

import (
	"math/bits"
	"path"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Kind is a kind of tokens that has a price of its own. Where an entry states none, the kind
// costs what its base does.
type Kind string

// Kinds of tokens.
const (
	Input        Kind = "input"
	Cached       Kind = "cached"
	CacheWrite5m Kind = "cache_write_5m"
	CacheWrite1h Kind = "cache_write_1h"
	Audio        Kind = "audio"
	Output       Kind = "output"
	Reasoning    Kind = "reasoning"
	AudioOutput  Kind = "audio_output"
)

// Kinds are all of them, in the order of printing.
func Kinds() []Kind {
	return []Kind{Input, Cached, CacheWrite5m, CacheWrite1h, Audio, Output, Reasoning, AudioOutput}
}

// base is what a kind costs when an entry does not say; empty for the two that every entry says.
func (k Kind) base() Kind {
	switch k {
	case Input, Output:
		return ""
	case Reasoning, AudioOutput:
		return Output
	}
	return Input
}

// Entry is what the models of one name cost from one day until another.
type Entry struct {
	Provider string
	Model    string        // a model's name, or a pattern as path.Match has it: gpt-4o-2024-*
	From, To time.Time     // half-open, by the time the call began; a zero To is open
	Rates    map[Kind]Rate // of Input and Output at least
	Source   string
}

// covers says that the entry is of the model and the moment.
func (e *Entry) covers(provider, model string, at time.Time) bool {
	if e.Provider != provider || at.Before(e.From) || !e.To.IsZero() && !at.Before(e.To) {
		return false
	}
	match, _ := path.Match(e.Model, model) // patterns are checked when the list is read
	return match
}

// rate is what a kind costs.
func (e *Entry) rate(k Kind) Rate {
	if r, stated := e.Rates[k]; stated || k.base() == "" {
		return r
	}
	return e.Rates[k.base()]
}

// Table is a list of prices. A nil one knows no price.
type Table struct {
	Version  string // what events tell: the list's own name and a digest of what it says
	Currency string // ISO 4217
	Entries  []Entry
}

// List is the list's own name, which its file calls version.
func (t *Table) List() string {
	return t.Version[:max(0, strings.LastIndexByte(t.Version, '.'))]
}

// Find is the entry of a model at a moment: a whole name before a pattern, the longer pattern
// before the shorter; nil without any.
func (t *Table) Find(provider, model string, at time.Time) *Entry {
	if t == nil {
		return nil
	}
	var best *Entry
	for i := range t.Entries {
		e := &t.Entries[i]
		if e.covers(provider, model, at) && (best == nil || e.closer(best)) {
			best = e
		}
	}
	return best
}

func (e *Entry) closer(other *Entry) bool {
	if pattern := isPattern(e.Model); pattern != isPattern(other.Model) {
		return !pattern
	}
	return len(e.Model) > len(other.Model)
}

func isPattern(model string) bool { return strings.ContainsAny(model, `*?[\`) }

// Freeze writes into an event what the call cost. One without a price keeps no version, so that
// it is seen as unpriced and never as free; so is one whose cost has no sum (more than 2^53
// micro-units). The model asked for is looked up where the one that answered has no price.
func (t *Table) Freeze(e *usage.Event) {
	e.PriceVersion, e.CostMicros, e.Currency = "", 0, ""
	if t == nil {
		return
	}
	entry := t.Find(e.Provider, e.ModelServed, e.Timestamp)
	if entry == nil || e.ModelServed == "" {
		entry = t.Find(e.Provider, e.ModelAsked, e.Timestamp)
	}
	if entry == nil {
		return
	}
	if cost, ok := entry.Cost(e); ok {
		e.PriceVersion, e.CostMicros, e.Currency = t.Version, cost, t.Currency
	}
}

// Cost is what the tokens of an event cost by the entry, in micro-units, rounded half up once for
// the whole call. Only what was charged costs: a refused call names tokens and costs nothing.
// Kinds that are part of the input or the output are taken out of it, and where parts are more
// than the whole (no provider says so) the whole is 0 beside them.
func (e *Entry) Cost(of *usage.Event) (micros int64, ok bool) {
	if !of.Allowed {
		return 0, true
	}
	var sum wide
	for kind, tokens := range split(of) {
		sum.add(uint64(tokens), uint64(e.rate(kind)))
	}
	return sum.micros()
}

// split is the event's tokens by kind, each token once.
func split(e *usage.Event) map[Kind]int64 {
	rest := func(whole int64, parts ...int64) int64 {
		for _, p := range parts {
			whole -= p
		}
		return max(0, whole)
	}
	return map[Kind]int64{
		Input:  rest(e.Input, e.Cached, e.CacheWrite5m, e.CacheWrite1h, e.Audio),
		Cached: e.Cached, CacheWrite5m: e.CacheWrite5m, CacheWrite1h: e.CacheWrite1h, Audio: e.Audio,
		Output:    rest(e.Output, e.Reasoning, e.AudioOutput),
		Reasoning: e.Reasoning, AudioOutput: e.AudioOutput,
	}
}

// wide is a sum of products in 128 bits.
type wide struct {
	high, low uint64
	over      bool
}

func (w *wide) add(a, b uint64) {
	high, low := bits.Mul64(a, b)
	var carry uint64
	w.low, carry = bits.Add64(w.low, low, 0)
	w.high, carry = bits.Add64(w.high, high, carry)
	w.over = w.over || carry > 0
}

// mostMicros is the largest cost of one call, so that sums of many are exact.
const mostMicros = 1 << 53

// micros is the sum in micro-units: rates are micro-units for a million tokens.
func (w *wide) micros() (int64, bool) {
	const million = 1_000_000
	half := *w
	half.add(million/2, 1)
	if half.over || half.high >= million {
		return 0, false
	}
	quotient, _ := bits.Div64(half.high, half.low, million)
	return int64(min(quotient, mostMicros)), quotient <= mostMicros
}
