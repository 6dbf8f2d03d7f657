package api_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the sums anew")

// TestTheCodeIsThatOfTheDocument: whoever changes openapi.yaml generates anew. make generate-client does, and
// ends with this test and -update.
func TestTheCodeIsThatOfTheDocument(t *testing.T) {
	t.Parallel()
	const file = "SHA256SUMS"
	var sums []byte
	for _, name := range []string{"openapi.yaml", "client/api/generate.yaml", "client/api/overlay.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		sums = fmt.Appendf(sums, "%x  %s\n", sha256.Sum256(text), name)
	}
	if *update {
		if err := os.WriteFile(file, sums, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != string(sums) {
		t.Errorf("the document or how code is made of it has changed: make generate-client (%v)\nwant\n%s\ngot\n%s", err, want, sums)
	}
}
