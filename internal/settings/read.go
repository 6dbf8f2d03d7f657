package settings

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// text is what files hold, by their paths.
type text map[string]string

// hash stands for all of the text.
func (t text) hash() string {
	sum := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(sum, "%d %s %d %s", len(path), path, len(t[path]), t[path])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Beside is a file that leaky.yaml names, which stands relative to it; empty: the built-in one.
func (s *Source) Beside(file string) string {
	if file == "" || filepath.IsAbs(file) || s.path == "" {
		return file
	}
	return filepath.Join(filepath.Dir(s.path), file)
}

// read gives what the files hold now.
func (s *Source) read() (*Settings, error) { return s.readBy(config.ReadFile) }

// readBy gives what open finds at the files' paths.
func (s *Source) readBy(open func(path string) ([]byte, error)) (*Settings, error) {
	found := text{}
	next, err := s.parse(func(path string) (string, error) {
		content, err := open(path)
		found[path] = string(content)
		return found[path], err
	})
	s.named = s.named[:0:0]
	for path := range found {
		if path != s.path {
			s.named = append(s.named, path)
		}
	}
	if err != nil {
		return nil, err
	}
	next.text, next.Hash = found, found.hash()
	return next, nil
}

// parse reads leaky.yaml and the limits it names, all mistakes of one file at once.
func (s *Source) parse(open func(path string) (string, error)) (*Settings, error) {
	next := &Settings{path: s.path}
	var err error
	if s.path == "" {
		next.Config, err = config.Load("", s.getenv)
	} else {
		var content string
		if content, err = open(s.path); err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		next.Config, err = config.Read(s.path, []byte(content), s.getenv)
	}
	if err != nil {
		return nil, err
	}
	if path := s.Beside(next.Config.Limits.File); path == "" {
		next.Limits, err = limits.Load("")
	} else {
		var content string
		if content, err = open(path); err != nil {
			return nil, fmt.Errorf("read limits: %w", err)
		}
		next.Limits, err = limits.Read(path, []byte(content))
	}
	if err != nil {
		return nil, err
	}
	next.Domains, err = limits.ReadDomains(s.domainPaths(next.Config), open)
	return next, err
}

func (s *Source) domainPaths(cfg *config.Config) []string {
	paths := make([]string, len(cfg.Limits.Domains))
	for i, file := range cfg.Limits.Domains {
		paths[i] = s.Beside(file)
	}
	return paths
}

// Load reads leaky.yaml at path (empty: the built-in one) and the limits it names, as they are now.
func Load(path string, getenv func(string) string) (*Settings, error) {
	return (&Source{path: path, getenv: getenv}).read()
}

// LoadText is Load of a leaky.yaml whose content was read from path already, as a pipe's is: it has it once.
func LoadText(path string, content []byte, getenv func(string) string) (*Settings, error) {
	return (&Source{path: path, getenv: getenv}).readBy(func(file string) ([]byte, error) {
		if file == path {
			return content, nil
		}
		return config.ReadFile(file)
	})
}

// Sets are the limits of every domain, our own first.
func (s *Settings) Sets() []*limits.Set { return append([]*limits.Set{s.Limits}, s.Domains...) }
