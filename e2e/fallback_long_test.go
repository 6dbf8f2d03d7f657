//go:build long

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestFallbackAnswersForAProvider that is away in all ways there are, a thousand times: who asks gets
// an answer, the books show who was asked and who answered, and nothing stays held.
func TestFallbackAnswersForAProvider(t *testing.T) {
	const perAccount = 180 // of the 200 that one page of the books has
	modes := []string{"", `{"status":429}`, `{"status":402}`, `{"status":401}`, `{"status":503}`, `{"status":500}`}
	accounts := make([]stacktest.Account, len(modes))
	for i := range accounts {
		accounts[i] = newAccount(t, "VAST")
	}
	var all, failed, elsewhere int
	for i, mode := range modes {
		t.Run(fmt.Sprintf("away%s", mode), func(t *testing.T) {
			if mode != "" {
				startMoody(t, running.Away).behave(mode)
			}
			var mu sync.Mutex
			var callers sync.WaitGroup
			for caller := range 6 {
				callers.Go(func() {
					for n := range perAccount / 6 {
						a := callOf(t, accounts[i], "away1", (caller+n)%2 == 0)
						mu.Lock()
						all++
						switch {
						case a.status != 200 || a.text == "":
							failed++
							t.Logf("%d %s", a.status, a.text)
						case a.header.Get(attributes.HeaderServed) != "openai/gpt-4o-mini":
							elsewhere++
						}
						mu.Unlock()
					}
				})
			}
			callers.Wait()
		})
	}
	t.Logf("%d calls, %d failed", all, failed)
	if failed*1000 > all || elsewhere > 0 {
		t.Errorf("want 99.9 %% answered, and all by the fallback, got %d failed and %d from elsewhere of %d", failed, elsewhere, all)
	}
	for _, who := range accounts {
		testenv.Eventually(t, "every call in the books", func() bool {
			var page struct{ Items []usage }
			mustCall(t, 200, "GET", "/api/v1/analytics/usage?provider=openai&limit=200", who.Key, nil, &page)
			for _, row := range page.Items {
				if row.Model != "away1" || row.Allowed && !strings.HasPrefix(row.ModelServed, "gpt-4o-mini") {
					t.Fatalf("want away1 asked and gpt-4o-mini served, got %+v", row)
				}
			}
			return len(page.Items) == perAccount
		})
		wantNoHolds(t, who)
	}
}
