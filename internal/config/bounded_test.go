package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// TestHostileTexts: none costs more than it is worth, and each is refused with its place.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for before, n := "a", 'b'; n < 'j'; before, n = string(n), n+1 {
		bomb += string(n) + ": &" + string(n) + " [" + strings.TrimSuffix(strings.Repeat("*"+before+",", 10), ",") + "]\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"bomb":            {bomb, ": unknown key"},
		"lists":           {"\n" + strings.Repeat("[", 1_000_000), "2:1: it nests more than 64 deep"},
		"maps":            {strings.Repeat("{a: ", 1_000_000), "1:1: it nests more than"},
		"a block's lists": {"gateway:\n  " + strings.Repeat("- ", 5_000) + "a", "2:1: it nests more than 64 deep"},
		"large":           {strings.Repeat("#", 50<<20), "the file has 52428800 bytes, at most 4194304 are read"},
		"tabs":            {"gateway:\n\tlisten: 127.0.0.1:1\n", "2:1: found character '\t'"},
		"a key twice":     {"gateway: {trusted_hops: 1, trusted_hops: 2}\n", `1:28: mapping key "trusted_hops" already defined`},
		"a part twice":    {"gateway: {}\ngateway: {}\n", `2:1: mapping key "gateway" already defined`},
		"two documents":   {"gateway: {}\n---\ngateway: {}\n", "3:8: the file holds more than one YAML document"},
		"half a file":     {"gateway: {listen: '127.0.0", "1:19:"},
		"zeros":           {"\x00\x00\x00", "1:1:"},
		"another's":       {"\x7fELF\x02\x01", "1:1:"},
		"brackets in it":  {"gateway: {listen: '" + strings.Repeat("[", 100) + "'} # " + strings.Repeat("[", 100) + "\n", "gateway.listen"},
	} {
		if _, err := config.Read("leaky.yaml", []byte(c.text), func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q, got %.300v", name, c.want, err)
		}
	}
}

func TestAFileThatIsTooLargeIsNotRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "leaky.yaml")
	if err := os.WriteFile(path, make([]byte, 50<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path, func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "more than 4194304 bytes") {
		t.Errorf("want it refused, got %v", err)
	}
}

// TestWhatIsNoFileIsReadAtMost: a pipe that nobody writes to says nothing, and a device no more than is
// asked for.
func TestWhatIsNoFileIsReadAtMost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe, file := filepath.Join(dir, "pipe"), filepath.Join(dir, "file")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := config.ReadAtMost(pipe, 5); err != nil || len(text) > 0 {
		t.Errorf("a pipe: got %q, %v", text, err)
	}
	if text, err := config.ReadAtMost(file, 5); err != nil || string(text) != "12345" {
		t.Errorf("a file: got %q, %v", text, err)
	}
	for _, path := range []string{"/dev/zero", file} {
		if text, err := config.ReadAtMost(path, 4); err == nil || !strings.Contains(err.Error(), "more than 4 bytes") || text != nil {
			t.Errorf("%s: want it refused, got %q, %v", path, text, err)
		}
	}
}
