package demo

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); rewrite with -update\n%s", path, diff)
	}
}

func TestPrintOK(t *testing.T) {
	t.Parallel()
	e := honest()
	e.Restarts = map[string]int{"meter": 1}
	var b strings.Builder
	if err := Judge(e).Print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "ok.txt", b.String())
}

func TestPrintNotOK(t *testing.T) {
	t.Parallel()
	e := honest()
	e.Limits[Pair{0, "openai"}] = Limit{Capacity: 40, Leak: 1}
	e.Charges[id1] = Charge{Settled, 100, 1_204_567}
	delete(e.Events, id2)
	var b strings.Builder
	if err := Judge(e).Print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "not-ok.txt", b.String())
}

func testView() view {
	v := view{For: time.Minute, Providers: []string{"gemini", "openai"}, Rows: make([]viewRow, 2)}
	accounts := []Account{{Name: "demo-user-aaaa"}, {Name: "demo-gold-bbbb"}}
	limits := map[Pair]Limit{{0, "gemini"}: {Capacity: 1e6, Level: 999_999}, {0, "openai"}: {Capacity: 1e6, Level: 350_000},
		{1, "openai"}: {Capacity: 4e6, Level: 12}}
	v.fill(12*time.Second, 500*time.Millisecond, accounts, []tally{{Admitted: 1204, Refused: 33, Aborted: 9, Settled: 1_500_000},
		{Failed: 2}}, limits)
	return v
}

func TestLiveTable(t *testing.T) {
	t.Parallel()
	v := testView()
	golden(t, "live.txt", v.render()+v.line()+"\n")
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

func TestNumbers(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{"0": thousands(0), "999": thousands(999), "-1,000": thousands(-1000), "-100": thousands(-100),
		"1,204,567": thousands(1204567),
		"1.2M":      short(1_204_567), "350k": short(350_000), "12": short(12), "3.0G": short(3e9), "1 hold": count(1, "hold"),
		"1,200 holds": count(1200, "hold"), "-": told(-1)} {
		if got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}
