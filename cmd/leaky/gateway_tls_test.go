package main

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// TestWhatIsNoFileHoldsUpNoCommand: a pipe or a device in the place of the gateway's certificate is told.
func TestWhatIsNoFileHoldsUpNoCommand(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "tls.crt")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero"} {
		l := local{cfg: &config.Config{Gateway: config.Gateway{TLS: config.GatewayTLS{Certificate: path, Key: path}}}}
		if c, err := l.gatewayTLS(); err == nil {
			t.Errorf("%s: want it told, got %v", path, c)
		}
	}
}
