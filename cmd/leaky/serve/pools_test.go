package serve

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// TestWhatIsBoughtIsPrepaid, and what is granted is a quota of a day, unless leaky.yaml says otherwise.
func TestWhatIsBoughtIsPrepaid(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]ledger.Policy{
		"{}": {{Prepaid: true, Window: 24 * time.Hour}, {Window: 24 * time.Hour}},
		"pools: {refill: window, grant_refill: never, window: 1h}": {{Window: time.Hour}, {Prepaid: true, Window: time.Hour}},
	} {
		cfg, err := config.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]ledger.Policy{purchased(cfg.Pools)(), granted(cfg.Pools)()}; got != want {
			t.Errorf("%s: want %+v, got %+v", text, want, got)
		}
	}
}
