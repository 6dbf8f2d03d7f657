package footprint

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOnlyReadOnlyPagesOfTheBinaryAreDropped(t *testing.T) {
	t.Parallel()
	maps := `00400000-01e49000 r-xp 00000000 fe:00 10453394                           /opt/leaky
01e49000-03c2b000 r--p 01a49000 fe:00 10453394                           /opt/leaky
03c2b000-03d6c000 rw-p 0382b000 fe:00 10453394                           /opt/leaky
03d6c000-03dd0000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 r-xp 00000000 fe:00 1                          /lib/libc.so.6
not a line
`
	want := []mapping{{0x400000, 0x1e49000}, {0x1e49000, 0x3c2b000}}
	if diff := cmp.Diff(want, readOnly([]byte(maps), "/opt/leaky"), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Fatal(diff)
	}
}

func TestKeepEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Keep(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestTrimLeavesTheProgramRunning(t *testing.T) {
	t.Parallel()
	if err := trim(); err != nil {
		t.Fatal(err)
	}
	if found := readOnly([]byte("00400000-01e49000 r-xp 0 0 1 /x"), "/x"); len(found) != 1 {
		t.Fatal("code that was dropped does not come back")
	}
}
