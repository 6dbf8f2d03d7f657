package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// texts are the files below the root with one of these endings, by path from there.
func texts(t *testing.T, endings ...string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root() {
			return filepath.SkipDir
		}
		for _, ending := range endings {
			if strings.HasSuffix(path, ending) {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				rel, err := filepath.Rel(root(), path)
				found[filepath.ToSlash(rel)] = string(text)
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestDocumentsFitATerminal: 100 columns, but for tables and pictures.
func TestDocumentsFitATerminal(t *testing.T) {
	t.Parallel()
	for path, text := range texts(t, ".md") {
		for i, line := range strings.Split(text, "\n") {
			if n := utf8.RuneCountInString(line); n > 100 && !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "![") {
				t.Errorf("%s:%d has %d columns, at most 100: break the line", path, i+1, n)
			}
		}
	}
}

// TestLinksOfDocumentsLead somewhere in the tree; those to other sites are not followed.
func TestLinksOfDocumentsLead(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	for path, text := range texts(t, ".md") {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root(), filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	}
}

// words are those that the project does not use, and what it says instead.
func words() map[string]string {
	return map[string]string{
		`(?i)\b(she|her|hers|herself|him|himself)\b`:     "they, them, their: a caller has no gender",
		`(?i)\b(buried|burial|post ?bag|grave)\b`:        "dead letter",
		`(?i)\b(session \d|issue #?\d+|case [A-F]\d+)\b`: "the thing itself: a reader has no list of them",
	}
}

// TestPlainWords looks at comments, strings and documents alike.
func TestPlainWords(t *testing.T) {
	t.Parallel()
	all := texts(t, ".go", ".md", ".lua", ".yaml", ".proto")
	for word, instead := range words() {
		pattern := regexp.MustCompile(word)
		for path, text := range all {
			if strings.HasPrefix(path, "internal/testing/archtest/") || strings.HasSuffix(path, "db/models.go") {
				continue
			}
			for i, line := range strings.Split(text, "\n") {
				if at := pattern.FindString(line); at != "" {
					t.Errorf("%s:%d says %q; say %s", path, i+1, at, instead)
				}
			}
		}
	}
}
