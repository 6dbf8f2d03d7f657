package archtest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

const module = "github.com/leaky-tokens/leaky-tokens/"

// services are the rooms that never import each other: what two of them share is a
// contract package under internal/.
func services() []string { return append(topology.Names(topology.Of(topology.Service)), "stubs") }

type source struct {
	path  string // from the module's root
	lines int
	file  *ast.File
}

// root is the module's.
func root() string { return filepath.Join("..", "..", "..") }

func sources(t *testing.T) []source {
	t.Helper()
	var found []source
	err := filepath.WalkDir(root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "gen" || name == "testdata" || strings.HasSuffix(name, "db") && name != "chdb" || strings.HasPrefix(name,
			".") && path != root()) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		if ast.IsGenerated(file) {
			return nil
		}
		rel, err := filepath.Rel(root(), path)
		found = append(found, source{path: filepath.ToSlash(rel), lines: bytes.Count(text, []byte("\n")), file: file})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 300 {
		t.Fatalf("found only %d Go files; is the walk broken?", len(found))
	}
	return found
}

func TestServicesNeverImportEachOther(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		room, _, _ := strings.Cut(s.path, "/")
		shared := room == "internal" || room == "envoy"
		if !slices.Contains(services(), room) && !shared {
			continue
		}
		for _, imp := range s.file.Imports {
			path, ours := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module)
			other, _, _ := strings.Cut(path, "/")
			if ours && other != room && slices.Contains(services(), other) {
				t.Errorf("%s imports %s: move what they share to a package under internal/", s.path, path)
			}
		}
	}
}

func TestFilesStaySmall(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		most := 400
		if strings.HasSuffix(s.path, "_test.go") {
			most = 600
		}
		if s.lines > most {
			t.Errorf("%s has %d lines, at most %d: look for the second idea inside", s.path, s.lines, most)
		}
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if strings.HasSuffix(s.path, "_test.go") {
			continue
		}
		dir := filepath.Dir(s.path)
		documented[dir] = documented[dir] || s.file.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}
