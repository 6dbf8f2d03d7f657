package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// logLimit is how much of a part's log is kept in its file; one older file of at most
// this size stays beside it.
const logLimit = 10 << 20

// logFolder holds one file per part. Children append to it by themselves, so their
// output costs the supervisor nothing and survives it.
type logFolder string

func (d logFolder) path(part string) string { return filepath.Join(string(d), part+".log") }

// open rotates the part's log if it is large and opens it for appending.
func (d logFolder) open(part string) (*os.File, error) {
	if err := d.trim(part); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.path(part), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// trim moves a log above the limit aside. It copies and truncates, since a running
// process holds the file open (appending, so truncation is safe).
func (d logFolder) trim(part string) error {
	path := d.path(part)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && info.Size() <= logLimit) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	from, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	defer from.Close()
	if _, err := from.Seek(-logLimit, io.SeekEnd); err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	to, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	_, err = io.Copy(to, io.LimitReader(from, logLimit))
	if err = errors.Join(err, to.Close(), os.Truncate(path, 0)); err != nil {
		return fmt.Errorf("trim log: %w", err)
	}
	return nil
}

// LogPath is the file that part writes to.
func LogPath(logDir, part string) string { return logFolder(logDir).path(part) }

// Tail writes the last n lines of the part's log to w and, with follow, what comes
// after until ctx ends. n is at least 0.
func Tail(ctx context.Context, w io.Writer, path string, n int, follow bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	offset, err := lastLines(f, n)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	for {
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		copied, err := io.Copy(w, f)
		if err != nil {
			return fmt.Errorf("print log: %w", err)
		}
		offset += copied
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
		if info, err := f.Stat(); err == nil && info.Size() < offset {
			offset = 0 // trimmed meanwhile
		}
	}
}

// lastLines is the offset where the last n lines begin.
func lastLines(f *os.File, n int) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n <= 0 {
		return end, err
	}
	// A newline at the very end closes the last line instead of beginning one more.
	block, seen := make([]byte, 64<<10), -1
	for at := end; at > 0; {
		size := min(int64(len(block)), at)
		at -= size
		if _, err := f.ReadAt(block[:size], at); err != nil {
			return 0, err
		}
		if at+size == end && block[size-1] != '\n' {
			seen = 0
		}
		for rest := block[:size]; ; {
			i := bytes.LastIndexByte(rest, '\n')
			if i < 0 {
				break
			}
			if seen++; seen == n {
				return at + int64(i) + 1, nil
			}
			rest = rest[:i]
		}
	}
	return 0, nil
}

// OpenLog opens the log of a part for appending, rotated if it is large.
func OpenLog(logDir, part string) (*os.File, error) { return logFolder(logDir).open(part) }
