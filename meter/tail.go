package meter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
)

const (
	bufferBytes = 512 << 10
	// silence is how long a file that has a successor must have been quiet to be finished.
	// Envoy closes the old file before it opens the new one, so this only guards others.
	silence = 300 * time.Millisecond
	// lookEvery is how often the folder is looked at while nothing is written.
	lookEvery = 100 * time.Millisecond
)

// tail reads the spool's lines in order, over rotated files (path.1, path.2, ...) and the
// one that is written. One goroutine uses it.
type tail struct {
	path string
	buf  []byte

	file     *os.File // being read; nil: none is there
	inode    uint64
	offset   int64
	head     []byte
	skipping bool // in the middle of a line that is too long

	finished []source  // read to the end, kept until checkpointed
	grown    time.Time // when the file last gave something
	looked   time.Time
}

// source is one file of the spool.
type source struct {
	path  string
	inode uint64
	// file keeps a finished one open: were it deleted by somebody, a new file could get its inode, and
	// be taken for finished.
	file *os.File
}

// batch is some lines of the spool. The lines are valid until the next call.
type batch struct {
	lines   [][]byte
	damaged [][]byte // too long, or cut off for good; at most spool.MaxLine of each
	start   position
	end     position
}

func newTail(path string) *tail { return &tail{path: path, buf: make([]byte, bufferBytes)} }

// seek goes to a position. found is false when it is gone: reading then begins with the
// oldest file.
func (t *tail) seek(p position) (found bool, err error) {
	t.close()
	t.forget(len(t.finished))
	all, err := t.sources()
	if err != nil {
		return false, err
	}
	at := slices.IndexFunc(all, func(s source) bool { return s.inode == p.Inode })
	if at >= 0 && p.Inode != 0 {
		if err := t.open(all[at]); err != nil {
			return false, err
		}
		if t.file != nil && t.holds(p) {
			t.keep(all[:at])
			t.offset = p.Offset
			return true, nil
		}
		t.close()
	}
	if len(all) == 0 {
		return false, nil
	}
	return false, t.open(all[0])
}

// holds says that the open file is the one the position was taken in.
func (t *tail) holds(p position) bool {
	info, err := t.file.Stat()
	if err != nil || info.Size() < p.Offset {
		return false
	}
	head := make([]byte, p.HeadBytes)
	if n, _ := t.file.ReadAt(head, 0); n < p.HeadBytes || hashHead(head) != p.Head {
		return false
	}
	return p.Foot == 0 || t.foot(p.Offset, p.HeadBytes) == p.Foot
}

// foot is the hash of the n bytes before an offset, 0 when they are not all there.
func (t *tail) foot(offset int64, n int) uint64 {
	foot := make([]byte, n)
	if got, _ := t.file.ReadAt(foot, offset-int64(n)); got < n {
		return 0
	}
	return hashHead(foot)
}

// sources lists the spool's files, oldest first; the one being written is the last.
func (t *tail) sources() ([]source, error) {
	names, err := filepath.Glob(t.path + ".*")
	if err != nil {
		return nil, fmt.Errorf("list spool: %w", err)
	}
	slices.SortFunc(names, func(a, b string) int { return t.number(a) - t.number(b) })
	var all []source
	for _, name := range append(names, t.path) {
		if name != t.path && t.number(name) == 0 {
			continue
		}
		if inode, err := inodeOf(name); err == nil {
			all = append(all, source{path: name, inode: inode})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list spool: %w", err)
		}
	}
	return all, nil
}

// number is N of path.N, 0 for any other name.
func (t *tail) number(name string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(name, t.path+"."))
	if err != nil || n < 1 {
		return 0
	}
	return n
}

func inodeOf(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return inode(info), nil
}

func inode(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

func (t *tail) open(s source) error {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open spool: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open spool: %w", err)
	}
	t.file, t.inode, t.offset, t.head, t.skipping, t.grown = f, inode(info), 0, nil, false, time.Now()
	return nil
}

// keep takes files for finished that were so before a start.
func (t *tail) keep(before []source) {
	for _, s := range before {
		f, err := os.Open(s.path)
		if err != nil {
			continue // it is gone, or will be taken for new at the next start
		}
		if info, err := f.Stat(); err != nil || inode(info) != s.inode {
			f.Close()
			continue
		}
		s.file = f
		t.finished = append(t.finished, s)
	}
}

// forget lets go the oldest n finished files.
func (t *tail) forget(n int) {
	for _, s := range t.finished[:n] {
		if s.file != nil {
			s.file.Close()
		}
	}
	t.finished = slices.Delete(t.finished, 0, n)
}

func (t *tail) close() {
	if t.file != nil {
		t.file.Close()
	}
	t.file, t.inode, t.offset = nil, 0, 0
}

