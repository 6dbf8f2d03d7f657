package serve

import (
	"errors"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// LimitsPath is the limits file, which stands relative to leaky.yaml at path; empty: the
// built-in one.
func LimitsPath(cfg *config.Config, path string) string {
	file := cfg.Limits.File
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(filepath.Dir(path), file)
}

// LimitSets are the rules of every domain, our own first.
func LimitSets(cfg *config.Config, path string) ([]*limits.Set, error) {
	set, err := limits.Load(LimitsPath(cfg, path))
	others, otherErr := limits.LoadDomains(domainPaths(cfg, path))
	if err := errors.Join(err, otherErr); err != nil {
		return nil, err
	}
	return append([]*limits.Set{set}, others...), nil
}

// domainPaths are limits.domains, which stand relative to leaky.yaml.
func domainPaths(cfg *config.Config, path string) []string {
	paths := make([]string, len(cfg.Limits.Domains))
	for i, file := range cfg.Limits.Domains {
		if paths[i] = file; !filepath.IsAbs(file) {
			paths[i] = filepath.Join(filepath.Dir(path), file)
		}
	}
	return paths
}
