package ledger

import (
	"testing"
	"time"
)

// TestLotThatExpiresWithItsWindowPaysNothingLater: a pool owes 17 and has 2 tokens for good and
// a lot of 12. The windows at 1 h and 2 h give 14 and 2; the lot, which expires at 2 h, gives
// nothing at 2 h, whether somebody looks at every window or only afterwards.
func TestLotThatExpiresWithItsWindowPaysNothingLater(t *testing.T) {
	t.Parallel()
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, looks := range map[string][]time.Duration{
		"at every window":       {time.Hour, 2 * time.Hour},
		"as the lot expires":    {2 * time.Hour},
		"in the window after":   {150 * time.Minute},
		"just before and after": {2*time.Hour - 1, 2*time.Hour + 1},
	} {
		p := Pool{Account: "user:a", Provider: "openai", Total: 14, Remaining: -17, Window: time.Hour, Anchor: begin,
			ResetTime: begin.Add(time.Hour), lots: []lot{{reference: "lot", amount: 12, expires: begin.Add(2 * time.Hour)}}}
		for _, at := range looks {
			p.advance(begin.Add(at))
		}
		if p.Total != 2 || p.Remaining != -1 || len(p.lots) != 0 || !p.ResetTime.Equal(begin.Add(3*time.Hour)) {
			t.Errorf("%s: want 2 tokens, 1 owed and no lot, got %+v", name, p)
		}
	}
}
