package testenv

import (
	"path/filepath"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// Monitors gives the programs of Prometheus and Alertmanager by name: prometheus, promtool,
// prometheus-alertmanager, amtool.
func Monitors(tb testing.TB) map[string]string {
	tb.Helper()
	store, err := ensure(binaries.Prometheus, binaries.Alertmanager)
	if err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	tools := map[string]string{}
	for _, folder := range []func() (string, error){store.PrometheusBin, store.AlertmanagerBin} {
		bin, err := folder()
		if err != nil {
			tb.Fatalf("testenv: %v", err)
		}
		programs, err := filepath.Glob(filepath.Join(bin, "*"))
		if err != nil {
			tb.Fatalf("testenv: %v", err)
		}
		for _, path := range programs {
			tools[filepath.Base(path)] = path
		}
	}
	return tools
}
