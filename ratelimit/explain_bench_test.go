package ratelimit

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// BenchmarkRemember is what keeping a decision for explain adds to it.
func BenchmarkRemember(b *testing.B) {
	s := benchService(b)
	s.memory.ring = make([]recalled, 2000)
	wire, err := proto.Marshal(llmRequest())
	if err != nil {
		b.Fatal(err)
	}
	var r request
	if err := r.parse(string(wire)); err != nil {
		b.Fatal(err)
	}
	d := s.prepare(s.policy.Load(), &r)
	taken := store.Taken{Outcome: store.Admitted, States: make([]bucket.State, len(d.limits))}
	b.ReportAllocs()
	for b.Loop() {
		s.remember(&d, taken, refused{})
	}
}
