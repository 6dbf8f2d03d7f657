package analytics

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

func encoded(t *testing.T, e usage.Event) []byte {
	t.Helper()
	data, err := usage.Encode(e, "/meter", "", "")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSortDeliveries(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC)
	b := sortDeliveries([]usage.Delivery{
		{Sequence: 7, Data: encoded(t, event("a", alice, "openai", at, 70))},
		{Sequence: 3, Data: encoded(t, event("a", alice, "openai", at, 30))}, // redelivered out of order: the earlier stands
		{Sequence: 9, Data: encoded(t, event("a", alice, "openai", at, 90))},
		{Sequence: 4, Data: []byte("{")},
		{Sequence: 6, Data: encoded(t, event("b", bob, "qwen", at, 2))},
	}, at)
	if len(b.rows) != 2 || b.rows[0].Seq != 3 || b.rows[0].Charged != 30 || b.rows[1].RequestID != "b" {
		t.Errorf("want a of sequence 3 and b, got %+v", b.rows)
	}
	if b.duplicates != 2 || len(b.refused) != 1 || b.refused[3] == nil {
		t.Errorf("want 2 duplicates and poison at 3, got %d and %v", b.duplicates, b.refused)
	}
	if got, want := b.rows[0].Timestamp, at.Truncate(time.Millisecond); !got.Equal(want) {
		t.Errorf("want %v, got %v", want, got)
	}
}

func TestTokenNamesTheRowsAndNotTheRange(t *testing.T) {
	t.Parallel()
	row := func(id string, seq uint64) Row { return Row{Event: usage.Event{RequestID: id}, Seq: seq} }
	whole := []Row{row("a", 1), row("b", 2), row("c", 3)}
	if token("S", whole) != token("S", []Row{row("a", 1), row("b", 2), row("c", 3)}) {
		t.Error("want one token for the same rows")
	}
	for name, rows := range map[string][]Row{
		"one left out":  {row("a", 1), row("c", 3)},
		"another event": {row("a", 1), row("x", 2), row("c", 3)},
		"shifted":       {row("a", 2), row("b", 3), row("c", 4)},
		"ids run over":  {row("ab", 1), row("", 2), row("c", 3)},
	} {
		if token("S", rows) == token("S", whole) {
			t.Errorf("%s: want another token, got the same", name)
		}
	}
}
