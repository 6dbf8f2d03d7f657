package serve

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

func TestEveryServedPartHasACompositionRoot(t *testing.T) {
	t.Parallel()
	want := slices.Sorted(slices.Values(topology.Names(topology.Having(topology.Part.Served))))
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(roots()))); diff != "" {
		t.Errorf("parts that are served and their roots (-want +got):\n%s", diff)
	}
}
