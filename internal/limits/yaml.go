package limits

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
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
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		var at *token.Token
		if n != nil {
			at = n.GetToken()
		}
		p.fail(at, "%s must be a mapping%s", what, reference(n))
		return nil, false
	}
	m, good := make(map[string]field, len(pairs)), true
	for _, pair := range pairs {
		key, ok := scalar(pair.Key)
		switch _, twice := m[key]; {
		case !ok:
			p.fail(pair.Key.GetToken(), "a key of %s must be plain text%s", what, reference(pair.Key))
			good = false
		case !slices.Contains(known, key):
			p.fail(pair.Key.GetToken(), "unknown key %q in %s%s", key, what, meant(key, known))
			good = false
		case twice:
			p.fail(pair.Key.GetToken(), "key %q is there twice", key)
			good = false
		}
		m[key] = field{key: pair.Key.GetToken(), value: pair.Value}
	}
	return m, good
}

// reference explains the YAML features this reader leaves out: they let a short file
// expand into an endless one.
func reference(n ast.Node) string {
	switch n.(type) {
	case *ast.AliasNode, *ast.AnchorNode, *ast.MergeKeyNode:
		return "; anchors and aliases are not read"
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
	b, ok := f.value.(*ast.BoolNode)
	if !ok {
		p.fail(f.at(), "%s must be true or false", f.key.Value)
		return false
	}
	return b.Value
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

// meant suggests the nearest of the known words, if one is near.
func meant(word string, known []string) string {
	best, at := "", 3
	for _, k := range known {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), k); d < at && d < len(k) {
			best, at = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
