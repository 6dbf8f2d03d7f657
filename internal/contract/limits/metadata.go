package limits

import (
	"github.com/goccy/go-yaml/ast"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// policyKey is the one key of metadata that is ours; all others are the writer's own.
const policyKey = "rate_limit_policy"

// metadata reads what a rule of another domain returns to its Envoy: any mapping. Our own
// key is left out. It warns at a near miss of that, which would silently be data.
func (p *reader) metadata(m map[string]field) map[string]any {
	f, ok := m["metadata"]
	if !ok || f.null() {
		return nil
	}
	pairs, ok := p.pairs(f.value, "metadata")
	if !ok {
		return nil
	}
	out := map[string]any{}
	for _, pair := range pairs {
		key, ok := scalar(pair.Key)
		if !ok {
			p.fail(pair.Key.GetToken(), "a key of metadata must be plain text")
			continue
		}
		if key == policyKey {
			continue
		}
		if near := wording.DidYouMean(key, []string{policyKey}); near != "" {
			p.warn(pair.Key.GetToken(), "metadata %q is passed on to Envoy and changes no limit%s", key, near)
		}
		out[key] = p.any(pair.Value, 0)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// any reads a value of metadata as JSON has it.
func (p *reader) any(n ast.Node, depth int) any {
	if depth > maxDepth {
		p.fail(n.GetToken(), "metadata nests deeper than %d", maxDepth)
		return nil
	}
	if p.size++; p.size > maxMappings {
		if p.size == maxMappings+1 {
			p.fail(n.GetToken(), "with its aliases the file comes to more than %d mappings", maxMappings)
		}
		return nil
	}
	switch n := p.value(n).(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		pairs, _ := p.pairs(n, "metadata")
		out := make(map[string]any, len(pairs))
		for _, pair := range pairs {
			key, ok := scalar(pair.Key)
			if !ok {
				p.fail(pair.Key.GetToken(), "a key of metadata must be plain text")
				continue
			}
			out[key] = p.any(pair.Value, depth+1)
		}
		return out
	case *ast.SequenceNode:
		out := make([]any, len(n.Values))
		for i, one := range n.Values {
			out[i] = p.any(one, depth+1)
		}
		return out
	case *ast.BoolNode:
		return n.Value
	case *ast.FloatNode:
		return n.Value
	case *ast.IntegerNode:
		switch v := n.Value.(type) {
		case int64:
			return float64(v)
		case uint64:
			return float64(v)
		}
		return n.Token.Value
	case ast.ScalarNode:
		text, ok := scalar(n)
		if !ok {
			return nil
		}
		return text
	}
	return nil
}
