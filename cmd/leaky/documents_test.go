package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var (
	// inline is a command in a sentence, which may go on in the next line.
	inline = regexp.MustCompile("`(leaky\\s[^`]+)`")
	// line is one in a block; what is piped, chained or said beside it is another matter.
	line = regexp.MustCompile(`(?m)^(?:    |\t)?(?:[A-Z_]+=\S+ )*(leaky [a-z][^\n]*)$`)
	rest = regexp.MustCompile(`\s(#|[|<>&;\\]).*$|\)$|\[[^]]*\]`)
	// quoted is one argument.
	quoted = regexp.MustCompile(`"[^"]*"|'[^']*'`)
)

// TestCommandsOfDocumentsAreKnown: whatever the documents tell somebody to type is a command, with flags
// that it has. What stands for a value (NAME, FILE) is one.
func TestCommandsOfDocumentsAreKnown(t *testing.T) {
	t.Parallel()
	var documents []string
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "docs/*.md", "docs/design/*.md", "llms.txt"} {
		found, err := filepath.Glob(filepath.Join("..", "..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, found...)
	}
	seen := 0
	for _, path := range documents {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, pattern := range []*regexp.Regexp{inline, line} {
			for _, m := range pattern.FindAllStringSubmatch(string(text), -1) {
				seen++
				command := rest.ReplaceAllString(quoted.ReplaceAllString(strings.Join(strings.Fields(m[1]), " "), "TEXT"), "")
				if err := understood(strings.Fields(command)[1:]); err != nil {
					t.Errorf("%s: %q: %v", filepath.Base(path), command, err)
				}
			}
		}
	}
	if seen < 150 {
		t.Errorf("found only %d commands; is the pattern broken?", seen)
	}
}

// understood parses a command without running it. That arguments are missing is no fault of a sentence, nor
// that a file is not here.
func understood(args []string) error {
	k, err := kong.New(&cli{}, kong.Name("leaky"), served(), kong.Exit(func(int) {}), kong.Writers(io.Discard, io.Discard))
	if err != nil {
		return err
	}
	_, err = k.Parse(args)
	for _, fault := range []string{"unknown flag", "unexpected argument", "expected one of"} {
		if err != nil && strings.Contains(err.Error(), fault) {
			return err
		}
	}
	return nil
}
