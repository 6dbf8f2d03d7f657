package meter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/durable"
)

const (
	maxKinds = 2000 // kinds remembered; more are served by their provider's or the default

	// headShare is the part of a fit's fixed bytes that is taken to come before the text where the
	// reader did not tell: an answer that broke off lacks its end (finish reason, usage). Low, so as
	// to err high.
	headShare = 0.2
	// narrowShare takes the fixed bytes out of a ratio when all answers were equally long.
	narrowShare = 0.85
	// What the usage of a complete answer takes, in bytes: an answer without it is so much
	// shorter than the ones that were learned from.
	usageBytesJSON, usageBytesStream = 320, 640

	defaultStreamBytes = 200.0 // bytes of an answer per token, in a stream
	jsonBytes          = 4.0   // the same in a JSON answer, before anything was learned
	defaultInputRatio  = 1.0   // tokens per byte of a request: the ceiling of any tokenizer

	// enoughInputs is how many requests must have taught before an input is estimated by them, each
	// at most alike times shorter or longer: a line through short ones says anything of a long one.
	enoughInputs = 16
	alike        = 8.0
	// An estimate by text is tried on so many answers, and then on one of so many.
	tryAlways, tryEvery = 32, 32
	// mostInputBytes is how many bytes a token of input takes at most in an estimate, whatever
	// was learned. Text takes two to eight.
	mostInputBytes = 16.0
)

// Ratio is what to assume of a provider before anything was learned.
type Ratio struct {
	BytesPerToken float64 // of a streamed answer, default 200
	TokensPerByte float64 // of a request, default 1
}

// Estimator learns from answers whose usage is known how many bytes a token takes, per
// model, and tells the tokens of answers whose usage is not. It does not learn from answers
// and requests whose bytes say nothing of their tokens: log probabilities, pictures, sound. One goroutine uses it.
type Estimator struct {
	defaults func(provider string) Ratio
	outputs  map[kind]*fit
	inputs   map[kind]*fit
	ratios   map[kind]*ratios // of inputs, for holds
	changed  bool
}

// NewEstimator starts from the providers' defaults, which may change meanwhile; nil: there are none.
func NewEstimator(defaults func(provider string) Ratio) *Estimator {
	if defaults == nil {
		defaults = func(string) Ratio { return Ratio{} }
	}
	return &Estimator{defaults: defaults, outputs: map[kind]*fit{}, inputs: map[kind]*fit{}, ratios: map[kind]*ratios{}}
}

// learn takes in a line whose usage is told in full and gives the relative error the fit had
// on it, NaN when there was none to test.
func (e *Estimator) learn(l *spool.Line) float64 {
	if !l.Answer.Counted() || !ended(l) || !served(l) || l.Answer.Heavy || operation.PerItem(l.Route) {
		return math.NaN()
	}
	k, failure := kindOf(l), math.NaN()
	input, output := l.Answer.Tokens()
	owner := ownerOf(accountOf(l))
	if p := passed(l); p.bytes > 0 && output > 0 {
		s := sample{tokens: float64(output), bytes: float64(p.bytes), owner: owner, events: float64(p.events), text: p.text}
		if s.text[thought] == 0 {
			s.hidden = min(s.tokens, float64(l.Answer.ReasonedOutput()))
		}
		failure = e.failure(k, s)
		e.add(e.outputs, k, s)
	}
	if bytes := parseBytes(l.Bytes); bytes > 0 && l.Parts == "" {
		e.learnInput(k, bytes, input)
		k.stream, k.route = false, ""
		e.add(e.inputs, k, sample{tokens: float64(input), bytes: float64(bytes), owner: owner})
	}
	return failure
}

// failure is the relative error that the estimate would have on a sample, NaN where there is none to
// test. One by text is dear, so it is tried on the first and then on each thirty-second.
func (e *Estimator) failure(k kind, s sample) float64 {
	f := e.fit(e.outputs, k)
	var got float64
	if total := s.text.total(); total > 0 && f != nil {
		if f.came > tryAlways && f.came%tryEvery != 0 {
			return math.NaN()
		}
		by, ok := f.byText(total / max(s.events, 1))
		if !ok {
			return math.NaN()
		}
		got = by.tokens(s.text)
	} else if slope, fixed, ok := f.line(); ok {
		got = (s.bytes - fixed) / slope
	} else {
		return math.NaN()
	}
	return math.Abs(got-s.tokens) / s.tokens
}

// add stores a sample for the model and for its provider as a whole.
func (e *Estimator) add(fits map[kind]*fit, k kind, s sample) {
	e.changed = true
	for _, k := range [...]kind{k, {provider: k.provider, route: k.route, stream: k.stream}} {
		f := fits[k]
		if f == nil {
			if len(fits) >= maxKinds {
				continue
			}
			f = &fit{}
			fits[k] = f
		}
		f.add(s)
	}
}

// fit is the model's, else its provider's; nil without any.
func (e *Estimator) fit(fits map[kind]*fit, k kind) *fit {
	if f := fits[k]; f != nil {
		return f
	}
	return fits[kind{provider: k.provider, route: k.route, stream: k.stream}]
}

// output estimates the tokens of an answer, or of what passed of it, from the text that the model
// produced or, where none was read, from the bytes: one for each event at least, but where events are
// known to take less. ended: the answer came to its end and only its usage is missing.
func (e *Estimator) output(k kind, a answered, ended bool) int64 {
	if a.text.total() == 0 {
		return max(a.events, e.byBytes(k, a, ended))
	}
	by := e.byText(k, a)
	return max(atLeastOne(by.tokens(a.text)), atLeastOne(by.event*float64(a.events)))
}

