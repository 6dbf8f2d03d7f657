package meter

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// TestSettlesACallOfAnOutageLater: its event goes out at once and once, and its hold is
// sought until it is written down.
func TestSettlesACallOfAnOutageLater(t *testing.T) {
	t.Parallel()
	metrics, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	m := &Meter{cfg: Config{BatchLines: 10}, metrics: metrics}
	held := 300.0
	v := charge(&spool.Line{ID: "r", WireSent: 400, Account: "user:u", Held: &held, Provider: "openai", Bytes: "100", Status: 200, Flags: "DC",
		WireRecv: 5000, HeaderRecv: 100}, NewEstimator(nil), byDefault, time.Now())
	if !v.outage || v.event.Input == 0 || v.event.Charged > 300 {
		t.Fatalf("want a hold without input taken for one of an outage, got %+v", v)
	}
	if !m.outcome(&v, &limitpb.Settled{Status: limitpb.Settled_UNKNOWN}) || len(m.orphans) != 1 {
		t.Fatalf("want the event published and the hold sought again, got %d", len(m.orphans))
	}
	m.seekOrphans(time.Now().Add(time.Minute))
	if len(m.verdicts) != 1 || m.outcome(&m.verdicts[0], &limitpb.Settled{Status: limitpb.Settled_SETTLED,
		Drawn: limitpb.Settled_DRAWN_POOL}) || len(m.orphans) != 0 {
		t.Error("want it settled, and no second event")
	}
}

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
