package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestBackupCommands runs what docs/operations.md tells an operator to do while everything runs: a backup,
// and a look whether it is whole. The way back needs empty stores, which package main's tests have.
func TestBackupCommands(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	const folder = "/var/backups/leaky/today"
	commands := regexp.MustCompile(`(?m)^    (leaky (?:backup|restore --check) `+folder+`.*)$`).FindAllStringSubmatch(string(text), -1)
	if len(commands) != 2 {
		t.Fatalf("want a backup and its check in docs/operations.md, got %q", commands)
	}
	script, dir := "set -e\n", filepath.Join(t.TempDir(), "today")
	for _, c := range commands {
		script += strings.ReplaceAll(c[1], folder, dir) + "\n"
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Env = append(running.Env, "PATH="+filepath.Dir(running.Bin)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "A restore brings back ") {
		t.Fatalf("%v\n%s", err, out)
	}
}
