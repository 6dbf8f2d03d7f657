package limits

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxFile is the largest limits file, in bytes.
	maxFile = 4 << 20
	// maxDepth is how deep descriptors may nest.
	maxDepth = 16
	// maxErrors is how many mistakes are told at once.
	maxErrors = 10
	// maxCapacity is the largest burst: what a float64 counts exactly.
	maxCapacity = 1 << 53
)

// Error is one mistake in a limits file. Line and Column count from 1.
type Error struct {
	Line, Column int
	Message      string
}

func (e *Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Message) }

// Options loosen what a file may say.
type Options struct {
	// AnyKeys accepts every key, domain and path, as envoyproxy/ratelimit does. Without
	// it only keys that our Envoy sends are accepted.
	AnyKeys bool
}

// Parse reads the text of a limits file. The error joins an *Error for each mistake,
// the first ten.
func Parse(text []byte) (*Set, error) { return ParseWith(text, Options{}) }

// ParseWith is Parse with options.
func ParseWith(text []byte, o Options) (*Set, error) {
	if len(text) > maxFile {
		return nil, &Error{Line: 1, Column: 1, Message: fmt.Sprintf("the file has %d bytes, at most %d are read", len(text), maxFile)}
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntax(err)
	}
	p := reader{options: o, set: &Set{}, names: map[string]*token.Token{}}
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
		return nil, &Error{Line: 1, Column: 1, Message: "the file is empty; it needs a domain and descriptors"}
	}
	p.file(body)
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return p.set, nil
}

// syntax keeps the position of a YAML error and drops the excerpt that goes with it.
func syntax(err error) error {
	if y, ok := errors.AsType[yaml.Error](err); ok && y.GetToken() != nil && y.GetToken().Position != nil {
		return &Error{Line: y.GetToken().Position.Line, Column: y.GetToken().Position.Column, Message: y.GetMessage()}
	}
	return &Error{Line: 1, Column: 1, Message: err.Error()}
}

type reader struct {
	options Options
	set     *Set
	names   map[string]*token.Token // rule names taken
	errs    []error
}

func (p *reader) fail(at *token.Token, format string, args ...any) {
	if len(p.errs) >= maxErrors {
		return
	}
	e := &Error{Line: 1, Column: 1, Message: fmt.Sprintf(format, args...)}
	if at != nil && at.Position != nil {
		e.Line, e.Column = at.Position.Line, at.Position.Column
	}
	p.errs = append(p.errs, e)
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
	if f, ok := m["descriptors"]; ok {
		p.descriptors(f, &p.set.root, trail{})
	}
}

// trail is the way from the root to a descriptor.
type trail struct {
	path   Path     // keys, with the values Envoy knows beforehand
	full   []string // key or key_value, for the rule's Path
	shared []string
	owned  bool // some key names a caller
}

func (t trail) add(key, value, shared string) trail {
	fixed := PathKey{Key: key}
	name := key
	if key == keyCount || key == keyRoute && !strings.HasSuffix(value, "*") {
		fixed.Value = value
	}
	if value != "" {
		name += "_" + value
	}
	return trail{path: append(slices.Clone(t.path), fixed), full: append(slices.Clone(t.full), name),
		shared: append(slices.Clone(t.shared), shared), owned: t.owned || owner(key)}
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
		p.descriptor(item, at, way)
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
	shared := ""
	if p.flag(m["share_threshold"]) {
		if shared = value; !strings.HasSuffix(value, "*") {
			p.fail(m["share_threshold"].at(), "share_threshold needs a value that ends with *")
		}
	}
	p.flag(m["detailed_metric"])
	p.flag(m["value_to_metric"])
	if p.flag(m["quota_mode"]) {
		p.fail(m["quota_mode"].at(), "quota_mode is not supported; shadow_mode counts without refusing")
	}
	next, ok := at.enter(key, value)
	if !ok {
		p.fail(m["key"].at(), "a second descriptor for %s at this level", strings.TrimSuffix(key+": "+value, ": "))
		return
	}
	way = way.add(key, value, shared)
	p.rule(m, next, way)
	if f, ok := m["descriptors"]; ok {
		p.descriptors(f, next, way)
	}
}

