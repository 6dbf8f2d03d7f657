package meter

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// TestCallsThatNoLimiterSawAreCharged: Envoy lets a call of an open route pass when
// ratelimit does not answer. It was served, so it counts; others stay as they are.
func TestCallsThatNoLimiterSawAreCharged(t *testing.T) {
	t.Parallel()
	unheld := func(change func(*spool.Line)) spool.Line {
		return held(func(l *spool.Line) {
			l.Account, l.Held, l.HeldIn, l.Upstream = "", nil, nil, "200"
			if change != nil {
				change(l)
			}
		})
	}
	for name, test := range map[string]struct {
		line    spool.Line
		publish bool
		charged int64
		source  usage.Source
	}{
		"complete":           {unheld(nil), true, 92, usage.FromProvider},
		"aborted":            {unheld(func(l *spool.Line) { unknownUsage(l); l.Flags = "DC" }), true, 53, usage.FromEstimate},
		"not served":         {unheld(func(l *spool.Line) { l.Upstream, l.Status = "500", 500 }), false, 0, ""},
		"Envoy's own answer": {unheld(func(l *spool.Line) { l.Upstream = "-" }), false, 0, ""},
		"nobody's":           {unheld(func(l *spool.Line) { l.User = "" }), false, 0, ""},
		"no provider":        {unheld(func(l *spool.Line) { l.Provider = "" }), false, 0, ""},
		"refused by a limit": {unheld(func(l *spool.Line) { l.Flags, l.Upstream, l.Status = "RL", "-", 429 }), true, 0, usage.FromRefusal},
		"ratelimit did not reply": {unheld(func(l *spool.Line) { l.Flags, l.Upstream, l.Status = "RLSE", "-", 503 }), false, 0,
			usage.FromUnstarted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := charge(&test.line, fixed{in: 20, out: 33}, byDefault, time.Now())
			if v.publish != test.publish || v.event.Charged != test.charged || v.event.Source != test.source {
				t.Errorf("want publish %v and %d tokens by %q, got %v and %+v", test.publish, test.charged, test.source, v.publish, v.event)
			}
			if counted := test.charged > 0; counted && (!v.outage || !v.settle || v.event.Account != "user:u1" || !v.event.Allowed) {
				t.Errorf("want it settled in case a hold stands, got %+v", v)
			}
		})
	}
}
