package ratelimit

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/wire"
)

// BenchmarkRemember is what keeping a decision for explain adds to it.
func BenchmarkRemember(b *testing.B) {
	s := benchService(b)
	s.memory.ring = make([]recalled, 2000)
	d := s.enterEnvoy(s.policy.Load(), &grpcbatch.Call{Method: wire.Method, Message: message(b, llmRequest())})
	d.taken = store.Taken{Outcome: store.Admitted, States: make([]bucket.State, len(d.matched.Limits))}
	b.ReportAllocs()
	for b.Loop() {
		s.remember(&d.admission)
	}
}