// enter is the node for a key and value, or false when there is one already.
func (n *node) enter(key, value string) (*node, bool) {
	i := slices.IndexFunc(n.keys, func(k keyNode) bool { return k.key == key })
	if i < 0 {
		n.keys = append(n.keys, keyNode{key: key, values: map[string]*node{}})
		i = len(n.keys) - 1
	}
	k, next := &n.keys[i], &node{}
	prefix, isPrefix := strings.CutSuffix(value, "*")
	switch {
	case value == "" && k.any == nil:
		k.any = next
	case isPrefix && !slices.ContainsFunc(k.prefixes, func(p prefixNode) bool { return p.prefix == prefix }):
		k.prefixes = append(k.prefixes, prefixNode{prefix: prefix, node: next})
	case value != "" && !isPrefix && k.values[value] == nil:
		k.values[value] = next
	default:
		return nil, false
	}
	return next, true
}

func (p *reader) rule(m map[string]field, at *node, way trail) {
	f, ok := m["rate_limit"]
	if !ok || f.null() {
		if meta, ok := m["metadata"]; ok {
			p.fail(meta.at(), "metadata without rate_limit does nothing")
		}
		return
	}
	r := &Rule{Path: strings.Join(way.full, "."), Shared: !way.owned, Shadow: p.flag(m["shadow_mode"])}
	if slices.ContainsFunc(way.shared, func(s string) bool { return s != "" }) {
		r.shared = way.shared
	}
	if way.path[0] == (PathKey{Key: keyCount, Value: Tokens.String()}) {
		r.Unit = Tokens
	}
	if !p.rateLimit(f, r) || !p.policy(m, r) {
		return
	}
	r.Name = cmp.Or(r.Name, r.Path)
	at.rule = r
	p.set.rules = append(p.set.rules, r)
	p.set.addPath(way.path)
}

func (p *reader) rateLimit(f field, r *Rule) bool {
	m, ok := p.mapping(f.value, "rate_limit", "name", "unit", "requests_per_unit", "unlimited", "replaces")
	if !ok {
		return false
	}
	r.Name = p.text(m["name"])
	p.uniqueName(m["name"], r.Name)
	r.Unlimited = p.flag(m["unlimited"])
	r.Replaces = p.replaces(m["replaces"], r.Name)
	unit, stated := m["unit"]
	switch {
	case r.Unlimited && stated:
		p.fail(unit.at(), "an unlimited rule has no unit")
		return false
	case r.Unlimited:
		return true
	case !stated:
		p.fail(f.at(), "rate_limit needs a unit: %s", strings.Join(periodNames(), ", "))
		return false
	}
	name := strings.ToLower(p.text(unit))
	if r.Period = period(name); r.Period == 0 {
		p.fail(unit.at(), "unknown unit %q%s; one of %s", name, meant(name, periodNames()), strings.Join(periodNames(), ", "))
		return false
	}
	if f, ok := m["requests_per_unit"]; (!ok || f.null()) && !p.options.AnyKeys {
		p.fail(cmp.Or(f.at(), unit.at()), "rate_limit needs requests_per_unit; 0 refuses everything")
		return false
	}
	n, ok := p.number(m["requests_per_unit"], 0, math.MaxUint32)
	r.PerPeriod, r.Capacity = uint32(n), n
	return ok
}

func (p *reader) uniqueName(f field, name string) {
	if name == "" {
		return
	}
	if strings.ContainsAny(name, "\"\\\r\n\x00") || !ascii(name) || len(name) > 128 {
		p.fail(f.at(), "the name goes into headers: at most 128 printable ASCII characters without quotes and backslashes")
		return
	}
	if taken := p.names[name]; taken != nil && !p.options.AnyKeys {
		p.fail(f.at(), "the name %q is taken by the rule on line %d", name, taken.Position.Line)
		return
	}
	p.names[name] = f.at()
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func (p *reader) replaces(f field, own string) []string {
	if f.null() {
		return nil
	}
	list, ok := f.value.(*ast.SequenceNode)
	if !ok {
		p.fail(f.at(), "replaces must be a list of {name: ...}")
		return nil
	}
	var names []string
	for _, item := range list.Values {
		m, ok := p.mapping(item, "an entry of replaces", "name")
		if !ok {
			continue
		}
		switch name := p.text(m["name"]); name {
		case "":
			p.fail(item.GetToken(), "an entry of replaces needs a name")
		case own:
			p.fail(m["name"].at(), "a rule cannot replace itself")
		default:
			names = append(names, name)
		}
	}
	return names
}

// period is the length of upstream's unit, 0 for an unknown one.
func period(name string) time.Duration {
	const day = 24 * time.Hour
	switch name {
	case "second":
		return time.Second
	case "minute":
		return time.Minute
	case "hour":
		return time.Hour
	case "day":
		return day
	case "week":
		return 7 * day
	case "month":
		return 30 * day
	case "year":
		return 365 * day
	}
	return 0
}

func periodNames() []string {
	return []string{"second", "minute", "hour", "day", "week", "month", "year"}
}
