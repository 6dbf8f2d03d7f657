package stubs

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// members is a JSON object with its names kept as written: providers compare them
// exactly and take the last of duplicates, and so must the stub.
type members map[string]json.RawMessage

func object(body []byte) (members, *apiError) {
	var m members
	if err := json.Unmarshal(body, &m); err != nil || m == nil {
		return nil, invalid("", "", "We could not parse the JSON body of your request. The API expects a JSON object")
	}
	return m, nil
}

func (m members) has(name string) bool {
	raw, ok := m[name]
	return ok && !bytes.Equal(raw, []byte("null"))
}

// integer reads a whole number from low to high.
func (m members) integer(name string, low, high int) (value int, stated bool, err *apiError) {
	if !m.has(name) {
		return 0, false, nil
	}
	raw := string(m[name])
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, false, invalid(name, "invalid_type", "Invalid type for '%s': expected an integer", name)
	}
	n, convErr := strconv.Atoi(raw)
	switch {
	case convErr != nil:
		return 0, false, invalid(name, "invalid_type", "Invalid type for '%s': expected an integer, but got %s instead", name,
			raw[:min(len(raw), 32)])
	case n < low:
		return 0, false, invalid(name, "integer_below_min_value", "Invalid '%s': integer below minimum value. Expected a value >= %d, but got %d instead", name, low, n)
	case n > high:
		return 0, false, invalid(name, "integer_above_max_value", "Invalid '%s': integer above maximum value. Expected a value <= %d, but got %d instead", name, high, n)
	}
	return n, true, nil
}

func (m members) flag(name string) (bool, *apiError) {
	if !m.has(name) {
		return false, nil
	}
	var on bool
	if json.Unmarshal(m[name], &on) != nil {
		return false, invalid(name, "invalid_type", "Invalid type for '%s': expected a boolean", name)
	}
	return on, nil
}

func (m members) text(name string) (string, *apiError) {
	if !m.has(name) {
		return "", nil
	}
	var s string
	if json.Unmarshal(m[name], &s) != nil {
		return "", invalid(name, "invalid_type", "Invalid type for '%s': expected a string", name)
	}
	return s, nil
}

func (m members) object(name string) (members, *apiError) {
	if !m.has(name) {
		return nil, nil
	}
	var inner members
	if json.Unmarshal(m[name], &inner) != nil {
		return nil, invalid(name, "invalid_type", "Invalid type for '%s': expected an object", name)
	}
	return inner, nil
}

// firstObject and firstInteger take the first of two spellings that is stated.
func (m members) firstObject(names ...string) (members, *apiError) {
	for _, name := range names {
		if m.has(name) {
			return m.object(name)
		}
	}
	return nil, nil
}

func (m members) firstInteger(low, high int, names ...string) (int, bool, *apiError) {
	for _, name := range names {
		if m.has(name) {
			return m.integer(name, low, high)
		}
	}
	return 0, false, nil
}

// plan is the answer before it is written.
type plan struct {
	model    string
	input    int
	cached   int
	n        int // choices
	thoughts int // reasoning tokens of each choice, before the text
	text     string
	length   int // text tokens of each choice
	cut      bool
	tools    []string     // names of the functions to call, nil for a text
	calls    []invocation // of each choice, at least one where tools are
	usage    bool         // in a stream: the caller asked for the usage
}

// output is the tokens of all choices, reasoning included.
func (p *plan) output() int { return p.n * (p.thoughts + p.length) }

// wish is what decides how long an answer gets.
type wish struct {
	print    fingerprint
	json     string // what to answer instead of a text, where a form was asked for
	tokens   int    // asked by header, metadata or prompt
	stated   bool   // tokens was asked
	thoughts int
	thinking bool // reasoning was asked without a number
	limit    int  // the caller's maximum, 0: none
}

// fill decides the length of each choice and cuts it at the caller's maximum.
func (p *plan) fill(w wish, f *Faults) {
	total := w.print.length()
	if w.stated {
		total = w.tokens
	}
	if f.tokens != nil {
		total = *f.tokens
	}
	if w.json != "" && p.tools == nil {
		total = countTokens(w.json)
	}
	p.thoughts = w.thoughts
	if w.thinking {
		p.thoughts = total / 4
	}
	if f.thoughts != nil {
		p.thoughts = *f.thoughts
	}
	total = min(total, maxPlanned/p.n)
	p.thoughts = min(p.thoughts, maxPlanned/p.n)
	p.length = total
	if w.limit > 0 && !f.IgnoreMaxTokens && p.thoughts+p.length > w.limit {
		p.thoughts = min(p.thoughts, w.limit)
		p.length, p.cut = w.limit-p.thoughts, true
	}
	switch {
	case p.tools != nil:
		p.invoke(w.print, total)
	case w.json != "":
		p.text = w.json[:min(len(w.json), p.length*bytesPerToken)]
	default:
		p.text = generateText(uint64(w.print), p.length)
	}
}
