package limits

import "strings"

// pattern is a descriptor whose value, or in another domain whose key, has wildcards. Each
// * stands for any run of characters, also none.
type pattern struct {
	key   string   // of the descriptor; with wildcards it is matched together with the value
	parts []string // between the wildcards: of the value, or of "key_value" if the key has some
	wild  bool     // the key has wildcards
	node  *node
}

// wildcards reports whether text has any.
func wildcards(text string) bool { return strings.Contains(text, "*") }

// newPattern is the pattern of a descriptor, false if it has no wildcard.
func newPattern(key, value string) (pattern, bool) {
	switch {
	case wildcards(key) && value == "":
		return pattern{key: key, parts: strings.Split(key, "*"), wild: true}, true
	case wildcards(key):
		return pattern{key: key, parts: strings.Split(key+"_"+value, "*"), wild: true}, true
	case wildcards(value):
		return pattern{key: key, parts: strings.Split(value, "*")}, true
	}
	return pattern{}, false
}

// matches reports whether the pattern takes an entry. A key with wildcards is matched as
// envoyproxy/ratelimit does it, in one text with the value.
func (p *pattern) matches(e Entry) bool {
	if p.wild {
		return matchParts(p.parts, e.Key+"_"+e.Value)
	}
	return p.key == e.Key && matchParts(p.parts, e.Value)
}

// matchParts reports whether value is the parts with anything between them. The first part
// has to begin it and the last to end it; those between are found one after the other, the
// first place of each, which leaves most for the rest.
func matchParts(parts []string, value string) bool {
	first, last := parts[0], parts[len(parts)-1]
	if len(value) < len(first)+len(last) || !strings.HasPrefix(value, first) || !strings.HasSuffix(value, last) {
		return false
	}
	value = value[len(first) : len(value)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(value, part)
		if !found {
			return false
		}
		value = after
	}
	return true
}
