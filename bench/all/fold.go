package main

import (
	"strings"
	"unicode/utf8"
)

// columns is how wide a document's lines are, but for tables.
const columns = 100

// fold breaks the lines of a report that are too wide between words. A list's item goes on indented.
func fold(report string) string {
	var out strings.Builder
	for line := range strings.Lines(report) {
		if strings.HasPrefix(line, "|") || utf8.RuneCountInString(line) <= columns+1 {
			out.WriteString(line)
			continue
		}
		indent := ""
		if strings.HasPrefix(line, "- ") {
			indent = "  "
		}
		width := 0
		for i, word := range strings.Fields(line) {
			n := utf8.RuneCountInString(word)
			switch {
			case i == 0:
			case width+1+n > columns:
				out.WriteString("\n" + indent)
				width = len(indent)
			default:
				out.WriteString(" ")
				width++
			}
			out.WriteString(word)
			width += n
		}
		out.WriteString("\n")
	}
	return out.String()
}
