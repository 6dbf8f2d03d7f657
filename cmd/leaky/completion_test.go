package main

import (
	"slices"
	"strings"
	"testing"
)

// TestAShellIsToldHowALineGoesOn as bash asks with complete -C.
func TestAShellIsToldHowALineGoesOn(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{"leaky lim": "limits", "leaky restart tok": "tokensvc", "leaky serve an": "analytics",
		"leaky ps --out": "--output"} {
		out, _, ok := leaky(t, t.TempDir(), []string{"COMP_LINE=" + line, "COMP_POINT=100"})
		if !ok || !slices.Contains(strings.Fields(out), want) {
			t.Errorf("%q: want %s, got %q", line, want, out)
		}
	}
}