// position is where the next line begins.
func (t *tail) position() position {
	n := int(min(headBytes, t.offset))
	if len(t.head) < n {
		t.head = make([]byte, n)
		if got, _ := t.file.ReadAt(t.head, 0); got < n {
			t.head = t.head[:got]
		}
	}
	n = min(n, len(t.head))
	return position{Inode: t.inode, Offset: t.offset, HeadBytes: n, Head: hashHead(t.head[:n]), Foot: t.foot(t.offset, n)}
}

// next gives at most limit lines; none when nothing new is there. A last line without its
// newline waits.
func (t *tail) next(limit int) (batch, error) {
	if t.file == nil {
		if _, err := t.seek(position{}); err != nil || t.file == nil {
			return batch{}, err
		}
	}
	b := batch{start: t.position()}
	n, err := t.file.ReadAt(t.buf, t.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return batch{}, fmt.Errorf("read spool: %w", err)
	}
	t.take(&b, t.buf[:n], limit)
	if t.offset > b.start.Offset {
		t.grown = time.Now()
	} else if err := t.idle(&b, t.buf[:n]); err != nil {
		return batch{}, err
	}
	if t.file != nil {
		b.end = t.position()
	}
	return b, nil
}

// take cuts the text into lines and moves the offset behind them.
func (t *tail) take(b *batch, text []byte, limit int) {
	for len(b.lines)+len(b.damaged) < limit {
		end := bytes.IndexByte(text, '\n')
		if end < 0 {
			if len(text) > spool.MaxLine { // damage: skip to its newline, wherever that is
				if !t.skipping {
					b.damaged = append(b.damaged, text[:spool.MaxLine])
				}
				t.skipping = true
				t.offset += int64(len(text))
			}
			return
		}
		line := text[:end]
		text = text[end+1:]
		t.offset += int64(end) + 1
		switch {
		case t.skipping:
			t.skipping = false
		case len(line) > spool.MaxLine:
			b.damaged = append(b.damaged, line[:spool.MaxLine])
		case len(line) > 0:
			b.lines = append(b.lines, line)
		}
	}
}

// idle looks, now and then, whether the file was cut or has a successor.
func (t *tail) idle(b *batch, rest []byte) error {
	now := time.Now()
	if now.Sub(t.looked) < lookEvery {
		return nil
	}
	t.looked = now
	info, err := t.file.Stat()
	if err != nil {
		return fmt.Errorf("look at spool: %w", err)
	}
	if info.Size() < t.offset { // cut in place: begin anew
		t.offset, t.head, t.skipping = 0, nil, false
		return nil
	}
	if current, err := inodeOf(t.path); err != nil || current == t.inode || now.Sub(t.grown) < silence {
		return nil // the new file is not there yet, or there is none, or the old one may still grow
	}
	if info.Size() > t.offset+int64(len(rest)) {
		return nil // something came between
	}
	return t.advance(b, rest)
}

// advance finishes the file and goes on with the next one.
func (t *tail) advance(b *batch, rest []byte) error {
	all, err := t.sources()
	if err != nil {
		return err
	}
	mine := slices.IndexFunc(all, func(s source) bool { return s.inode == t.inode }) // -1: deleted
	following := mine + 1
	for following < len(all) && slices.ContainsFunc(t.finished, func(s source) bool { return s.inode == all[following].inode }) {
		following++
	}
	if following >= len(all) {
		return nil
	}
	if len(rest) > 0 && !t.skipping {
		b.damaged = append(b.damaged, bytes.Clone(rest[:min(len(rest), spool.MaxLine)]))
	}
	done := source{inode: t.inode}
	if mine >= 0 {
		done = all[mine]
	}
	done.file, t.file = t.file, nil
	t.finished = append(t.finished, done)
	t.close()
	return t.open(all[following])
}

// release deletes rotated files that lie wholly before a checkpointed position.
func (t *tail) release(p position) error {
	if p.Inode == 0 || len(t.finished) == 0 {
		return nil
	}
	done := slices.IndexFunc(t.finished, func(s source) bool { return s.inode == p.Inode })
	if done < 0 && p.Inode == t.inode {
		done = len(t.finished)
	}
	if done < 0 {
		return nil // who knows which came before it
	}
	for _, s := range t.finished[:done] {
		// The name is looked at again: a rotation by somebody else may have moved the file.
		if inode, err := inodeOf(s.path); err != nil || inode != s.inode || s.path == t.path {
			continue
		}
		if err := os.Remove(s.path); err != nil {
			return fmt.Errorf("delete finished spool: %w", err)
		}
	}
	t.forget(done)
	return nil
}

// lag is the bytes that are written and not read.
func (t *tail) lag() int64 {
	all, err := t.sources()
	if err != nil {
		return 0
	}
	var lag int64
	for _, s := range all {
		if slices.ContainsFunc(t.finished, func(f source) bool { return f.inode == s.inode }) {
			continue
		}
		if info, err := os.Stat(s.path); err == nil {
			lag += info.Size()
		}
	}
	return max(0, lag-t.offset)
}
