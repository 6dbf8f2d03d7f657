package wording_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"tiers", "stores", "providers", "gateway", "tls", "limits"}
	for word, want := range map[string]string{
		"tires": "tiers", "teirs": "tiers", "store": "stores", "Gateway": "gateway", "gatway": "gateway", "provider": "providers",
		"tsl": "tls", "limit": "limits", "": "", "xyz": "", "completely": "", strings.Repeat("t", 1<<20): "", "ti\xffers": "tiers",
	} {
		if got := wording.Nearest(word, known); got != want {
			t.Errorf("%.20q: want %q, got %q", word, want, got)
		}
	}
}

func TestTypesAreCalledAsPeopleCallThem(t *testing.T) {
	t.Parallel()
	var n *int64
	for _, c := range []struct {
		value any
		want  string
	}{
		{n, "a whole number"}, {uint8(1), "a whole number"}, {1.5, "a number"}, {"", "a text"}, {true, "true or false"}, {[]int{}, "a list"},
		{map[string]int{}, "a mapping of keys to values"}, {struct{}{}, "a mapping of keys to values"}, {time.Second, "a duration, such as 500ms, 30s, 10m or 1h"},
		{&time.Time{}, "an RFC 3339 date-time"},
	} {
		if got := wording.Type(reflect.TypeOf(c.value)); got != c.want {
			t.Errorf("%T: want %q, got %q", c.value, c.want, got)
		}
	}
}
