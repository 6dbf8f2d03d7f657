package meter

import (
	"fmt"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// TestAStreamCutAfterTenOfEightyChunks reads lines as Envoy writes them: calls that ended,
// and one whose client left when 30 of 240 tokens were generated. Envoy AI Gateway charges
// such a call nothing.
func TestAStreamCutAfterTenOfEightyChunks(t *testing.T) {
	t.Parallel()
	line := func(more string, chunks int64, flags string, recv int64) *spool.Line {
		t.Helper()
		l, err := spool.Parse(fmt.Appendf(nil, `{"account":"user:u-1","bytes":"162","cached":null,"corr":"c","details":"via_upstream","flags":%q,"held":344,"held_in":44,"id":"r-%d",`+
			`"key":"k-1","model":"gpt-4o","ms":250,"org":null,"provider":"openai","recv":%d,"recv_h":250,"route":"openai-chat","sent":158,"wire":500,`+
			`"start":"2026-11-22T16:16:23.007Z","status":200,"stream":"true","tier":"USER","trace":null,"ttfb":9,"up":"200","user":"u-1",%s}`,
			flags, chunks, recv, more))
		if err != nil {
			t.Fatal(err)
		}
		return &l
	}
	const perChunk = 3
	shape := openaiThree
	m, err := New(Config{Spool: "unused", Limiter: &listener{}, Publisher: &stuck{}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(20) {
		chunks := 5 + 7*i
		l := line(fmt.Sprintf(`"answer":"whole=1,in=13,out=%d"`, perChunk*chunks), chunks, "-",
			250+shape.head+shape.bytes(perChunk*chunks)+shape.tail)
		if v := charge(l, m.estimator, byDefault, time.Now()); v.event.Source != usage.FromProvider || v.event.Charged != 13+perChunk*chunks {
			t.Fatalf("a call that ended: %+v", v.event)
		}
		m.estimator.learn(l)
	}
	v := charge(line(`"answer":"events=10,after=10,bytes=3800"`, 10, "DC", 250+shape.head+shape.bytes(perChunk*10)), m.estimator, byDefault, time.Now())
	if e := v.event; !v.settle || e.Source != usage.FromEstimate || e.Reason != ReasonDisconnected || e.Output < 30 || e.Output > 33 ||
		e.Input < 12 || e.Input > 14 {
		t.Errorf("want 30 tokens of output within 10 %%, and 13 of input, got %+v", e)
	}
}
