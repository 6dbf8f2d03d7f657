package testenv

import (
	"os"
	"testing"
)

// Folder is one that other users can pass through, as Postgres and the parts must, with a path short
// enough for sockets. It is removed with the test.
func Folder(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "leaky")
	if err == nil {
		tb.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}
