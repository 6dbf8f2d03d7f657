package analytics

import (
	"errors"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestAnEngineThatTakesNoEventsSaysWhy, until it takes some.
func TestAnEngineThatTakesNoEventsSaysWhy(t *testing.T) {
	t.Parallel()
	store := openStore(t, testenv.ClickHouse(t))
	rows := []Row{{Event: usage.Event{RequestID: "one", Provider: "openai", UserID: alice, Charged: 1, Timestamp: time.Now()}, Seq: 1}}
	if err := store.Insert(t.Context(), "a", rows); err != nil {
		t.Fatal(err)
	}
	if err := store.Takes(t.Context()); err != nil {
		t.Errorf("want none, got %v", err)
	}
	if err := store.conn.Exec(t.Context(), "ALTER TABLE usage ADD CONSTRAINT never CHECK tokens < 0"); err != nil {
		t.Fatal(err)
	}
	if err := store.Insert(t.Context(), "b", rows); err == nil {
		t.Fatal("want the insert refused")
	}
	var refuses *Refuses
	if err := store.Takes(t.Context()); !errors.As(err, &refuses) || refuses.Reason() == "" {
		t.Errorf("want a refusal, got %v", err)
	}
	if err := store.conn.Exec(t.Context(), "ALTER TABLE usage DROP CONSTRAINT never"); err != nil {
		t.Fatal(err)
	}
	if err := store.Insert(t.Context(), "c", rows); err != nil {
		t.Fatal(err)
	}
	if err := store.Takes(t.Context()); err != nil {
		t.Errorf("it takes events again: want none, got %v", err)
	}
}

func TestReasonsOfClickHouse(t *testing.T) {
	t.Parallel()
	for code, want := range map[int32]string{243: "no_space", 164: "read_only", 242: "read_only", 241: "out_of_memory", 252: "too_many_parts",
		516: "password", 497: "no_permission", 202: "busy", 1: "other"} {
		if got := refusal(&clickhouse.Exception{Code: code}).Reason(); got != want {
			t.Errorf("code %d: want %s, got %s", code, want, got)
		}
	}
	if got := refusal(errors.New("connection refused")); got != nil {
		t.Errorf("no answer: want none, got %v", got)
	}
}
