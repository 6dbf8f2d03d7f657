package bucket_test

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// event is something that happens at a time in a simulation.
type event struct {
	at int64 // microseconds
	do func(now int64)
}

type agenda []event

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// wave is a crowd of callers at one bucket that does not leak.
type wave struct {
	fill, stated  float64 // stated > 0: max_tokens; else fill
	input, output float64 // what each call really uses
	duration      int64   // of a call, its settlement included, microseconds
	callers       int

	first  int // admitted in the first wave
	passed int // admitted in all
	cut    int // of those, how many had less than their output
	used   float64
	done   int64 // when the last that passed settled
}

// run simulates: who is refused comes back when told to; who is told never does not.
func (w *wave) run(capacity float64, seed uint64) {
	random := rand.New(rand.NewPCG(seed, seed))
	p, s := bucket.Params{Capacity: capacity}, bucket.State{}
	var a agenda
	var call func(now int64)
	call = func(now int64) {
		grant, fits := w.stated, p.Fits(s, w.input+w.stated)
		soon := 100_000 + random.Int64N(150_000)
		wait := p.Wait(s, w.input+w.stated, now, soon)
		if w.stated == 0 {
			grant, fits = p.Grant(s, w.input, w.fill)
			wait = p.WaitFill(s, w.input, w.fill, now, soon)
		}
		if !fits {
			if wait >= 0 && now < 60e6 {
				heap.Push(&a, event{at: now + wait, do: call})
			}
			return
		}
		if now == 0 {
			w.first++
		}
		w.passed++
		if grant < w.output {
			w.cut++
		}
		used := w.input + min(grant, w.output)
		s = s.Hold(w.input + grant)
		heap.Push(&a, event{at: now + w.duration, do: func(now int64) {
			s = s.Settle(w.input+grant, used)
			w.used += used
			w.done = now
		}})
	}
	for range w.callers {
		heap.Push(&a, event{do: call})
	}
	for a.Len() > 0 {
		e := heap.Pop(&a).(event)
		e.do(e.at)
	}
}

// TestExactIsNotStingy is the promise: 1000 tokens of room, 32 calls at once that each
// really use 100. Ten pass and never eleven; at least eight at once when max_tokens is
// stated, all ten within two seconds when it is not, with none of the answers cut.
func TestExactIsNotStingy(t *testing.T) {
	t.Parallel()
	for _, fill := range []float64{0, 75, 80, 128, 256, 512, 1024, 4096} {
		t.Run(fmt.Sprintf("fill %g", fill), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(200) {
				w := wave{fill: fill, input: 25, output: 75, duration: 250_000, callers: 32}
				if fill == 0 {
					w.stated = 75
				}
				w.run(1000, seed)
				if w.passed != 10 || w.used > 1000 || w.cut != 0 {
					t.Fatalf("seed %d: want 10 whole answers, got %d (%d cut) with %g tokens", seed, w.passed, w.cut, w.used)
				}
				if fill == 0 && w.first < 8 {
					t.Fatalf("seed %d: want at least 8 in the first wave, got %d", seed, w.first)
				}
				if w.done > 2_000_000 {
					t.Fatalf("seed %d: want all within 2 s, got %d us (%d in the first wave)", seed, w.done, w.first)
				}
			}
		})
	}
}
