package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheSnippetsOfSignInWork pastes what docs/sign-in.md shows.
func TestTheSnippetsOfSignInWork(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "sign-in.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string]string{}
	for _, block := range regexp.MustCompile("(?s)```(sh|python)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks[block[1]] += block[2]
	}
	job := newApp(t, newAccount(t, "ADMIN"), jobApp("tokens.read"))
	for program, wanted := range map[string][]string{"sh": {`"object":"list"`, `"active":true`, job.ClientID}, "python": {"gpt-4o-mini"}} {
		run := map[string]string{"sh": "sh", "python": "python3"}[program]
		cmd := exec.CommandContext(t.Context(), run, "-c", blocks[program])
		cmd.Env = append(os.Environ(), "GATEWAY="+running.Gateway, "CLIENT_ID="+job.ClientID, "CLIENT_SECRET="+job.ClientSecret)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", program, err, out)
		}
		for _, want := range wanted {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: want %s in\n%s", program, want, out)
			}
		}
	}
}
