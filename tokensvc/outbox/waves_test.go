package outbox

import (
	"slices"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// TestWaves: no wave has two events of an aggregate, each aggregate keeps its order over
// the waves, and nothing is lost. That is what the order in the stream stands on.
func TestWaves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		aggregates := rapid.SliceOfN(rapid.IntRange(-1, 4), 0, 40).Draw(t, "aggregates") // -1: an event on its own
		var events []tokensdb.PendingEventsRow
		want := map[string][]uuid.UUID{}
		for _, a := range aggregates {
			e := tokensdb.PendingEventsRow{ID: uuid.New(), AggregateType: "T"}
			if a >= 0 {
				name := strconv.Itoa(a)
				e.AggregateID = &name
				want[name] = append(want[name], e.ID)
			}
			events = append(events, e)
		}
		got, total := map[string][]uuid.UUID{}, 0
		for wave := range waves(events) {
			if len(wave) == 0 {
				t.Fatal("want no empty wave")
			}
			inWave := map[string]bool{}
			for _, e := range wave {
				total++
				if e.AggregateID == nil {
					continue
				}
				if inWave[*e.AggregateID] {
					t.Fatalf("want aggregate %s once in a wave, got it twice", *e.AggregateID)
				}
				inWave[*e.AggregateID] = true
				got[*e.AggregateID] = append(got[*e.AggregateID], e.ID)
			}
		}
		if total != len(events) {
			t.Fatalf("want %d events, got %d", len(events), total)
		}
		for name, ids := range want {
			if !slices.Equal(got[name], ids) {
				t.Fatalf("aggregate %s: want %v, got %v", name, ids, got[name])
			}
		}
	})
}
