package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

// hundred is a call that uses 100 tokens: a prompt of 200 bytes (50 tokens) and 50 tokens of answer. Of
// its provider nobody learns by other calls that an input takes less than is held for it.
func hundred(statesMaximum bool) string {
	prompt := "[[tokens=50]]" + strings.Repeat("x", 200-len("[[tokens=50]]"))
	body := map[string]any{"model": "apart1", "messages": []map[string]string{{"role": "user", "content": prompt}}}
	if statesMaximum {
		body["max_tokens"] = 50
	}
	text, _ := json.Marshal(body)
	return string(text)
}

// attempt sends the body once; a refusal says how long to wait.
func attempt(ctx context.Context, who stacktest.Account, body string) (status int, wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, running.Gateway+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+who.Key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, 0, err
	}
	ms, _ := strconv.Atoi(res.Header.Get("retry-after-ms"))
	return res.StatusCode, time.Duration(ms) * time.Millisecond, nil
}

// TestExactButNotStingy sends 32 calls at once that each really use 100 tokens into a
// bucket with room for 1000 that practically never leaks: ten pass, never eleven.
func TestExactButNotStingy(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name          string
		statesMaximum bool
		firstWave     int
	}{
		{"max_tokens stated", true, 8},
		{"max_tokens filled in", false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t, "TINY")
			body := hundred(tc.statesMaximum)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var mu sync.Mutex
			var first, passed int
			var wg sync.WaitGroup
			start := make(chan struct{})
			for range 32 {
				wg.Go(func() {
					<-start
					for try := 0; ; try++ {
						status, wait, err := attempt(ctx, who, body)
						mu.Lock()
						if err == nil && status == 200 {
							passed++
							if try == 0 {
								first++
							}
						}
						all := passed >= 10
						mu.Unlock()
						if status == http.StatusServiceUnavailable { // nobody could decide: neither passed nor refused
							status, wait = http.StatusTooManyRequests, 100*time.Millisecond
						}
						if err != nil || status != 429 || wait > 2*time.Second {
							return // passed, or told that waiting is of no use
						}
						if all {
							wait = 100 * time.Millisecond // one more try each: an eleventh must not pass
							if try > 40 {
								return
							}
						}
						select {
						case <-ctx.Done():
							return
						case <-time.After(wait):
						}
					}
				})
			}
			close(start)
			wg.Wait()
			if passed != 10 {
				t.Errorf("want exactly 10 calls through, got %d", passed)
			}
			if first < tc.firstWave {
				t.Errorf("want at least %d in the first wave, got %d", tc.firstWave, first)
			}
		})
	}
}
