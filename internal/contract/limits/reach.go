package limits

import (
	"maps"
	"slices"
	"strings"
)

// Reach says how far a descriptor gets that Match has no rule for: how many of its
// entries are known, and what the file knows there instead: keys, or "key=value" and
// "key=prefix*" where the key is right and the value is not. At the end of the entries
// it is what could follow.
func (s *Set) Reach(entries []Entry) (depth int, known []string) {
	at := &s.root
	for _, e := range entries {
		next := at.find(e)
		if next == nil {
			break
		}
		at = next
		depth++
	}
	var wrong string
	if depth < len(entries) {
		wrong = entries[depth].Key
	}
	for _, k := range at.keys {
		if k.key == wrong {
			return depth, append(k.choices(), at.patternsOf(k.key)...)
		}
		known = append(known, k.key)
	}
	if choices := at.patternsOf(wrong); len(choices) > 0 {
		return depth, choices
	}
	for _, p := range at.patterns {
		if !slices.Contains(known, p.key) {
			known = append(known, p.key)
		}
	}
	return depth, known
}

func (k keyNode) choices() []string {
	var all []string
	for _, value := range slices.Sorted(maps.Keys(k.values)) {
		all = append(all, k.key+"="+value)
	}
	return all
}

// patternsOf are the values with wildcards of a key.
func (n *node) patternsOf(key string) []string {
	var all []string
	for _, p := range n.patterns {
		if p.key == key && !p.wild {
			all = append(all, key+"="+strings.Join(p.parts, "*"))
		}
	}
	return all
}
