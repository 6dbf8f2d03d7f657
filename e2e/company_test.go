package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// TestTheExampleCompanyIsApplied to accounts of our own: all of it, then nothing more, then one change.
func TestTheExampleCompanyIsApplied(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "company.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ann, bob, cid := newVisitor(t), newVisitor(t), newVisitor(t)
	company := strings.NewReplacer("Acme Corp", "Acme "+uuid.NewString(), "user: ann", "user: "+ann.name, "user: bob", "user: "+bob.name,
		"cid@example.org", cid.name+"@example.com").Replace(string(text))
	path := filepath.Join(t.TempDir(), "company.yaml")
	apply := func(text, want string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := running.Leaky(t.Context(), "apply", "-f", path)
		if err != nil || !strings.Contains(out, want) {
			t.Fatalf("want %q, got %v\n%s", want, err, out)
		}
	}
	if out, err := running.Leaky(t.Context(), "apply", "-f", "/dev/null"); err != nil || !strings.Contains(out, "0 CHANGES") {
		t.Errorf("an empty file: %v\n%s", err, out)
	}
	apply(company, "11 CHANGES")
	apply(company, "0 CHANGES")
	apply(strings.Replace(company, "tokens: 50000", "tokens: 60000", 1), "60000 tokens of gemini, which had 50000")
	apply(strings.Replace(company, "tokens: 50000", "tokens: 40000", 1), "0 CHANGES")
	apply(strings.Replace(company, "team: search", "team: support", 1), "~ member "+bob.name)
	for command, want := range map[string]string{"usage --by provider -o json": "[", "users list -q " + bob.name: bob.name + "@example.com"} {
		if out, err := running.Leaky(t.Context(), strings.Fields(command)...); err != nil || !strings.Contains(out, want) {
			t.Errorf("leaky %s: want %q, got %v\n%s", command, want, err, out)
		}
	}
	if out, err := running.Leaky(t.Context(), "orgs", "list"); err != nil || !strings.Contains(out, "Acme ") {
		t.Errorf("the organisation is not listed: %v\n%s", err, out)
	}
}
