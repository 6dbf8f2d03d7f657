package meter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTagsOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]string{
		"":                                    nil,
		"project=apollo":                      {"project": "apollo"},
		"a=1%2C2&b=x%26y":                     {"a": "1,2", "b": "x&y"},
		"Project=x&a.b=y&=z&_a=q":             nil,
		"a=&b=%0A&c=%ff&d=%zz":                nil,
		"a=" + strings.Repeat("x", 129):       nil,
		"a=1&b=2&c=3&d=4&e=5&f=6&g=7&h=8&i=9": {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6", "g": "7", "h": "8"},
	} {
		if diff := cmp.Diff(want, tagsOf(text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestLabelOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "customer 7": "customer 7", "a\nb": "", "\xff": "", strings.Repeat("x", 129): ""} {
		if got := labelOf(text); got != want {
			t.Errorf("%q: want %q, got %q", text, want, got)
		}
	}
}