// least is what the provider told of an output, and what the events since take.
func (e *Estimator) least(k kind, a answered) int64 {
	if a.text.total() == 0 || a.after == 0 {
		return a.told + a.after
	}
	return a.told + atLeastOne(e.byText(k, a).event*float64(a.after))
}

// byText is what the text of an answer takes: as the model taught, else its provider, else as usual.
func (e *Estimator) byText(k kind, a answered) byText {
	bytesPerEvent := a.text.total() / max(float64(a.events), 1)
	for _, f := range e.both(e.outputs, k) {
		if by, ok := f.byText(bytesPerEvent); ok {
			return by
		}
	}
	return usual()
}

// both are the fits of the model and of its provider as a whole; they may be nil.
func (e *Estimator) both(fits map[kind]*fit, k kind) [2]*fit {
	return [...]*fit{fits[k], fits[kind{provider: k.provider, route: k.route, stream: k.stream}]}
}

func (e *Estimator) byBytes(k kind, a answered, ended bool) int64 {
	if a.bytes <= 0 {
		return 0
	}
	f, b := e.fit(e.outputs, k), float64(a.bytes)
	if slope, fixed, ok := f.line(); ok {
		before := fixed * headShare
		if a.head > 0 {
			before = float64(a.head)
		}
		if ended {
			lost := float64(usageBytesJSON)
			if k.stream {
				lost = usageBytesStream
			}
			before = max(before, fixed-lost)
		}
		return atLeastOne((b - before) / slope)
	}
	if ratio, ok := f.ratio(); ok {
		return atLeastOne(b / (ratio * narrowShare))
	}
	per := jsonBytes
	if k.stream {
		per = orElse(e.defaults(k.provider).BytesPerToken, defaultStreamBytes)
	}
	return atLeastOne(b / per)
}

// input estimates the tokens in so many bytes of a request.
func (e *Estimator) input(k kind, bytes int64) int64 {
	if bytes <= 0 {
		return 0
	}
	k.stream, k.route = false, ""
	b := float64(bytes)
	f := e.inputs[k].around(b)
	if f == nil {
		f = e.inputs[kind{provider: k.provider}].around(b)
	}
	if slope, fixed, ok := f.line(); ok {
		return atLeastOne(max((b-fixed)/slope, b/mostInputBytes))
	}
	if ratio, ok := f.ratio(); ok {
		return atLeastOne(max(b/ratio, b/mostInputBytes))
	}
	return atLeastOne(b * orElse(e.defaults(k.provider).TokensPerByte, defaultInputRatio))
}

func atLeastOne(tokens float64) int64 {
	if tokens < 1 || math.IsNaN(tokens) {
		return 1
	}
	return int64(math.Ceil(min(tokens, math.MaxInt32) - 1e-9))
}

func orElse(v, fallback float64) float64 {
	if v > 0 {
		return v
	}
	return fallback
}

// learned is the estimator on disk.
type learned struct {
	Provider string `json:"provider"`
	Model    string `json:"model,omitzero"`
	Route    string `json:"route,omitzero"`
	Stream   bool   `json:"stream,omitzero"`
	Input    bool   `json:"input,omitzero"`
	// Samples are tokens, bytes, the hash of the account, and of streams the events, the tokens that
	// were hidden and the bytes of text by their kind.
	Samples [][]float64 `json:"samples,omitempty"`
	// Ratios are counts of requests by what a byte of them took, instead of samples.
	Ratios map[int]uint32 `json:"ratios,omitempty"`
}

// Save writes what was learned, if anything is new.
func (e *Estimator) Save(path string) error {
	if !e.changed {
		return nil
	}
	all := []learned{}
	for input, fits := range map[bool]map[kind]*fit{false: e.outputs, true: e.inputs} {
		for k, f := range fits {
			all = append(all, learned{Provider: k.provider, Model: k.model, Route: k.route, Stream: k.stream, Input: input,
				Samples: f.sparse()})
		}
	}
	for k, r := range e.ratios {
		all = append(all, learned{Provider: k.provider, Model: k.model, Input: true, Ratios: r.sparse()})
	}
	text, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("save estimates: %w", err)
	}
	if err := durable.Replace(path, text); err != nil {
		return fmt.Errorf("save estimates: %w", err)
	}
	e.changed = false
	return nil
}

// Load takes up what an earlier run learned. A file that is missing is no error; one that
// does not parse is, and nothing is taken from it.
func (e *Estimator) Load(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load estimates: %w", err)
	}
	var all []learned
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("load estimates from %s: %w", path, err)
	}
	for _, l := range all {
		if len(l.Ratios) > 0 && len(e.ratios) < maxKinds {
			r := &ratios{}
			r.fill(l.Ratios)
			e.ratios[kind{provider: l.Provider, model: l.Model}] = r
		}
		fits := e.outputs
		if l.Input {
			fits = e.inputs
		}
		f := &fit{}
		for _, s := range l.Samples {
			if one, ok := sampleOf(s); ok {
				f.add(one)
			}
		}
		if len(f.samples) > 0 && len(fits) < maxKinds {
			fits[kind{provider: l.Provider, model: l.Model, route: l.Route, stream: l.Stream}] = f
		}
	}
	return nil
}
