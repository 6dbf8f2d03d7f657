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
	for _, keep := range []int{0, 30, 7, 7} { // changed from start to start
		var err error
		if store, err = NewStore(StoreConfig{URL: url, Timeout: 30 * time.Second, KeepDays: keep, Log: quiet()}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		if err := store.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	insert(t, store, event("old", alice, "openai", now.Add(-10*day), 1), event("kept", alice, "openai", now.Add(-5*day), 2))
	testenv.Eventually(t, "the old call gone", func() bool {
		if err := store.conn.Exec(t.Context(), "OPTIMIZE TABLE usage FINAL"); err != nil {
			t.Fatal(err)
		}
		got, err := store.Totals(t.Context(), everything(now), 1)
		return err == nil && got.Events == 1 && got.Tokens == 2
	})
}
