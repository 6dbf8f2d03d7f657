package limits

import (
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// field is one member of a mapping. The zero field is one that is not there.
type field struct {
	key   *token.Token
	value ast.Node
}

// at is where the value begins, or the key when there is none.
func (f field) at() *token.Token {
	if f.value != nil && f.value.GetToken() != nil && !f.null() {
		return f.value.GetToken()
	}
	return f.key
}

// null reports whether the field is absent or has no value.
func (f field) null() bool {
	if f.value == nil {
		return true
	}
	_, null := f.value.(*ast.NullNode)
	return null
}

// mapping reads a mapping whose keys are all known; what names it in errors.
func (p *reader) mapping(n ast.Node, what string, known ...string) (map[string]field, bool) {
	pairs, ok := p.pairs(n, what)
	if !ok {
		return nil, false
	}
	m, good := make(map[string]field, len(pairs)), true
	var merged []*ast.MappingValueNode
	for _, pair := range pairs {
		if _, merge := pair.Key.(*ast.MergeKeyNode); merge {
			merged = append(merged, pair)
			continue
		}
		key, ok := scalar(pair.Key)
		switch _, twice := m[key]; {
		case !ok:
			p.fail(pair.Key.GetToken(), "a key of %s must be plain text%s", what, reference(pair.Key))
			good = false
		case !slices.Contains(known, key):
			p.fail(pair.Key.GetToken(), "unknown key %q in %s%s", key, what, wording.DidYouMean(key, known))
			good = false
		case twice:
			p.fail(pair.Key.GetToken(), "key %q is there twice", key)
			good = false
		}
		m[key] = field{key: pair.Key.GetToken(), value: p.value(pair.Value)}
	}
	for _, pair := range merged {
		good = p.merge(m, pair, what, known) && good
	}
	return m, good
}

// pairs are the members of a mapping as written.
func (p *reader) pairs(n ast.Node, what string) ([]*ast.MappingValueNode, bool) {
	if p.size++; p.size > maxMappings {
		if p.size == maxMappings+1 {
			p.fail(n.GetToken(), "with its aliases the file comes to more than %d mappings", maxMappings)
		}
		return nil, false
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	var at *token.Token
	if n != nil {
		at = n.GetToken()
	}
	p.fail(at, "%s must be a mapping%s", what, reference(n))
	return nil, false
}

// merge adds the members of a merge key's mapping that are not there yet.
func (p *reader) merge(m map[string]field, pair *ast.MappingValueNode, what string, known []string) bool {
	if p.merges++; p.merges > maxMerges {
		p.merges--
		p.fail(pair.Key.GetToken(), "merge keys lead deeper than %d", maxMerges)
		return false
	}
	defer func() { p.merges-- }()
	from := []ast.Node{p.value(pair.Value)}
	if list, ok := from[0].(*ast.SequenceNode); ok {
		from = list.Values
	}
	good := true
	for _, n := range from {
		more, ok := p.mapping(p.value(n), what, known...)
		good = good && ok
		for key, f := range more {
			if _, there := m[key]; !there {
				m[key] = f
			}
		}
	}
	return good
}

// collect finds the file's anchors.
func (p *reader) collect(body ast.Node) {
	for _, n := range ast.Filter(ast.AnchorType, body) {
		anchor, ok := n.(*ast.AnchorNode)
		if !ok || anchor.Name == nil {
			continue
		}
		name := anchor.Name.GetToken().Value
		if p.anchors[name] != nil {
			p.fail(anchor.GetToken(), "the anchor %q is there twice", name)
			continue
		}
		p.anchors[name] = anchor
	}
}

// value is what stands behind anchors and aliases. Only an anchor above its alias counts.
func (p *reader) value(n ast.Node) ast.Node {
	for range maxDepth {
		switch at := n.(type) {
		case *ast.AnchorNode:
			n = at.Value
		case *ast.AliasNode:
			name := at.Value.GetToken()
			anchor := p.anchors[name.Value]
			if anchor == nil || anchor.GetToken().Position.Offset >= at.GetToken().Position.Offset {
				p.fail(at.GetToken(), "there is no anchor %q above", name.Value)
				return nil
			}
			n = anchor
		default:
			return n
		}
	}
	p.fail(n.GetToken(), "aliases lead deeper than %d", maxDepth)
	return nil
}

// reference explains what of YAML is not read.
func reference(n ast.Node) string {
	switch n.(type) {
	case *ast.AliasNode, *ast.AnchorNode:
		return "; anchors and aliases stand for values only"
	case *ast.TagNode:
		return "; tags are not read"
	}
	return ""
}

// scalar is the text of a scalar as written.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode:
		return n.Token.Value, true
	case *ast.FloatNode:
		return n.Token.Value, true
	case *ast.BoolNode:
		return n.Token.Value, true
	}
	return "", false
}

// text is a scalar, empty when absent.
func (p *reader) text(f field) string {
	if f.null() {
		return ""
	}
	s, ok := scalar(f.value)
	if !ok {
		p.fail(f.at(), "%s must be text%s", f.key.Value, reference(f.value))
	}
	return s
}

// flag is a boolean, false when absent.
func (p *reader) flag(f field) bool {
	if f.null() {
		return false
	}
	switch n := f.value.(type) {
	case *ast.BoolNode:
		return n.Value
	case *ast.StringNode:
		if n.Token.Type != token.StringType {
			break
		}
		switch strings.ToLower(n.Value) { // upstream's YAML is of version 1.1
		case "y", "yes", "on":
			return true
		case "n", "no", "off":
			return false
		}
	}
	p.fail(f.at(), "%s must be true or false", f.key.Value)
	return false
}

// number is a whole number in a range, 0 when absent.
func (p *reader) number(f field, least, most float64) (float64, bool) {
	if f.null() {
		return 0, true
	}
	n, ok := f.value.(*ast.IntegerNode)
	var value float64
	if ok {
		switch v := n.Value.(type) {
		case int64:
			value = float64(v)
		case uint64:
			value = float64(v)
		}
	}
	if !ok || value < least || value > most {
		p.fail(f.at(), "%s must be a whole number from %s to %s", f.key.Value, whole(least), whole(most))
		return 0, false
	}
	return value, true
}

func whole(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
