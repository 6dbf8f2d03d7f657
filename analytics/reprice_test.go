package analytics

import (
	"fmt"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// priceList has one price, in units for a million input tokens.
func priceList(t *testing.T, currency, input string) *prices.Table {
	t.Helper()
	list, err := prices.Parse("prices.yaml", fmt.Appendf(nil, "version: x\ncurrency: %s\nprices:\n- {provider: openai, model: gpt-4o, from: 2020-01-01, per_million: {input: %s, output: 0}}\n",
		currency, input))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestARepriceMovesTheSumAndChangesNoRow(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Millisecond)
	store := openStore(t, testenv.ClickHouse(t))
	old := priceList(t, "USD", "2")
	var calls []usage.Event
	for i := range 10 {
		e := event(fmt.Sprint("r", i), alice, "openai", now, 2000) // 1000 of input
		if i > 0 {
			old.Freeze(&e) // r0 is unpriced
		}
		calls = append(calls, e)
	}
	refused := event("refused", alice, "openai", now, 500)
	refused.Allowed = false
	insert(t, store, append(calls, refused, event("other", alice, "qwen", now, 4000))...)
	f := everything(now)
	before, err := store.latest(t.Context(), f, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, input   string
		dry           bool
		moved         int64
		sum, unpriced int64
	}{
		{"dry", "3", true, 9*1000 + 3000, 9 * 2000, 2000 + 4000},
		{"dearer", "3", false, 9*1000 + 3000, 10 * 3000, 4000},
		{"once more", "3", false, 0, 10 * 3000, 4000},
		{"cheaper", "1", false, -10 * 2000, 10 * 1000, 4000},
		{"and back", "3", false, 10 * 2000, 10 * 3000, 4000},
	} {
		changed, err := store.Reprice(t.Context(), f, priceList(t, "USD", step.input), "alice", step.dry)
		if err != nil {
			t.Fatal(err)
		}
		moved := int64(0)
		for _, one := range changed {
			moved += one.Micros
		}
		got, err := store.Totals(t.Context(), f, 1)
		if err != nil {
			t.Fatal(err)
		}
		if moved != step.moved || got.Costs["USD"] != step.sum || got.Unpriced != step.unpriced || got.Events != 12 || got.Tokens != 24500 {
			t.Errorf("%s: want %d moved to %d with %d unpriced, got %d, %+v", step.name, step.moved, step.sum, step.unpriced, moved, got)
		}
	}
	after, err := store.latest(t.Context(), f, 100)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("want the calls as they were, got %v and %v", before, after)
	}
	if _, err := store.Reprice(t.Context(), f, priceList(t, "EUR", "3"), "alice", false); err == nil {
		t.Error("want another currency refused")
	}
}
