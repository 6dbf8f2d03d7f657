package chdb

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
)

// insertion is an INSERT whose rows come with the request.
type insertion struct {
	head   string // INSERT INTO t (columns)
	tail   string // SETTINGS ..., if any
	format string // of the rows
	data   []byte
}

// splitInsert finds the rows in an INSERT ... FORMAT f or INSERT ... VALUES. Given to the
// engine as they are, after the statement, they would be cut: it was made for text on a
// command line and takes white space and semicolons for the end. Where they begin is as
// ClickHouse's ParserInsertQuery has it: after the format's name, blanks, and at most one
// line break. False: not such a statement; it goes to the engine as it is.
func splitInsert(text []byte) (insertion, bool) {
	l := lexer{text: text}
	if !strings.EqualFold(l.next(), "INSERT") {
		return insertion{}, false
	}
	end := -1 // of the head
	for depth, word := 0, l.next(); word != ""; word = l.next() {
		switch strings.ToUpper(word) {
		case "(":
			depth++
		case ")":
			depth--
		case "SELECT", "WITH", "FROM", "WATCH", ";":
			if depth == 0 {
				return insertion{}, false
			}
		case "SETTINGS":
			if depth == 0 && end < 0 {
				end = l.start
			}
		case "VALUES", "FORMAT":
			if depth != 0 {
				continue
			}
			in := insertion{format: "Values"}
			if end < 0 {
				end = l.start
			}
			in.head, in.tail = string(text[:end]), string(text[end:l.start])
			if strings.EqualFold(word, "FORMAT") {
				in.format = l.next()
			}
			if !isWord(in.format) {
				return insertion{}, false
			}
			in.data = afterLineBreak(text[l.pos:])
			return in, true
		}
	}
	return insertion{}, false
}

func afterLineBreak(data []byte) []byte {
	data = bytes.TrimLeft(data, " \t\f")
	data = bytes.TrimPrefix(data, []byte("\r"))
	return bytes.TrimPrefix(data, []byte("\n"))
}

// fromFile puts the rows into a file without a name and gives the statement that reads it.
func (in insertion) fromFile(dir string) (statement string, done func(), err error) {
	file, err := os.CreateTemp(dir, "insert-")
	if err != nil {
		return "", nil, fmt.Errorf("keep rows of insert: %w", err)
	}
	done = func() { file.Close() }
	err = os.Remove(file.Name())
	if err == nil {
		_, err = file.Write(in.data)
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		done()
		return "", nil, fmt.Errorf("keep rows of insert: %w", err)
	}
	return fmt.Sprintf("%s FROM INFILE '/dev/fd/%d' COMPRESSION 'none' %s FORMAT %s", in.head, file.Fd(), in.tail, in.format), done, nil
}

// lexer splits a statement into words, quoted names, and single signs; it skips blanks
// and comments.
type lexer struct {
	text  []byte
	start int // of the last token
	pos   int // after it
}

// next gives the next token, "" at the end. Quoted ones come as their opening quote.
func (l *lexer) next() string {
	l.skip()
	l.start = l.pos
	if l.pos == len(l.text) {
		return ""
	}
	switch c := l.text[l.pos]; {
	case c == '\'' || c == '"' || c == '`':
		l.quoted(c)
		return string(c)
	case wordByte(c):
		for l.pos < len(l.text) && wordByte(l.text[l.pos]) {
			l.pos++
		}
	default:
		l.pos++
	}
	return string(l.text[l.start:l.pos])
}

func wordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

func isWord(s string) bool { return s != "" && wordByte(s[0]) }

// quoted passes a quoted string: a backslash or a doubled quote does not end it.
func (l *lexer) quoted(quote byte) {
	for l.pos++; l.pos < len(l.text); l.pos++ {
		switch l.text[l.pos] {
		case '\\':
			l.pos++
		case quote:
			if l.pos+1 == len(l.text) || l.text[l.pos+1] != quote {
				l.pos++
				return
			}
			l.pos++
		}
	}
	l.pos = len(l.text)
}

func (l *lexer) skip() {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case bytes.IndexByte([]byte(" \t\n\v\f\r"), rest[0]) >= 0:
			l.pos++
		case bytes.HasPrefix(rest, []byte("--")), bytes.HasPrefix(rest, []byte("#!")), bytes.HasPrefix(rest, []byte("# ")):
			l.to(rest, "\n")
		case bytes.HasPrefix(rest, []byte("/*")):
			l.to(rest, "*/")
		default:
			return
		}
	}
}

// to moves behind the mark, or to the end.
func (l *lexer) to(rest []byte, mark string) {
	if i := bytes.Index(rest[1:], []byte(mark)); i >= 0 {
		l.pos += 1 + i + len(mark)
		return
	}
	l.pos = len(l.text)
}
