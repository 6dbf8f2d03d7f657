package spool

import (
	"strconv"
	"strings"
)

// Answer is what the usage reader (envoy/usage.lua) found in a provider's answer until it
// ended or the client left. Counts are tokens, 0 where none was told: a provider that tells
// zero tells nothing.
type Answer struct {
	Status int   // HTTP status of an answer that is an error, else 0
	Events int64 // data lines of an event stream that carried content
	After  int64 // of those, the ones that came after usage was last told
	Bytes  int64 // of the body when this was written, decoded
	Head   int64 // of those, that came before the first line with content of an event stream
	Whole  bool  // a usage object came to its end
	Failed bool  // the provider told an error within its answer
	Coded  bool  // it was refused, since nobody can read its content-encoding
	Heavy  bool  // its bytes say little of its tokens, as with log probabilities

	// What the model produced, in bytes of UTF-8 without what JSON and the envelope of an event put
	// around it, by its kind. Event streams alone tell it.
	Said    int64 // text
	Thought int64 // thoughts that were shown
	Called  int64 // arguments of calls of tools
	Wide    int64 // of any of them, what is not in ASCII; not in the other three

	In, Out, Total  int64 // as told: some providers leave a kind out of In or Out and put it into Total
	Cached          int64 // of In, read from the provider's cache
	Read, Written   int64 // from and to the cache, beside In (Anthropic)
	Wrote           int64 // of In, written to the cache (OpenAI)
	Written1h       int64 // of Written, to a cache that lives an hour; the rest lives five minutes
	Reasoning       int64 // of Out, or beside it
	Thoughts, Tools int64 // beside Out and beside In (Gemini)
	AudioIn         int64 // of In
	AudioOut        int64 // of Out
	Model           string
}

// maxTokens is the largest count that is believed, in tokens. Beyond it a float64, which
// both Lua and Redis count in, is not exact.
const maxTokens = 1e15

// ParseAnswer decodes a report: name=number pairs with commas, and at the end model=TEXT,
// whose text may hold any byte but a control character. What it does not know it skips.
func ParseAnswer(text string) Answer {
	var a Answer
	for text != "" {
		var field string
		if model, is := strings.CutPrefix(text, "model="); is {
			a.Model = model
			break
		}
		field, text, _ = strings.Cut(text, ",")
		name, value, _ := strings.Cut(field, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 || n > maxTokens {
			continue
		}
		a.set(name, n)
	}
	return a
}

func (a *Answer) set(name string, n int64) {
	switch name {
	case "status":
		a.Status = int(min(n, 999))
	case "whole":
		a.Whole = n > 0
	case "failed":
		a.Failed = n > 0
	case "coded":
		a.Coded = n > 0
	case "heavy":
		a.Heavy = n > 0
	default:
		if field := a.count(name); field != nil {
			*field = n
		}
	}
}

func (a *Answer) count(name string) *int64 {
	switch name {
	case "events":
		return &a.Events
	case "after":
		return &a.After
	case "bytes":
		return &a.Bytes
	case "head":
		return &a.Head
	case "said":
		return &a.Said
	case "thought":
		return &a.Thought
	case "called":
		return &a.Called
	case "wide":
		return &a.Wide
	case "in":
		return &a.In
	case "out":
		return &a.Out
	case "total":
		return &a.Total
	case "cached":
		return &a.Cached
	case "read":
		return &a.Read
	case "written":
		return &a.Written
	case "wrote":
		return &a.Wrote
	case "written_1h":
		return &a.Written1h
	case "reasoning":
		return &a.Reasoning
	case "thoughts":
		return &a.Thoughts
	case "tools":
		return &a.Tools
	case "audio_in":
		return &a.AudioIn
	case "audio_out":
		return &a.AudioOut
	}
	return nil
}

// Tokens are the input and the output that the provider told, and they add up to the larger
// of its total and its parts: a part that it left out of both is output, or input where
// nothing else is told, as with embeddings.
func (a *Answer) Tokens() (input, output int64) {
	input, output = a.In+a.Tools, a.Out+a.Thoughts
	if a.Total == 0 {
		input += a.Read + a.Written
	}
	if a.Reasoning > a.Out {
		output += a.Reasoning
	}
	switch rest := a.Total - input - output; {
	case rest <= 0:
	case input == 0:
		input = rest
	default:
		output += rest
	}
	return input, output
}

// Counted says that the provider's count covers everything that passed.
func (a *Answer) Counted() bool {
	input, _ := a.Tokens()
	return a.Whole && a.After == 0 && input > 0
}

// Told says that the provider told any count.
func (a *Answer) Told() bool {
	input, output := a.Tokens()
	return input+output > 0
}

// CachedInput are the input tokens that came from a cache.
func (a *Answer) CachedInput() int64 { return max(a.Cached, a.Read) }

// ReasonedOutput are the output tokens that nobody saw.
func (a *Answer) ReasonedOutput() int64 { return max(a.Reasoning, a.Thoughts) }
