package binaries_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// The pinned parts themselves: fetched on a fresh machine, found in the cache on others.
func TestPinnedPartsRun(t *testing.T) {
	t.Parallel()
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv), Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{binaries.Envoy, binaries.Postgres, binaries.Redis, binaries.ClickHouse}
	if err := store.Ensure(t.Context(), all...); err != nil {
		t.Fatal(err)
	}
	envoy, err := store.EnvoyBin()
	if err != nil {
		t.Fatal(err)
	}
	redis, err := store.RedisServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pg, err := store.PostgresBin()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ bin, want string }{
		{envoy, "1.40.0"}, {redis, "v=9.1"}, {filepath.Join(pg, "postgres"), "18."}, {filepath.Join(pg, "initdb"), "18."},
		{filepath.Join(pg, "psql"), "18."},
	} {
		out, err := exec.CommandContext(t.Context(), c.bin, "--version").CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s --version: want %q in it, got %q, %v", c.bin, c.want, out, err)
		}
	}
	lib, err := store.CHDBLib()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(lib); err != nil || info.Size() < 100<<20 {
		t.Errorf("libchdb.so: want more than 100 MB, got %v, %v", info, err)
	}
}
