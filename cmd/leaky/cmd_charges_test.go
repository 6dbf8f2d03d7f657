package main

import (
	"strings"
	"testing"
	"time"
)

// TestSecondTriesAreMarked: two charges that are alike and near each other, and nothing else.
func TestSecondTriesAreMarked(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC)
	call := func(id, key string, input int64, after time.Duration) charge {
		return charge{At: begin.Add(after), What: "call", ID: id, Key: key, Provider: "openai", Model: "gpt-4o", Status: "200", Input: input,
			Tokens: input + 20}
	}
	purchase := charge{At: begin.Add(time.Second), What: "purchase", ID: "p", Provider: "openai", Status: "COMPLETED", Tokens: 10}
	later := purchase
	later.ID, later.At = "p2", begin.Add(3*time.Second)
	refused := call("b", "k", 10, time.Second)
	refused.Tokens, refused.Reason = 0, "rate_limited"
	left := call("b", "k", 10, time.Second)
	left.Source, left.Reason = "estimated", "client_disconnected"
	for name, c := range map[string]struct {
		charges []charge
		note    string // of the newest
	}{
		"alone":             {[]charge{call("a", "k", 10, 0)}, ""},
		"by one key":        {[]charge{call("b", "k", 10, 1500*time.Millisecond), call("a", "k", 10, 0)}, "AGAIN: like a, 1.5 s later, by the same key"},
		"by two keys":       {[]charge{call("a", "k", 10, 0), call("b", "other", 10, time.Second)}, "AGAIN: like a, 1.0 s later, by another key"},
		"a longer question": {[]charge{call("a", "k", 10, 0), call("b", "k", 11, time.Second)}, ""},
		"a minute later":    {[]charge{call("a", "k", 10, 0), call("b", "k", 10, time.Minute)}, ""},
		"refused":           {[]charge{call("a", "k", 10, 0), refused}, "rate_limited"},
		"left":              {[]charge{call("a", "k", 10, 0), left}, "estimated: client_disconnected; AGAIN: like a, 1.0 s later, by the same key"},
		"two orders":        {[]charge{later, purchase}, "AGAIN: like p, 2.0 s later, by another purchase"},
		"a call between":    {[]charge{call("a", "k", 10, 0), call("x", "k", 99, 1), call("b", "k", 10, 2)}, "AGAIN: like a, 0.0 s later, by the same key"},
	} {
		alike(c.charges)
		if got := c.charges[len(c.charges)-1].note(); got != c.note {
			t.Errorf("%s: want %q, got %q", name, c.note, got)
		}
	}
}

func TestChargesRefuseWhatIsNoTime(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{"--since yesterday": "--since: \"yesterday\" is no time", "--limit 0": "--limit 0: it must be 1 to 200"} {
		_, errs, ok := leaky(t, stateDir(t), nil, append([]string{"charges", "ann"}, strings.Fields(args)...)...)
		if ok || !strings.Contains(errs, want) {
			t.Errorf("%s: want %q, got %q", args, want, errs)
		}
	}
}
