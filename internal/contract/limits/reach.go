package limits

import (
	"fmt"
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

// Why says in words why Match has no rule for a descriptor.
func (s *Set) Why(entries []Entry) string {
	depth, known := s.Reach(entries)
	there := "nothing"
	if len(known) > 0 {
		there = strings.Join(known, ", ")
	}
	switch {
	case len(entries) == 0:
		return "it has no entry"
	case depth == len(entries) && len(known) == 0:
		return "its path is in the file, without a rate_limit"
	case depth == len(entries):
		return "the path goes on with " + there + "; only a descriptor of a rule's whole path matches"
	case depth == 0:
		return fmt.Sprintf("the file begins with %s, not %s=%s", there, entries[0].Key, entries[0].Value)
	}
	last := entries[depth-1]
	return fmt.Sprintf("after %s=%s the file knows %s, not %s=%s", last.Key, last.Value, there, entries[depth].Key, entries[depth].Value)
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
