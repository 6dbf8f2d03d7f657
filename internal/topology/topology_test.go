package topology_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

func TestPartsAgreeWithEachOther(t *testing.T) {
	t.Parallel()
	var before []string
	for _, p := range topology.Parts() {
		for _, name := range p.After {
			if !slices.Contains(before, name) {
				t.Errorf("%s comes after %s, which is not before it", p.Name, name)
			}
		}
		for _, name := range p.Stores {
			if store, _ := topology.Find(name); store.Kind != topology.Store {
				t.Errorf("%s uses the store %s, which is none", p.Name, name)
			}
		}
		for _, name := range p.Callers {
			if caller, _ := topology.Find(name); caller.Kind != topology.Service && name != topology.Gateway && name != topology.Supervisor {
				t.Errorf("%s is called by %s, which is no service", p.Name, name)
			}
		}
		if p.Listens() && p.GOGC == 0 {
			t.Errorf("%s: GOGC is not set", p.Name)
		}
		if slices.Contains(before, p.Name) {
			t.Errorf("%s is there twice", p.Name)
		}
		before = append(before, p.Name)
	}
	if last := before[len(before)-1]; last != topology.Envoy {
		t.Errorf("the gateway starts last and ends first, got %s", last)
	}
}

// bound are the tables that give each of some parts something that only code can say.
func bound() []string {
	return []string{
		"cmd/leaky/serve/serve.go",       // a composition root; its test compares the table with this list
		"cmd/leaky/serve/nats_rights.go", // what each part may say and hear; its test runs every part
		"internal/local/stack/parts.go",  // how a program that is not ours is started
		"xds/model/routes.go",            // which paths lead to which service
	}
}

// TestNothingElseListsTheParts reads the whole product: a literal, a switch or a condition
// that names three parts or more is a list that would drift from this one.
func TestNothingElseListsTheParts(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		if d.IsDir() && (rel == "internal/topology" || strings.HasPrefix(d.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") || slices.Contains(bound(), rel) {
			return nil
		}
		seen++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n.(type) {
			case *ast.CompositeLit, *ast.SwitchStmt, *ast.BinaryExpr:
				if names := named(n); len(names) > 2 {
					t.Errorf("%s lists %s: derive it from package topology", set.Position(n.Pos()), strings.Join(names, ", "))
					return false
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Fatalf("read only %d files; is the walk broken?", seen)
	}
}

// named are the parts that a piece of code names, as text or as this package's constants.
func named(n ast.Node) []string {
	found := map[string]bool{}
	constants := map[string]string{}
	for _, p := range topology.Parts() {
		constants[strings.ToLower(strings.ReplaceAll(p.Name, "-", ""))] = p.Name
	}
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			text, err := strconv.Unquote(n.Value)
			if _, ok := topology.Find(text); err == nil && ok {
				found[text] = true
			}
		case *ast.SelectorExpr:
			if from, ok := n.X.(*ast.Ident); ok && from.Name == "topology" {
				if name, ok := constants[strings.ToLower(n.Sel.Name)]; ok {
					found[name] = true
				}
			}
		}
		return true
	})
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
