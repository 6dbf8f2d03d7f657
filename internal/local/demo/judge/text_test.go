package judge

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func TestNumbers(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{"0": Thousands(0), "999": Thousands(999), "-1,000": Thousands(-1000), "-100": Thousands(-100),
		"1,204,567": Thousands(1204567),
		"1.2M":      Short(1_204_567), "350k": Short(350_000), "12": Short(12), "3.0G": Short(3e9), "1 hold": Count(1, "hold"),
		"1,200 holds": Count(1200, "hold"), "-": told(-1)} {
		if got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}
