package e2e

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestREADMECommands pastes the README's shell blocks twice, into each shell that is here.
func TestREADMECommands(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		script.WriteString(block[1])
	}
	if !strings.Contains(script.String(), "/v1/chat/completions") {
		t.Fatalf("the README has no call in its shell blocks:\n%s", script.String())
	}
	for _, shell := range []string{"sh", "bash", "zsh", "dash"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // one that this machine has not; sh is everywhere
		}
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			name := "ada-" + strings.ToLower(rand.Text()[:8]) // also where the test runs twice
			once := strings.ReplaceAll(script.String(), "http://localhost:8080", running.Gateway)
			once = strings.ReplaceAll(once, `"ada"`, `"`+name+`"`)
			once = strings.ReplaceAll(once, "ada@", name+"@")
			out, err := exec.CommandContext(t.Context(), path, "-c", once+once).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for what, want := range map[string]int{`"chat.completion"`: 2, `"items":[`: 2, `"status":409`: 1, "Traceback": 0, "not found": 0} {
				if got := strings.Count(string(out), what); got != want {
					t.Errorf("%s: want %d times %s, got %d in\n%s", shell, want, what, got, out)
				}
			}
		})
	}
}
