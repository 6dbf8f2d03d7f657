package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

// TestManners: every manner comes, whatever the protocol; some are one protocol's alone.
func TestManners(t *testing.T) {
	t.Parallel()
	targets := []judge.Target{{Provider: "openai", Protocol: judge.ProtocolOpenAI, Path: "/v1/chat/completions", Models: []string{"m"}},
		{Provider: "gemini", Protocol: judge.ProtocolGemini, Models: []string{"g"}}}
	p := newPlanner(1, 1, targets, 0, 1)
	p.rude, p.firstByte = []judge.Protocol{judge.ProtocolOpenAI, judge.ProtocolGemini}, time.Second
	text, seen := filling(1), map[string]int{}
	for range 2000 {
		a := p.next()
		seen[a.manner.name]++
		if _, body := a.request(&targets[a.provider], text); strings.Count(string(body), `"image_url","image_url"`) != a.manner.pictures ||
			len(body) < a.manner.inline*a.manner.pictures {
			t.Fatalf("want %d pictures, got %.300s", a.manner.pictures, body)
		}
	}
	for _, name := range []string{politely, leavesAtEnd, leavesEarly, leavesMid, tiresOf, unanswered, timesOut, refuses, insideOut, cutsShort,
		breaksJSON, tellsNone, names} {
		if seen[name] == 0 {
			t.Errorf("no call is made in this manner: %s", name)
		}
	}
}
