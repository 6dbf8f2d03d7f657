package limits

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/leaky-tokens/leaky-tokens/internal/yamlbound"
)

const (
	// maxDepth is how deep descriptors may nest.
	maxDepth = 16
	// maxErrors is how many mistakes are told at once.
	maxErrors = 10
	// maxMappings is how many mappings a file may come to when its aliases are filled in.
	maxMappings = 1 << 17
	// maxMerges is how deep merge keys may lead.
	maxMerges = 8
	// maxCapacity is the largest burst: what a float64 counts exactly.
	maxCapacity = 1 << 53
)

// Error is one mistake in a limits file. Line and Column count from 1; File is its path,
// empty for text without one.
type Error struct {
	File         string
	Line, Column int
	Message      string
}

func (e *Error) Error() string {
	if e.File == "" {
		return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Options loosen what a file may say.
type Options struct {
	// AnyKeys accepts every key, domain and path, as envoyproxy/ratelimit does, for Envoys
	// that are not ours. Every rule counts requests then: the hits that the asker states.
	AnyKeys bool
	// File is the text's path, for errors.
	File string
	// CalendarMonths has windows of a month be those of the calendar, in UTC where a rule names no
	// zone (envoyproxy/ratelimit's USE_CALENDAR_MONTH_RATE_LIMIT).
	CalendarMonths bool

	into map[string]*Set // by domain, those that a file of the same domain adds to; nil: none
}

// Parse reads the text of a limits file. The error joins an *Error for each mistake,
// the first ten.
func Parse(text []byte) (*Set, error) { return ParseWith(text, Options{}) }

// ParseWith is Parse with options.
func ParseWith(text []byte, o Options) (*Set, error) {
	if message, line := yamlbound.Unparseable(text); message != "" {
		return nil, &Error{File: o.File, Line: line, Column: 1, Message: message}
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // of editors that begin a file with a byte order mark
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntax(o.File, err)
	}
	p := reader{options: o, set: &Set{}, names: map[string]*token.Token{}, anchors: map[string]ast.Node{}}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			p.fail(doc.Body.GetToken(), "the file holds more than one YAML document")
			break
		}
		body = doc.Body
	}
	if body == nil {
		return nil, &Error{File: o.File, Line: 1, Column: 1, Message: "the file is empty; it needs a domain and descriptors"}
	}
	p.collect(body)
	p.file(p.value(body))
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return p.set, nil
}

// syntax keeps the position of a YAML error and drops the excerpt that goes with it.
func syntax(file string, err error) error {
	if y, ok := errors.AsType[yaml.Error](err); ok && y.GetToken() != nil && y.GetToken().Position != nil {
		return &Error{File: file, Line: y.GetToken().Position.Line, Column: y.GetToken().Position.Column, Message: y.GetMessage()}
	}
	return &Error{File: file, Line: 1, Column: 1, Message: err.Error()}
}

type reader struct {
	options Options
	set     *Set
	names   map[string]*token.Token // rule names taken
	anchors map[string]ast.Node     // by name
	size    int                     // mappings read, those behind aliases each time
	merges  int                     // merge keys being followed
	errs    []error
}

func (p *reader) fail(at *token.Token, format string, args ...any) {
	if len(p.errs) >= maxErrors {
		return
	}
	e := &Error{File: p.options.File, Line: 1, Column: 1, Message: fmt.Sprintf(format, args...)}
	if at != nil && at.Position != nil {
		e.Line, e.Column = at.Position.Line, at.Position.Column
	}
	p.errs = append(p.errs, e)
}

func (p *reader) warn(at *token.Token, format string, args ...any) {
	if len(p.set.warnings) < maxErrors && at != nil && at.Position != nil {
		p.set.warnings = append(p.set.warnings, &Error{File: p.options.File, Line: at.Position.Line, Column: at.Position.Column,
			Message: fmt.Sprintf(format, args...)})
	}
}

