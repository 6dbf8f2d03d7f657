package meter

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

// BenchmarkLine is the meter's own CPU for one line: parse, charge, learn, encode. The
// settlement and the publishing are shared by a batch and not in it.
func BenchmarkLine(b *testing.B) {
	m, err := New(Config{Spool: "unused", Limiter: &struct{ limitpb.LimiterClient }{}, Publisher: &stuck{}})
	if err != nil {
		b.Fatal(err)
	}
	var lines [][]byte
	var settled []*limitpb.Settled
	for i := range 500 {
		lines = append(lines, []byte(strings.TrimSpace(spoolLine(uuid.NewString(), 10+i%50))))
		settled = append(settled, &limitpb.Settled{Status: limitpb.Settled_SETTLED, Held: 300})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += len(lines) {
		m.judge(lines)
		if got := m.events(settled); len(got) != len(lines) {
			b.Fatalf("want %d events, got %d", len(lines), len(got))
		}
	}
}
