package e2e

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestChargesOfAnyAnswer generates answers, told in any way and cut anywhere by the provider or
// by the client, and holds what is charged to what was told: exactly where that covers what
// passed, and otherwise no less than it and no more than was held beside it.
func TestChargesOfAnyAnswer(t *testing.T) {
	t.Parallel()
	accounts := make([]stacktest.Account, 15)
	for i := range accounts {
		accounts[i] = newAccount(t)
	}
	var workers sync.WaitGroup
	for worker, who := range accounts {
		workers.Go(func() {
			for n := range uint64(10) {
				chargeAny(t, who, uint64(worker)<<32+n)
			}
		})
	}
	workers.Wait()
}

func chargeAny(t *testing.T, who stacktest.Account, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 23))
	a := rawprovider.Generate(r)
	body := `{"model":"raw1","max_tokens":500,"messages":[{"role":"user","content":"Hello"}]}`
	if a.Stream {
		body = strings.Replace(body, `,"messages"`, `,"stream":true,"stream_options":{"include_usage":true},"messages"`, 1)
	}
	script, until := a.Script, func(string) bool { return false }
	if r.IntN(3) == 0 { // the client leaves when it has read everything that the provider sends so far
		script, until = rawprovider.Script(script, rawprovider.Wait(20*time.Second)), func(text string) bool { return len(text) == a.Length }
	}
	got := callRaw(t.Context(), t, who, chatPath, body, script, until)
	if got.status != 200 {
		t.Errorf("seed %d: want 200, got %+v", seed, got)
		return
	}
	held, err := strconv.ParseInt(got.header.Get("x-leaky-hold"), 10, 64)
	if err != nil {
		t.Errorf("seed %d: no hold: %v", seed, got.header)
	}
	row := booked(t, who, "raw", got.request)
	told := fmt.Sprintf("seed %d: told %d and %d, %d events after, cut %t, held %d", seed, a.In, a.Out, a.After, a.Cut, held)
	switch {
	case a.Counted():
		if row.InputTokens != a.In || row.OutputTokens != a.Out || row.Tokens != a.In+a.Out || row.Source != "provider" {
			t.Errorf("%s: want that charged, got %+v", told, row)
		}
	// Of the events after usage the gateway notes two thirds at least, without writing for each.
	case row.Source != "estimated" || row.Tokens < max(1, a.In)+a.Out+a.After*2/3 || row.Tokens > held+a.In+a.Out+a.After:
		t.Errorf("%s: want an estimate between what passed and what was held beside it, got %+v", told, row)
	}
}

// TestAClientThatClosesAtDone, as OpenAI's Python SDK does, is charged what it was told, though
// the provider ends its answer up to 50 ms later.
func TestAClientThatClosesAtDone(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	const streams, workers = 200, 8
	var sum int64
	var mu sync.Mutex
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() {
			for n := range streams / workers {
				in, out := int64(10+worker), int64(1+n*worker)
				script := rawprovider.Script(rawprovider.Send(rawprovider.SSE), rawprovider.Send(`data: {"choices":[{"delta":{"content":"word"}}]}`+"\n\n"),
					rawprovider.Send(fmt.Sprintf(`data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}`+"\n\ndata: [DONE]\n\n", in, out)),
					rawprovider.Wait(time.Duration(n%6)*10*time.Millisecond))
				got := callRaw(t.Context(), t, who, chatPath, `{"model":"raw1","max_tokens":500,"stream":true,"messages":[{"role":"user","content":"Hello"}]}`,
					script, reading("[DONE]\n\n"))
				if got.status != 200 || strings.Contains(got.text, "prompt_tokens") {
					t.Errorf("want 200 and no usage that the caller did not ask for, got %+v", got)
				}
				mu.Lock()
				sum += in + out
				mu.Unlock()
			}
		})
	}
	all.Wait()
	wantBooks(t, who, "raw", streams, sum)
}

// wantBooks waits for so many calls of an account on the books, and wants each charged by the
// provider's count and their sum to the token.
func wantBooks(t *testing.T, who stacktest.Account, provider string, calls int, sum int64) {
	t.Helper()
	var all []usage
	testenv.Eventually(t, fmt.Sprintf("%d calls on the books", calls), func() bool {
		all = listed(t, who, provider)
		return len(all) >= calls
	})
	for _, row := range all {
		if sum -= row.Tokens; row.Source != "provider" {
			t.Errorf("want the provider's count, got %+v", row)
		}
	}
	if sum != 0 || len(all) != calls {
		t.Errorf("want %d calls whose sum is the provider's, got %d, and %d tokens were not charged", calls, len(all), sum)
	}
}
