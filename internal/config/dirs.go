package config

import (
	"os"
	"path/filepath"
)

// StateDir is where data, logs, secrets and sockets live: LEAKY_STATE_DIR, else
// /var/lib/leaky-tokens for root (its home is closed to the unprivileged user that
// Postgres runs as), else $XDG_STATE_HOME/leaky-tokens or ~/.local/state/leaky-tokens.
func StateDir(getenv func(string) string) string {
	return folder(getenv, "LEAKY_STATE_DIR", "/var/lib/leaky-tokens", "XDG_STATE_HOME", ".local/state")
}

// CacheDir is where fetched parts are kept, outside any source tree: LEAKY_CACHE_DIR,
// else /var/cache/leaky-tokens for root, else $XDG_CACHE_HOME/leaky-tokens or ~/.cache/leaky-tokens.
func CacheDir(getenv func(string) string) string {
	return folder(getenv, "LEAKY_CACHE_DIR", "/var/cache/leaky-tokens", "XDG_CACHE_HOME", ".cache")
}

func folder(getenv func(string) string, own, root, xdg, home string) string {
	if dir := getenv(own); dir != "" {
		return absolute(dir)
	}
	if os.Geteuid() == 0 {
		return root
	}
	if dir := getenv(xdg); dir != "" {
		return filepath.Join(absolute(dir), "leaky-tokens")
	}
	return filepath.Join(getenv("HOME"), home, "leaky-tokens")
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}
