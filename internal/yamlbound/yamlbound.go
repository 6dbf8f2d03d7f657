// Package yamlbound is beside the request path: it says which text no YAML parser should be given. The
// library keeps a path at each level of nesting, so that time and memory grow with the square of the
// depth, and it does so before anything can be checked: fifty kilobytes of brackets cost gigabytes.
package yamlbound

import (
	"bytes"
	"fmt"
)

const (
	// MaxFile is the largest text, in bytes. Ten thousand models take one MiB.
	MaxFile = 4 << 20
	// maxNesting is how deep a text may nest. Descriptors of limits, which are the deepest that there are,
	// come to less than 40.
	maxNesting = 64
)

// Unparseable is what speaks against parsing a text; empty: nothing. The line counts from 1.
func Unparseable(text []byte) (message string, line int) {
	if len(text) > MaxFile {
		return fmt.Sprintf("the file has %d bytes, at most %d are read", len(text), MaxFile), 1
	}
	var n nest
	for i := 0; i < len(text); i++ {
		if i == 0 || text[i-1] == '\n' {
			n.line(text, i)
		}
		switch c := text[i]; {
		case c == '[' || c == '{':
			n.brackets++
		case c == ']' || c == '}':
			n.brackets = max(0, n.brackets-1)
		case c == '#' && apart(text, i):
			i += lineEnd(text[i:]) - 1
		case c == '"' || c == '\'':
			i += quoted(text[i:], c) - 1
		case indicator(text, i):
			n.columns = append(n.columns, i-n.begin+1)
		}
		if n.brackets+len(n.columns) > maxNesting {
			return fmt.Sprintf("it nests more than %d deep", maxNesting), 1 + bytes.Count(text[:i], []byte("\n"))
		}
	}
	return "", 0
}

// nest is how deep a place of a text stands: in how many brackets, and in how many blocks, which are told
// by their columns. A block ends where a line begins at its column or before it. That is no parser: what
// stands in a long text between | and its end counts too, and may make it deeper than it is, but a text
// that is as deep as it looks is always seen.
type nest struct {
	brackets int
	columns  []int // of the open blocks, growing; from 0
	begin    int   // of the line
}

// line begins a line at i: it ends blocks, and begins one where it is indented deeper than all. Lines that
// say nothing do neither, and within brackets indentation means nothing.
func (n *nest) line(text []byte, i int) {
	n.begin = i
	for i < len(text) && text[i] == ' ' {
		i++
	}
	if i == len(text) || text[i] == '\n' || text[i] == '\r' || text[i] == '#' {
		return
	}
	column := i - n.begin
	for len(n.columns) > 0 && n.columns[len(n.columns)-1] >= column {
		n.columns = n.columns[:len(n.columns)-1]
	}
	if n.brackets == 0 && !indicator(text, i) {
		n.columns = append(n.columns, column)
	}
}

// indicator reports whether a member of a list, or a key, begins at i: each makes the line one deeper, as
// in - - - a. The library takes them within brackets too.
func indicator(text []byte, i int) bool {
	return (text[i] == '-' || text[i] == '?') && apart(text, i) && (i+1 == len(text) || space(text[i+1]))
}

// apart reports whether nothing that i could be a part of stands before it.
func apart(text []byte, i int) bool {
	return i == 0 || space(text[i-1]) || text[i-1] == '[' || text[i-1] == '{' || text[i-1] == ','
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func lineEnd(text []byte) int {
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		return i
	}
	return len(text)
}

// quoted is the length of the quoted text that text begins with. One that does not end is an
// apostrophe in a word, and as long as itself.
func quoted(text []byte, quote byte) int {
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote == '"':
			i++
		case text[i] == quote:
			return i + 1
		case text[i] == '\n':
			return 1
		}
	}
	return 1
}
