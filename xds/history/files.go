package history

import (
	"path/filepath"
	"strings"
)

// Files are the texts of a configuration by their paths, which are relative to the folder of
// leaky.yaml where they lie below it. Main is the path of leaky.yaml itself; empty: the built-in
// one.
type Files struct {
	Main  string            `json:"main"`
	Texts map[string]string `json:"texts"`
}

// FilesOf are the files of a configuration whose leaky.yaml is at path.
func FilesOf(path string, texts map[string]string) Files {
	if path == "" {
		return Files{}
	}
	f := Files{Main: filepath.Base(path), Texts: map[string]string{}}
	for name, text := range texts {
		if below, err := filepath.Rel(filepath.Dir(path), name); err == nil && !strings.HasPrefix(below, "..") {
			name = below
		}
		f.Texts[name] = text
	}
	return f
}

// At are the texts by the paths that they have when leaky.yaml is at path.
func (f Files) At(path string) map[string]string {
	texts := map[string]string{}
	for name, text := range f.Texts {
		switch {
		case name == f.Main:
			name = path
		case !filepath.IsAbs(name):
			name = filepath.Join(filepath.Dir(path), name)
		}
		texts[name] = text
	}
	return texts
}
