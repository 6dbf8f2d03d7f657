package serve

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
)

// TestRefusedLimitsAreGivenBack: a content that ratelimit took before an Envoy refused it is told, and
// the limits of before come with the error.
func TestRefusedLimitsAreGivenBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, own := filepath.Join(dir, "leaky.yaml"), filepath.Join(dir, "limits.yaml")
	put := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	part := func() (service, *settings.Settings) {
		t.Helper()
		s := service{files: settings.New(path, dir, os.Getenv, slog.New(slog.DiscardHandler))}
		first, err := s.files.Open()
		if err != nil {
			t.Fatal(err)
		}
		return s, first
	}
	put(path, "limits: {file: limits.yaml}\n")
	put(own, string(deploy.DefaultLimits))
	xds, good := part()
	limiter, first := part()
	put(own, strings.Replace(string(deploy.DefaultLimits), "requests_per_unit: ", "requests_per_unit: 1", 1))
	next, err := xds.files.Refresh()
	if err != nil {
		t.Fatal(err)
	}
	taken, err := limiter.reloadLimits()
	if err != nil || taken.Limits == first.Limits {
		t.Fatalf("want the new limits taken first, got %v", err)
	}
	xds.files.Refuse(next.Hash, good, errors.New("no such port"))
	back, err := limiter.reloadLimits()
	if _, refused := errors.AsType[*settings.RefusedError](err); !refused || back.Limits == nil ||
		first.Limits.Rules()[0].PerPeriod != back.Limits.Rules()[0].PerPeriod {
		t.Errorf("want the limits of before beside the refusal, got %v", err)
	}
}
