package meter

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/usage"
)

// TestEventSaysWhetherThePoolWasDrawnOn goes by the books: the ledger charges a pool only
// for what the limiter took from it.
func TestEventSaysWhetherThePoolWasDrawnOn(t *testing.T) {
	t.Parallel()
	metrics, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	m := &Meter{metrics: metrics}
	for name, tc := range map[string]struct {
		settled *limitpb.Settled
		want    usage.Pool
		charged int64
	}{
		"drawn":     {&limitpb.Settled{Status: limitpb.Settled_SETTLED, Drawn: limitpb.Settled_DRAWN_POOL, Charged: 9}, usage.PoolDrawn, 9},
		"no pool":   {&limitpb.Settled{Status: limitpb.Settled_SETTLED, Drawn: limitpb.Settled_DRAWN_NONE, Charged: 9}, usage.PoolNone, 9},
		"duplicate": {&limitpb.Settled{Status: limitpb.Settled_DUPLICATE, Drawn: limitpb.Settled_DRAWN_POOL, Charged: 7}, usage.PoolDrawn, 7},
		"lost":      {&limitpb.Settled{Status: limitpb.Settled_UNKNOWN}, "", 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := verdict{settle: true, publish: true, event: usage.Event{RequestID: "r", Input: 4, Output: 5, Charged: 9}}
			if !m.outcome(&v, tc.settled) || v.event.Pool != tc.want || v.event.Charged != tc.charged {
				t.Errorf("want pool %q and %d charged, got %+v", tc.want, tc.charged, v.event)
			}
		})
	}
}
