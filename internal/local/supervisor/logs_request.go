package supervisor

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// longestLine is the longest line of a log that is looked at, in bytes.
const longestLine = 1 << 20

// found is a line of a log.
type found struct {
	part string
	at   time.Time // zero: the line does not say
	text []byte
}

// Trace writes the lines of all parts' logs that name an id, as part and line, in the order of their
// times; with follow it goes on as lines come, until ctx ends. It tells how many it wrote.
func Trace(ctx context.Context, w io.Writer, logDir, id string, follow bool) (int, error) {
	offsets, written := map[string]int64{}, 0
	for {
		paths, err := filepath.Glob(filepath.Join(logDir, "*.log"))
		if err != nil {
			return written, fmt.Errorf("list logs: %w", err)
		}
		var lines []found
		for _, path := range paths {
			if offsets[path] == 0 { // what was trimmed off comes first
				older, _, err := naming(path+".1", id, 0)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return written, err
				}
				lines = append(lines, older...)
			}
			newer, end, err := naming(path, id, offsets[path])
			if err != nil {
				return written, err
			}
			lines, offsets[path] = append(lines, newer...), end
		}
		slices.SortStableFunc(lines, func(a, b found) int { return cmp.Or(a.at.Compare(b.at), strings.Compare(a.part, b.part)) })
		for _, l := range lines {
			if _, err := fmt.Fprintf(w, "%-12s %s\n", l.part, l.text); err != nil {
				return written, fmt.Errorf("print log: %w", err)
			}
		}
		if written += len(lines); !follow {
			return written, nil
		}
		select {
		case <-ctx.Done():
			return written, nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// naming are the whole lines of a log that name an id, from an offset on, and where they end.
func naming(path, id string, offset int64) ([]found, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, offset, fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() < offset {
		offset = 0 // trimmed meanwhile
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, offset, fmt.Errorf("read log: %w", err)
	}
	part := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".1"), ".log")
	var all []found
	for lines := bufio.NewReaderSize(f, longestLine); ; {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull): // a part of a line that is too long
			offset += int64(len(line))
			continue
		case err != nil: // the last line is not whole yet
			return all, offset, nil
		}
		offset += int64(len(line))
		if !bytes.Contains(line, []byte(id)) {
			continue
		}
		var said struct{ Time time.Time }
		_ = json.Unmarshal(line, &said) // not every part writes JSON
		all = append(all, found{part, said.Time, bytes.Clone(bytes.TrimSpace(line))})
	}
}
