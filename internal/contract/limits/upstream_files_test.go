package limits_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/envoyproxy/ratelimit/src/config"
	"github.com/envoyproxy/ratelimit/src/settings"
	"github.com/envoyproxy/ratelimit/src/stats"
	gostats "github.com/lyft/gostats"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// upstreamLoads reports whether envoyproxy/ratelimit loads these files; it panics when not.
func upstreamLoads(texts []limits.Text) (ok bool) {
	defer func() { ok = recover() == nil }()
	var all []config.RateLimitConfigToLoad
	for _, one := range texts {
		all = append(all, config.RateLimitConfigToLoad{Name: one.Name, ConfigYaml: config.ConfigFileContentToYaml(one.Name, string(one.YAML))})
	}
	config.NewRateLimitConfigImpl(all, stats.NewStatManager(gostats.NewStore(gostats.NewNullSink(), false), settings.Settings{}), false)
	return true
}

// TestFilesOfUpstream goes through the files of envoyproxy/ratelimit's own module, its tests
// and its example: what it loads loads here, and what it refuses is refused with a line and a
// column.
func TestFilesOfUpstream(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/envoyproxy/ratelimit").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimSpace(string(out))
	var paths []string
	for _, pattern := range []string{"test/config/*.yaml", "examples/ratelimit/config/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	if len(paths) < 20 {
		t.Fatalf("found only %v", paths)
	}
	read := func(path string) limits.Text {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return limits.Text{Name: filepath.Base(path), YAML: text}
	}
	loads := map[bool]int{}
	compare := func(name string, texts ...limits.Text) {
		want := upstreamLoads(texts)
		loads[want]++
		_, err := limits.ParseDomains(texts, limits.Reading{})
		if (err == nil) != want {
			t.Errorf("%s: upstream loads it %t, here: %v", name, want, err)
		}
		if err == nil {
			return
		}
		if wrong, ok := errors.AsType[*limits.Error](err); !ok || wrong.Line < 1 || wrong.Column < 1 || wrong.File == "" {
			t.Errorf("%s: want a file, a line and a column, got %v", name, err)
		}
	}
	for _, path := range paths {
		compare(filepath.Base(path), read(path))
	}
	basic := filepath.Join(dir, "test", "config", "basic_config.yaml")
	compare("a domain twice", read(basic), read(filepath.Join(dir, "test", "config", "duplicate_domain.yaml")))
	if loads[true] < 5 || loads[false] < 5 {
		t.Errorf("want files of both kinds, got %v", loads)
	}
}
