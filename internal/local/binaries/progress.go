package binaries

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/term"
)

// bar is the progress of one download: a line that is rewritten on a terminal, and a
// line every few seconds elsewhere. The package managers say little when they are not on
// a terminal, so the growing files tell.
type bar struct {
	w        io.Writer
	label    string
	total    int64
	dir      string
	terminal bool
	done     chan struct{}
	wg       sync.WaitGroup
	start    time.Time
}

func startBar(w io.Writer, p Part, f File, dir string) *bar {
	b := &bar{w: w, label: fmt.Sprintf("  %-10s %-20s", p.Name, p.Version), total: f.Bytes, dir: dir, done: make(chan struct{}),
		start: time.Now()}
	if file, ok := w.(*os.File); ok {
		b.terminal = term.IsTerminal(int(file.Fd()))
	}
	every := 3 * time.Second
	if b.terminal {
		every = 200 * time.Millisecond
	}
	b.show()
	b.wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-b.done:
				return
			case <-tick.C:
				b.show()
			}
		}
	})
	return b
}

func (b *bar) show() {
	// Scratch files beside the archive can add up to more than it has.
	b.line(fmt.Sprintf("%7.1f of %.1f MB", mega(min(size(b.dir), b.total)), mega(b.total)), false)
}

func (b *bar) stop(ok bool) {
	close(b.done)
	b.wg.Wait()
	if !ok {
		b.line("failed", true)
		return
	}
	b.line(fmt.Sprintf("%7.1f of %.1f MB, checked, %.1f s", mega(b.total), mega(b.total), time.Since(b.start).Seconds()), true)
}

func (b *bar) line(text string, last bool) {
	switch {
	case !b.terminal:
		fmt.Fprintf(b.w, "%s %s\n", b.label, text)
	case last:
		fmt.Fprintf(b.w, "\r%s %s\x1b[K\n", b.label, text)
	default:
		fmt.Fprintf(b.w, "\r%s %s\x1b[K", b.label, text)
	}
}

func mega(n int64) float64 { return float64(n) / 1e6 }

// size adds up the files of a folder in which another process works: what vanishes
// meanwhile counts nothing.
func size(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // vanished
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	return sum
}
