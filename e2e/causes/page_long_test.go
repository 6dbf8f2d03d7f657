//go:build long

package causes

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// section is one symptom of docs/operations.md: the command that it begins with and its table, in order.
type section struct {
	command []string // without "leaky"
	rows    []row
}

// row is a line of the table: what the command says and which commands come next.
type row struct {
	says     []string // texts that the output has, in their order
	commands []string
}

var (
	indented = regexp.MustCompile(`(?m)^    leaky (.*)$`)
	codes    = regexp.MustCompile("`([^`]+)`")
)

// symptom reads a section of the page.
func symptom(t *testing.T, title string) section {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "\n## "+title+"\n")
	body, _, _ := strings.Cut(after, "\n## ")
	command := indented.FindStringSubmatch(body)
	if !found || command == nil {
		t.Fatalf("docs/operations.md has no section %q that begins with a command", title)
	}
	s := section{command: strings.Fields(command[1])}
	for _, line := range strings.Split(body, "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || !strings.HasPrefix(line, "| `") && !strings.HasPrefix(line, "| none") {
			continue
		}
		r := row{}
		if said := codes.FindStringSubmatch(cells[0]); said != nil {
			r.says = strings.Split(said[1], "...")
		}
		for _, m := range codes.FindAllStringSubmatch(cells[2], -1) {
			if command, is := strings.CutPrefix(m[1], "leaky "); is {
				r.commands = append(r.commands, command)
			}
		}
		s.rows = append(s.rows, r)
	}
	if len(s.rows) < 5 {
		t.Fatalf("%s: want a table, got %+v", title, s.rows)
	}
	return s
}

// follow is the first row that fits what the command said, as somebody reads the table from above.
func (s section) follow(output string) (row, bool) {
	for _, r := range s.rows {
		at, fits := 0, true
		for _, text := range r.says {
			i := strings.Index(output[at:], strings.TrimSpace(text))
			if fits = fits && i >= 0; fits {
				at += i
			}
		}
		if fits {
			return r, true
		}
	}
	return row{}, false
}
