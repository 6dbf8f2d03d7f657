package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// debianFile is the path of a file out of Debian's packages, which are unpacked into the cache under a
// name where the machine has not installed them. pattern is its path, in which the machine's kind may be *.
func debianFile(tb testing.TB, name, pattern string, packages ...string) string {
	tb.Helper()
	folder := filepath.Join(config.CacheDir(os.Getenv), "testenv", name)
	unlock, err := lockFile(folder+".lock", true)
	if err != nil {
		tb.Fatalf("testenv: %s: %v", name, err)
	}
	defer unlock()
	find := func() string {
		for _, root := range []string{"/", folder} {
			if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 { // the pattern is well formed
				return found[0]
			}
		}
		return ""
	}
	if path := find(); path != "" {
		return path
	}
	if err := openFolder(folder); err != nil {
		tb.Fatalf("testenv: %s: %v", name, err)
	}
	cmd := exec.CommandContext(tb.Context(), "sh", "-ec", "apt-get download "+strings.Join(packages, " ")+
		` && for p in *.deb; do dpkg-deb -x "$p" .; done && rm *.deb`)
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("testenv: %s is not installed (apt-get install %s), and Debian's package cannot be had: %v\n%s", name, packages[0], err, out)
	}
	path := find()
	if path == "" {
		tb.Fatalf("testenv: %s is not in Debian's packages %v", pattern, packages)
	}
	return path
}
