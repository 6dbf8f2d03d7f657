package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// pictures is a chat body with so many pictures by URL.
func pictures(n int) string {
	part := `{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}`
	return `{"model":"gpt-4o","max_tokens":10,"messages":[{"role":"user","content":[` + strings.TrimSuffix(strings.Repeat(part+",", n), ",") + `]}]}`
}

// cheap makes the pictures of a body ones in low detail, for a model whose price is that.
func cheap(body string) string {
	return strings.NewReplacer(`"gpt-4o"`, `"gpt-4o-cheap"`, `a.png"`, `a.png","detail":"low"`).Replace(body)
}

// served makes 30 calls at once and sums what the provider says that they took.
func served(t *testing.T, who stacktest.Account, body string) (tokens int64, calls int) {
	t.Helper()
	var mu sync.Mutex
	var running sync.WaitGroup
	for range 30 {
		running.Go(func() {
			a, err := tryRequest(t.Context(), "POST", "/v1/chat/completions", who.Key, body)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			switch a.status {
			case http.StatusOK:
				var answer struct {
					Usage struct {
						Total int64 `json:"total_tokens"`
					}
				}
				a.into(t, &answer)
				tokens, calls = tokens+answer.Usage.Total, calls+1
			case http.StatusTooManyRequests:
			default:
				t.Errorf("want 200 or 429, got %d %s", a.status, a.text)
			}
		})
	}
	running.Wait()
	return tokens, calls
}

// TestPicturesStayWithinThePool: the provider bills each picture, and the body only names them.
func TestPicturesStayWithinThePool(t *testing.T) {
	t.Parallel()
	const bought = 5000
	who := newAccount(t)
	buy(t, who, "openai", bought)
	if tokens, calls := served(t, who, pictures(8)); tokens > bought || calls > 0 {
		t.Errorf("eight pictures may take more than the pool: want no call served, got %d with %d tokens", calls, tokens)
	}
	tokens, calls := served(t, who, pictures(1))
	if tokens > bought || calls == 0 {
		t.Errorf("want at most %d tokens served and some, got %d in %d calls", bought, tokens, calls)
	}
	other := newAccount(t)
	buy(t, other, "openai", bought)
	if tokens, calls := served(t, other, cheap(pictures(8))); tokens > bought || tokens < bought/2 {
		t.Errorf("of calls with eight pictures in low detail: want at most %d tokens served and most of them, got %d in %d calls", bought, tokens, calls)
	}
	testenv.Eventually(t, "the live balance is what is left", func() bool {
		return quotaOf(t, who, "?provider=openai").RemainingTokens == bought-tokens
	})
}

// TestAPictureIsHeldAtItsPrice and not at its four million bytes of base64.
func TestAPictureIsHeldAtItsPrice(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	body := strings.Replace(pictures(1), "https://example.com/a.png", "data:image/png;base64,"+strings.Repeat("A", 4_000_000), 1)
	a := request(t, "POST", "/v1/chat/completions", who.Key, body)
	if held, err := strconv.Atoi(a.header.Get("x-leaky-hold")); a.status != http.StatusOK || err != nil || held > 2000 {
		t.Errorf("want the picture taken and 2000 tokens held at most, got %d %s held of %.200s", a.status, a.header.Get("x-leaky-hold"), a.text)
	}
}

// TestAPartWithoutABoundIsRefused with 400 and by its name.
func TestAPartWithoutABoundIsRefused(t *testing.T) {
	t.Parallel()
	a := request(t, "POST", "/v1/chat/completions", newAccount(t).Key,
		`{"model":"gpt-4o","max_tokens":10,"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}}]}]}`)
	if a.status != http.StatusBadRequest || !strings.Contains(a.text, `"part_not_accepted"`) || !strings.Contains(a.text, "file") ||
		a.header.Get("x-should-retry") != "false" {
		t.Errorf("want 400 that names the file, got %d %v %s", a.status, a.header, a.text)
	}
}
