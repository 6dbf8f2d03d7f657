package ratelimit

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/llmcall"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// BenchmarkRemember is what keeping a decision for explain adds to it.
func BenchmarkRemember(b *testing.B) {
	s := benchService(b)
	s.memory.ring = make([]recalled, 2000)
	d := s.enterEnvoy(s.policy.Load(), message(b, llmcall.Request()), nil, false)
	d.taken = store.Taken{Outcome: store.Admitted, States: make([]bucket.State, len(d.matched.Limits))}
	b.ReportAllocs()
	for b.Loop() {
		s.remember(&d.admission)
	}
}
