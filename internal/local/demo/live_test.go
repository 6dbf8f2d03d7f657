package demo

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

func testView() view {
	v := view{For: time.Minute, Providers: []string{"gemini", "openai"}, Rows: make([]viewRow, 2)}
	accounts := []judge.Account{{Name: "demo-user-aaaa"}, {Name: "demo-gold-bbbb"}}
	limits := map[judge.Pair]judge.Limit{{Account: 0, Provider: "gemini"}: {Capacity: 1e6, Level: 999_999}, {Account: 0, Provider: "openai"}: {Capacity: 1e6, Level: 350_000},
		{Account: 1, Provider: "openai"}: {Capacity: 4e6, Level: 12}}
	v.fill(12*time.Second, 500*time.Millisecond, accounts, []tally{{Admitted: 1204, Refused: 33, Aborted: 9, Settled: 1_500_000},
		{Failed: 2}}, limits)
	return v
}

func TestLiveTable(t *testing.T) {
	t.Parallel()
	v := testView()
	want, err := os.ReadFile("testdata/live.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), v.render()+v.line()+"\n"); diff != "" {
		t.Errorf("the table is not that of testdata/live.txt (-want +got):\n%s", diff)
	}
}

func TestPainterRedrawsInPlace(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	p := newPainter(&b, func() int { return 30 })
	v := testView()
	p.paint(v, false)
	v.Elapsed += time.Second
	p.paint(v, true)
	if got := strings.Count(b.String(), "\x1b[4A\x1b[J"); got != 1 {
		t.Errorf("want one redraw over four lines, got %d in %q", got, b.String())
	}
	for line := range strings.SplitSeq(strings.ReplaceAll(b.String(), "\x1b[4A\x1b[J", ""), "\n") {
		if len([]rune(line)) > 30 {
			t.Errorf("line is wider than the terminal: %q", line)
		}
	}
}

func TestPainterWritesLinesElsewhere(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	p := newPainter(&b, nil)
	v := testView()
	for range 12 { // six seconds
		v.Elapsed += 500 * time.Millisecond
		p.paint(v, false)
	}
	if got := strings.Count(b.String(), "\n"); got != 2 || strings.Contains(b.String(), "\x1b") {
		t.Errorf("want two plain lines, got %q", b.String())
	}
}
