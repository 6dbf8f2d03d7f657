package analytics

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestOldCallsAreDropped(t *testing.T) {
	t.Parallel()
	url, now := testenv.ClickHouse(t), time.Now()
	var store *Store
	for i, keep := range []int{0, 30, 7, 7} { // changed from start to start
		var err error
		if store, err = NewStore(StoreConfig{URL: url, Timeout: 30 * time.Second, KeepDays: keep, RollupDays: 30, Log: quiet()}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		if err := store.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			insert(t, store, event("old", alice, "openai", now.Add(-10*day), 1), event("kept", alice, "openai", now.Add(-5*day), 2))
		}
	}
	store.settleFor = 0
	if err := store.retain(t.Context()); err != nil || store.dropping.Load() {
		t.Errorf("want nothing dropped that there are no sums of, got %v", err)
	}
	if n, err := store.RollUp(t.Context()); err != nil || n == 0 {
		t.Fatalf("want sums of both days, got %d, %v", n, err)
	}
	if err := store.retain(t.Context()); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the old call gone", func() bool {
		if err := store.conn.Exec(t.Context(), "OPTIMIZE TABLE usage FINAL"); err != nil {
			t.Fatal(err)
		}
		left, err := store.latest(t.Context(), everything(now), 10)
		return err == nil && len(left) == 1 && left[0].RequestID == "kept"
	})
	if got, err := store.Totals(t.Context(), everything(now), 1); err != nil || got.Events != 2 || got.Tokens != 3 {
		t.Errorf("want the sums to keep both, got %+v, %v", got, err)
	}
}