func (p *reader) file(body ast.Node) {
	m, ok := p.mapping(body, "the file", "domain", "descriptors")
	if !ok {
		return
	}
	if f, ok := m["domain"]; ok {
		p.set.domain = p.text(f)
	}
	switch {
	case p.set.domain == "" && m["domain"].value == nil:
		p.fail(body.GetToken(), "domain is missing; write domain: %s", Domain)
	case p.set.domain == "":
		p.fail(m["domain"].at(), "domain is empty; write domain: %s", Domain)
	case !p.options.AnyKeys && p.set.domain != Domain:
		p.fail(m["domain"].at(), "domain is %q, but Envoy asks in domain %q", p.set.domain, Domain)
	}
	if have := p.options.into[p.set.domain]; have != nil {
		have.warnings = append(have.warnings, p.set.warnings...)
		p.set = have
	}
	if f, ok := m["descriptors"]; ok {
		p.descriptors(f, &p.set.root, trail{})
	}
}

// trail is the way from the root to a descriptor.
type trail struct {
	path  Path // keys, with the values Envoy knows beforehand
	steps []step
	owned bool // some key names a caller
}

func (t trail) add(s step) trail {
	fixed := PathKey{Key: s.key}
	if s.key == keyCount || s.key == keyRoute && !wildcards(s.value) {
		fixed.Value = s.value
	}
	return trail{path: append(slices.Clone(t.path), fixed), steps: append(slices.Clone(t.steps), s), owned: t.owned || owner(s.key)}
}

// name is the path in words: count_tokens.user.provider.
func (t trail) name() string {
	words := make([]string, len(t.steps))
	for i, s := range t.steps {
		words[i] = s.String()
	}
	return strings.Join(words, ".")
}

func (p *reader) descriptors(f field, at *node, way trail) {
	if f.null() {
		return
	}
	list, ok := f.value.(*ast.SequenceNode)
	if !ok {
		p.fail(f.at(), "descriptors must be a list")
		return
	}
	if len(way.path) >= maxDepth {
		p.fail(f.at(), "descriptors nest deeper than %d", maxDepth)
		return
	}
	for _, item := range list.Values {
		p.descriptor(p.value(item), at, way)
	}
}

func (p *reader) descriptor(item ast.Node, at *node, way trail) {
	m, ok := p.mapping(item, "a descriptor", "key", "value", "rate_limit", "descriptors", "shadow_mode", "quota_mode",
		"detailed_metric", "value_to_metric", "share_threshold", "metadata")
	if !ok {
		return
	}
	key, value := p.text(m["key"]), p.text(m["value"])
	if key == "" {
		p.fail(item.GetToken(), "a descriptor needs a key")
		return
	}
	if !p.known(m, key, value, len(way.path)) {
		return
	}
	next, ok := at.enter(key, value)
	if !ok {
		p.fail(m["key"].at(), "a second descriptor for %s at this level", strings.TrimSuffix(key+": "+value, ": "))
		return
	}
	way = way.add(p.step(m, key, value))
	p.rule(m, next, way)
	f, deeper := m["descriptors"]
	if deeper {
		p.descriptors(f, next, way)
	}
	if m["rate_limit"].null() && !deeper && !p.options.AnyKeys {
		p.warn(m["key"].at(), "a descriptor without rate_limit and without descriptors limits nothing")
	}
}

func (p *reader) step(m map[string]field, key, value string) step {
	s := step{key: key, value: value, shared: p.flag(m["share_threshold"]), valued: p.flag(m["value_to_metric"])}
	if s.shared && !wildcards(value) && !wildcards(key) {
		p.fail(m["share_threshold"].at(), "share_threshold needs a value with a *")
	}
	return s
}

// enter is the node for a key and value, or false when there is one already.
func (n *node) enter(key, value string) (*node, bool) {
	next := &node{}
	if p, ok := newPattern(key, value); ok {
		p.node = next
		if slices.ContainsFunc(n.patterns, func(have pattern) bool { return have.key == key && slices.Equal(have.parts, p.parts) }) {
			return nil, false
		}
		n.patterns = append(n.patterns, p)
		return next, true
	}
	i := slices.IndexFunc(n.keys, func(k keyNode) bool { return k.key == key })
	if i < 0 {
		n.keys = append(n.keys, keyNode{key: key, values: map[string]*node{}})
		i = len(n.keys) - 1
	}
	k := &n.keys[i]
	switch {
	case value == "" && k.any == nil:
		k.any = next
	case value != "" && k.values[value] == nil:
		k.values[value] = next
	default:
		return nil, false
	}
	return next, true
}
