// Package toolcache is for tests: it keeps the tools that they run and that are not ours (Python
// packages, programs in Go) outside the source tree, installed the first time.
package toolcache

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// Python is a folder with a release of a package, such as "openai==3.57.0", for PYTHONPATH.
func Python(tb testing.TB, release string) string {
	tb.Helper()
	return Folder(tb, "python-"+release, func(dir string) []string {
		return []string{"python3", "-m", "pip", "install", "--quiet", "--target", dir, release}
	})
}

// Go is the program of a package at a version. It is where the Makefile keeps its tools, too.
func Go(tb testing.TB, pkg, version string) string {
	tb.Helper()
	name := path.Base(pkg)
	program := filepath.Join(config.CacheDir(os.Getenv), "tools", name+"-"+version)
	if _, err := os.Stat(program); err == nil {
		return program
	}
	dir := Folder(tb, filepath.Join("tools", "go-"+name+"-"+version), func(dir string) []string {
		return []string{"env", "GOBIN=" + dir, "CGO_ENABLED=0", "GOFLAGS=", "go", "install", pkg + "@" + version}
	})
	return filepath.Join(dir, name)
}

// Folder is a folder of the cache that a command fills the first time.
func Folder(tb testing.TB, name string, install func(dir string) []string) string {
	tb.Helper()
	dir := filepath.Join(config.CacheDir(os.Getenv), name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		tb.Fatal(err)
	}
	staging, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(name)+".*") // two tests may install at once
	if err != nil {
		tb.Fatal(err)
	}
	command := install(staging)
	if out, err := exec.CommandContext(tb.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		tb.Fatalf("install %s: %v\n%s", name, err, out)
	}
	if err := os.Rename(staging, dir); err != nil {
		if _, there := os.Stat(dir); there != nil {
			tb.Fatal(err)
		}
		os.RemoveAll(staging) // somebody was faster
	}
	return dir
}
