package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

const (
	// maxFile is the largest leaky.yaml or limits file, in bytes. Ten thousand models take one MiB.
	maxFile = 4 << 20
	// MaxPEM is the largest file with certificates or their key, in bytes.
	MaxPEM = 1 << 20
	// maxNesting is how deep brackets may stand in each other. The YAML library takes a time that
	// grows with the square of it.
	maxNesting = 64
	// readWait bounds the wait for what a pipe has: `leaky check <(...)` is one.
	readWait = 10 * time.Second
)

// ReadFile reads a file of the configuration. One that is larger than any can be is not read:
// every part looks at it each second.
func ReadFile(path string) ([]byte, error) { return ReadAtMost(path, maxFile) }

// ReadAtMost reads a small file that is looked at while the product runs, such as a key; one of more
// bytes than most is an error. What stands in its place by mistake does no harm: of a device, which
// never ends, no more is read, and a pipe is not waited for that nobody writes to, or nobody ends. A part
// would never look at a file again.
func ReadAtMost(path string, most int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(readWait)) // a file has none, and needs none
	text, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(text) > most {
		return nil, fmt.Errorf("%s has more than %d bytes; nothing that belongs there is that large", path, most)
	}
	return text, err
}

// unparseable is what no YAML parser should be given; empty: nothing. The line is 1-based.
func unparseable(text []byte) (message string, line int) {
	if len(text) > maxFile {
		return fmt.Sprintf("the file has %d bytes, at most %d are read", len(text), maxFile), 1
	}
	depth := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '[', '{':
			if depth++; depth > maxNesting {
				return fmt.Sprintf("brackets stand in each other more than %d deep", maxNesting), 1 + bytes.Count(text[:i], []byte("\n"))
			}
		case ']', '}':
			depth = max(0, depth-1)
		case '#': // a comment, or part of a word; either ends with the line
			i += lineEnd(text[i:]) - 1
		case '"', '\'':
			i += quoted(text[i:], c) - 1
		}
	}
	return "", 0
}

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
