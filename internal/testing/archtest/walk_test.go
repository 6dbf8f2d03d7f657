package archtest

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// step is a row of the walk in docs/architecture.md.
type step struct{ file, function string }

func readWalk(t *testing.T, title string) (steps []step) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, walk, _ := strings.Cut(string(text), "## "+title+"\n")
	walk, _, _ = strings.Cut(walk, "\n## ")
	row := regexp.MustCompile("(?m)^\\| \\d+ \\| `([^`]+)` \\|(?: `([^`]+)` \\|)?")
	for _, m := range row.FindAllStringSubmatch(walk, -1) {
		steps = append(steps, step{m[1], m[2]})
	}
	return steps
}

// declares reports whether a file declares a function, as Type.Name or Name: one of Go or of Lua.
func declares(text []byte, function string) bool {
	pattern := `(?m)^(?:local )?function ` + regexp.QuoteMeta(function) + `\(|^func ` + regexp.QuoteMeta(function) + `[\[(]`
	if of, name, method := strings.Cut(function, "."); method {
		pattern = `(?m)^func \(\w+ \*?` + of + `\) ` + name + `\(`
	}
	return regexp.MustCompile(pattern).Match(text)
}

// TestTheWalkOfARequestIsShort: at most 25 files in 7 packages, each entered once, and each
// file declares the function that the walk names.
func TestTheWalkOfARequestIsShort(t *testing.T) {
	t.Parallel()
	steps := readWalk(t, "The walk of a request to its hold")
	var entered []string
	for _, s := range steps {
		dir := strings.TrimSuffix(path.Dir(s.file), "/lua") // embedded by the package above it
		if len(entered) == 0 || entered[len(entered)-1] != dir {
			if slices.Contains(entered, dir) {
				t.Errorf("%s is entered twice, by %s", dir, s.file)
			}
			entered = append(entered, dir)
		}
		text, err := os.ReadFile(filepath.Join(root(), filepath.FromSlash(s.file)))
		if err != nil {
			t.Errorf("the walk names a file that is not there: %v", err)
			continue
		}
		if s.function != "" && !declares(text, s.function) {
			t.Errorf("%s does not declare %s", s.file, s.function)
		}
	}
	if len(steps) < 15 || len(steps) > 25 || len(entered) > 7 {
		t.Errorf("want 15 to 25 files in at most 7 packages, got %d in %v", len(steps), entered)
	}
}

// TestTheWalkOfAnAnswerIsThere: each file that it names.
func TestTheWalkOfAnAnswerIsThere(t *testing.T) {
	t.Parallel()
	steps := readWalk(t, "The walk of an answer to the books")
	for _, s := range steps {
		if _, err := os.Stat(filepath.Join(root(), filepath.FromSlash(s.file))); err != nil {
			t.Errorf("the walk names a file that is not there: %v", err)
		}
	}
	if len(steps) < 5 {
		t.Errorf("want the walk's files, got %d", len(steps))
	}
}

// TestThePackagesOfTheWalkImportTheNext reads the imports: a package of the walk is
// imported by one before it, or Envoy stands between them.
func TestThePackagesOfTheWalkImportTheNext(t *testing.T) {
	t.Parallel()
	imports := map[string][]string{}
	for _, s := range sources(t) {
		for _, imp := range s.file.Imports {
			if dep, ours := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module); ours && !strings.HasSuffix(s.path, "_test.go") {
				imports[path.Dir(s.path)] = append(imports[path.Dir(s.path)], dep)
			}
		}
	}
	for _, c := range []struct{ from, to string }{
		{"extauthz", "internal/grpcbatch"}, {"ratelimit", "internal/grpcbatch"}, {"ratelimit", "ratelimit/wire"},
		{"ratelimit", "ratelimit/match"}, {"ratelimit", "ratelimit/store"},
	} {
		if !slices.Contains(imports[c.from], c.to) {
			t.Errorf("the walk goes from %s to %s, which it does not import", c.from, c.to)
		}
	}
	for _, dir := range []string{"ratelimit/wire", "ratelimit/match"} {
		for _, dep := range imports[dir] {
			if dep == "ratelimit/store" || dep == "ratelimit" {
				t.Errorf("%s imports %s: who reads Envoy's message does not talk to Redis", dir, dep)
			}
		}
	}
}
