package settings

import (
	"fmt"
	"io/fs"
	"maps"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// Path is that of leaky.yaml; empty: the built-in one.
func (s *Settings) Path() string { return s.path }

// Texts are what the files held, by their paths: leaky.yaml and the limits it names.
func (s *Settings) Texts() map[string]string { return maps.Clone(map[string]string(s.text)) }

// Of gives the settings of texts that are in no file, as Load does of files: path is that of
// leaky.yaml, and what the texts do not have is not there.
func Of(path string, texts map[string]string, getenv func(string) string) (*Settings, error) {
	s := Source{path: path, getenv: getenv}
	made, err := s.parse(func(path string) (string, error) {
		content, ok := texts[path]
		if !ok {
			return "", fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		return content, nil
	})
	if err != nil {
		return nil, err
	}
	made.text = text(maps.Clone(texts))
	made.Hash = made.text.hash()
	return made, nil
}

// LimitTexts are the files of limits, of every domain, our own first.
func (s *Settings) LimitTexts() []limits.Text {
	from := Source{path: s.path}
	own := limits.Text{Name: from.Beside(s.Config.Limits.File), YAML: deploy.DefaultLimits}
	if s.Config.Limits.File != "" {
		own.YAML = []byte(s.text[own.Name])
	}
	all := []limits.Text{own}
	for _, path := range from.domainPaths(s.Config) {
		all = append(all, limits.Text{Name: path, YAML: []byte(s.text[path])})
	}
	return all
}
