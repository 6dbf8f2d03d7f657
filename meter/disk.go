package meter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	diskEvery  = 100 * time.Millisecond // how often the room on disk is looked at
	envoyEvery = time.Second            // and Envoy's counts of failed writes
	envoyWait  = time.Second

	// What is kept free on the spool's disk, and the ballast that gives some of it back at once: so
	// much, or a part of a small disk.
	mostReserve, reservePart = 64 << 20, 20
	mostBallast, ballastPart = 4 << 20, 16
	leastBytes               = 64 << 10
)

// Why the spool cannot be written; a label of leaky_meter_spool_unwritable.
const (
	unwritableFull   = "disk_full"
	unwritableFailed = "write_failed"
)

// disk watches whether Envoy can write the spool. A line that is not written is a call that nobody
// hears of, so calls must stop before lines do:
//
//	room ──free < reserve: the ballast is dropped──▶ full
//	 ▲                                                │
//	 └──free for ballast and twice the reserve────────┘
//
// The ballast is a file that takes room while there is some. What it gives back lets the calls that
// are running end in the log, and the checkpoint be written.
type disk struct {
	spool  string
	stats  string // URL of Envoy's counters; empty: they are not looked at
	client *http.Client
	room   func(dir string) (free, total int64, err error) // bytes

	full    bool
	failing bool         // Envoy's last writes failed
	before  *writeCounts // when they were last looked at

	looked atomic.Bool // at Envoy's counts
	free   atomic.Int64
	reason atomic.Pointer[string] // label and words; nil: all is well
}

// writeCounts are counters of Envoy's.
type writeCounts struct{ failed, completed, unopened int64 }

func (d *disk) ballast() string { return filepath.Join(filepath.Dir(d.spool), "meter.ballast") }

// problem is why the spool cannot be written; empty: it can.
func (d *disk) problem() string {
	if why := d.reason.Load(); why != nil {
		return *why
	}
	return ""
}

// watch looks until ctx ends. changed is told what is new, also at the first look.
func (d *disk) watch(ctx context.Context, changed func(label, problem string)) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	var asked time.Time
	first, last := true, ""
	for {
		label, problem := d.look()
		if now := time.Now(); d.stats != "" && now.Sub(asked) >= envoyEvery {
			asked = now
			if counts, err := d.ask(ctx); err == nil { // an Envoy that does not answer writes nothing either
				d.compare(counts)
				d.looked.Store(true)
			}
		}
		if problem == "" && d.failing {
			label, problem = unwritableFailed, "envoy cannot write "+d.spool+": its log of what calls used is not complete"
		}
		if d.reason.Store(&problem); first || label != last {
			changed(label, problem)
		}
		first, last = false, label
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look judges the room on disk.
func (d *disk) look() (label, problem string) {
	free, total, err := d.room(filepath.Dir(d.spool))
	if err != nil {
		return "", "" // no folder yet: whoever makes it will see
	}
	d.free.Store(free)
	reserve, ballast := sizes(total)
	kept := int64(0)
	if info, err := os.Stat(d.ballast()); err == nil {
		kept = info.Size()
	}
	switch {
	case free < reserve:
		d.full = true
		_ = os.Remove(d.ballast()) // it may be gone already
	case d.full && free+kept >= ballast+2*reserve:
		d.full = false
	}
	if !d.full && kept < ballast && free >= ballast+reserve {
		if err := takeRoom(d.ballast(), ballast); err != nil { // somebody was faster
			_ = os.Remove(d.ballast())
		}
	}
	if d.full {
		return unwritableFull, fmt.Sprintf("the disk of %s is full: %d bytes are free, %d are needed", filepath.Dir(d.spool), free, ballast+2*reserve)
	}
	return "", ""
}

// roomOf is what is free and what there is of a folder's file system, in bytes.
func roomOf(dir string) (free, total int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("look at the room of %s: %w", dir, err)
	}
	size := int64(s.Bsize) //nolint:unconvert // not everywhere an int64
	return int64(s.Bavail) * size, int64(s.Blocks) * size, nil
}

// sizes are how much is kept free, and how large the ballast is.
func sizes(total int64) (reserve, ballast int64) {
	return max(leastBytes, min(mostReserve, total/reservePart)), max(leastBytes, min(mostBallast, total/ballastPart))
}

// takeRoom writes a file of noise, which no file system stores in less.
func takeRoom(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make ballast: %w", err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, f.Close())
}

// ask reads Envoy's counters of files that it writes.
func (d *disk) ask(ctx context.Context) (writeCounts, error) {
	ctx, cancel := context.WithTimeout(ctx, envoyWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.stats, http.NoBody)
	if err != nil {
		return writeCounts{}, fmt.Errorf("ask envoy what it wrote: %w", err)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return writeCounts{}, fmt.Errorf("ask envoy what it wrote: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || resp.StatusCode != http.StatusOK {
		return writeCounts{}, fmt.Errorf("ask envoy what it wrote: %s, %w", resp.Status, err)
	}
	return parseCounts(string(text)), nil
}

// parseCounts reads "name: number" lines.
func parseCounts(text string) (c writeCounts) {
	for line := range strings.Lines(text) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "filesystem.write_failed":
			c.failed = n
		case "filesystem.reopen_failed":
			c.unopened = n
		case "filesystem.write_completed":
			c.completed = n
		}
	}
	return c
}

// compare judges Envoy's counters by what they were: a failure counts until a later write succeeds.
// An Envoy that started anew counts from zero.
func (d *disk) compare(now writeCounts) {
	before := d.before
	d.before = &now
	if before == nil {
		return
	}
	if now.completed < before.completed || now.failed < before.failed {
		before = &writeCounts{}
	}
	switch {
	case now.failed > before.failed || now.unopened > before.unopened:
		d.failing = true
	case now.completed > before.completed:
		d.failing = false
	}
}
