package limits

import (
	"slices"
	"strings"
)

// Asks is the value, perhaps with wildcards, that the rule wants of an entry with a key; ok is
// false where it takes any value, or has no such entry.
func (r *Rule) Asks(key string) (value string, ok bool) {
	i := slices.IndexFunc(r.steps, func(s step) bool { return s.key == key && s.value != "" })
	if i < 0 {
		return "", false
	}
	return r.steps[i].value, true
}

// Takes reports whether a value with wildcards, as a file has it, takes a value of a request.
func Takes(pattern, value string) bool {
	if !wildcards(pattern) {
		return pattern == value
	}
	return matchParts(strings.Split(pattern, "*"), value)
}
