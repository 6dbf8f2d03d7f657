package main

import (
	"strings"
	"testing"
)

func TestReportsAreFolded(t *testing.T) {
	t.Parallel()
	words := strings.TrimSpace(strings.Repeat("nine char ", 11))
	for in, want := range map[string]string{
		"short\n\n":            "short\n\n",
		"| " + words + " |\n":  "| " + words + " |\n",
		words + "\n":           words[:99] + "\n" + words[100:] + "\n",
		"- " + words + "\n":    "- " + words[:94] + "\n  " + words[95:] + "\n",
		words[:99] + "\nend\n": words[:99] + "\nend\n",
	} {
		if got := fold(in); got != want {
			t.Errorf("want\n%s, got\n%s", want, got)
		}
	}
}
