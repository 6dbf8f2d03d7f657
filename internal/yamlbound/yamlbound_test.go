package yamlbound_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/yamlbound"
)

// staircase is n blocks in each other, each begun on a line of its own.
func staircase(n int, step string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i*len(step)) + step + "\n")
	}
	return b.String()
}

func TestDeepTextsAreSeen(t *testing.T) {
	t.Parallel()
	const n = 5_000
	line := strings.Repeat("- ", 60)
	for name, text := range map[string]string{
		"lists":                       strings.Repeat("[", n),
		"maps":                        strings.Repeat("{a: ", n),
		"lists of a block":            strings.Repeat("- ", n) + "a",
		"after a document's begin":    "a: 1\n--- " + strings.Repeat("- ", n) + "a",
		"keys of a block":             strings.Repeat("? ", n) + "a",
		"both":                        strings.Repeat("- ? ", n) + "a",
		"behind a key":                "k: " + strings.Repeat("- ", n) + "a",
		"behind a tag":                "!t " + strings.Repeat("- ", n) + "a",
		"tags between":                strings.Repeat("!t - ", n) + "a",
		"within brackets":             "- [" + strings.Repeat("- ", n) + "a",
		"a hash in a word":            "{a#b: " + strings.Repeat("[", n),
		"indented":                    staircase(100, "a:"),
		"indented lists":              staircase(100, "- "),
		"lists on two lines":          line + "\n" + strings.Repeat(" ", len(line)) + line + "a",
		"lists on two, in brackets":   "[" + line + "\n" + strings.Repeat(" ", len(line)+2) + line + "a",
		"brackets in an indented one": staircase(40, "a:") + strings.Repeat(" ", 100) + strings.Repeat("[", 40),
	} {
		if message, at := yamlbound.Unparseable([]byte(text)); !strings.Contains(message, "more than 64 deep") || at < 1 {
			t.Errorf("%s: want it seen, got %q, line %d", name, message, at)
		}
	}
	if _, at := yamlbound.Unparseable([]byte("a: 1\n\nb: " + strings.Repeat("[", n))); at != 3 {
		t.Errorf("want line 3, got %d", at)
	}
	if message, _ := yamlbound.Unparseable(make([]byte, yamlbound.MaxFile+1)); !strings.Contains(message, "4194305 bytes") {
		t.Errorf("a large one: got %q", message)
	}
}

func TestWhatOnlyLooksDeepIsTaken(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"many members":  strings.Repeat("- a\n", 10_000),
		"many keys":     strings.Repeat("k:\n  - a\n  - b: 1\n    c: [1, {d: 2}]\n", 1_000),
		"windows":       strings.Repeat("k:\r\n\r\n  - a\r\n", 1_000),
		"a comment":     "# " + strings.Repeat("- [", 1_000) + "\na: 1 # " + strings.Repeat("- {", 1_000) + "\n",
		"quoted":        "a: '" + strings.Repeat("[", 1_000) + "'\nb: \"" + strings.Repeat("- \\\"[", 1_000) + "\"\n",
		"16 deep":       staircase(32, "- "),
		"a deep column": "a:\n" + strings.Repeat(" ", 200) + "b: 1\n",
		"words":         strings.Repeat("a-b --c ", 1_000),
		"empty":         "",
	} {
		if message, line := yamlbound.Unparseable([]byte(text)); message != "" {
			t.Errorf("%s: want it taken, got %q, line %d", name, message, line)
		}
	}
}

// TestOurOwnFilesAreTaken, and those that people take for a beginning.
func TestOurOwnFilesAreTaken(t *testing.T) {
	t.Parallel()
	read := 0
	err := filepath.WalkDir(filepath.Join("..", "..", "deploy"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" && filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if message, line := yamlbound.Unparseable(text); message != "" && len(text) <= yamlbound.MaxFile {
			t.Errorf("%s:%d: %s", path, line, message)
		}
		read++
		return err
	})
	if err != nil || read < 10 {
		t.Errorf("%d files: %v", read, err)
	}
}

// FuzzUnparseable looks at any text without a panic, and names a line that there is.
func FuzzUnparseable(f *testing.F) {
	f.Add([]byte("- - [{a#: '"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if message, line := yamlbound.Unparseable(text); message != "" && (line < 1 || line > 1+strings.Count(string(text), "\n")) {
			t.Errorf("line %d", line)
		}
	})
}
