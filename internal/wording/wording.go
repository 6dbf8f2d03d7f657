// Package wording says to people what is wrong with what they wrote: which known word they may
// have meant, and what kind of value belongs somewhere. It stands outside the request path but
// for refusals of control requests.
package wording

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
)

// Nearest is the known word that is nearest to one, if one is near: within a third of its length
// in edits, and never all letters. Empty: none. Two letters that changed places are one edit, as
// that is what fingers do.
func Nearest(word string, known []string) string {
	word = strings.ToLower(word)
	best, least := "", len(word)/3+2
	for _, k := range known {
		if d := distance(word, strings.ToLower(k)); d < least && d < len(k) {
			best, least = k, d
		}
	}
	return best
}

// DidYouMean is a hint to put behind a refusal, empty when nothing is near.
func DidYouMean(word string, known []string) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// longest word that is compared, in bytes: the cost is the square of it.
const longest = 100

func distance(word, known string) int {
	if len(word) > longest {
		return len(word)
	}
	least := levenshtein.ComputeDistance(word, known)
	for i := range len(word) - 1 {
		swapped := word[:i] + word[i+1:i+2] + word[i:i+1] + word[i+2:]
		least = min(least, 1+levenshtein.ComputeDistance(swapped, known))
	}
	return least
}

// Type is what a value of a Go type is called where people write it, with its article.
func Type(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "a duration, such as 500ms, 30s, 10m or 1h"
	case reflect.TypeFor[time.Time]():
		return "an RFC 3339 date-time"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return Type(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32,
		reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String:
		return "a text"
	case reflect.Slice, reflect.Array:
		return "a list"
	}
	return "a mapping of keys to values"
}

// Member says what is wrong with a member of a JSON text that has another type than it must have.
func Member(err *json.UnmarshalTypeError) string {
	return fmt.Sprintf("%s must be %s", err.Field, Type(err.Type))
}
