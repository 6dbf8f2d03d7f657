package testenv

import (
	"context"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Program starts a server that is none of the stores, waits until ready finds no fault with it, and
// ends it with the test.
func Program(tb testing.TB, cmd *exec.Cmd, ready func(ctx context.Context) error) {
	tb.Helper()
	name := filepath.Base(cmd.Path)
	p := must[*process](tb, name)(startProcess(name, cmd, filepath.Join(tb.TempDir(), name+".log"), syscall.SIGKILL))
	tb.Cleanup(p.stop)
	if err := poll(p, ready); err != nil {
		tb.Fatalf("testenv: %v", err)
	}
}
