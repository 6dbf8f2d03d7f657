package limits_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

func TestBudget(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ path, unit, whose string }{
		{"org", "day", "org"},
		{"org provider", "month", "org"},
		{"org team", "week", "team"},
		{"team org", "week", "team"},
		{"org", "hour", ""},
		{"org user", "day", ""},
		{"team key", "day", ""},
		{"provider", "day", ""},
	} {
		text := fmt.Sprintf("rate_limit: {unit: %s, requests_per_unit: 10}\n", tc.unit)
		keys := strings.Fields(tc.path)
		for i := len(keys) - 1; i >= 0; i-- {
			text = "descriptors:\n- key: " + keys[i] + "\n" + deeper(text)
		}
		text = "domain: leaky\ndescriptors:\n- key: count\n  value: tokens\n" + deeper(text)
		set, err := limits.Parse([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v\n%s", tc.path, err, text)
		}
		if got := set.Rules()[0].Budget(); got != tc.whose {
			t.Errorf("%s by the %s: want %q, got %q", tc.path, tc.unit, tc.whose, got)
		}
	}
}

// deeper puts a block of YAML below another.
func deeper(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
}
