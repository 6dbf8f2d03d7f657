package meter

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const progressTimeout = 2 * time.Second

// progress is how far the spool is settled and published, as a time: the end of the spool is noted, with
// when that was. Once it is read, and nothing is away, everything that was written by then is settled, and once the events
// that were queued by then are stored it is published.
type progress struct {
	end     mark
	noted   time.Time // when end was the spool's end; zero: nothing is noted
	read    bool      // it is reached
	queued  int64     // events that were queued then
	settled time.Time // everything written by then is, and is published; zero: not even what was there at the start
}

// mark is an end of the spool.
type mark struct {
	inode uint64 // 0: there was no file
	size  int64
}

// end is where the spool ends now.
func (t *tail) end() (mark, error) {
	all, err := t.sources()
	if err != nil || len(all) == 0 {
		return mark{}, err
	}
	last := all[len(all)-1]
	info, err := os.Stat(last.path)
	if err != nil {
		return mark{}, err
	}
	return mark{inode: inode(info), size: info.Size()}, nil
}

// reached reports whether everything before the mark is read.
func (t *tail) reached(m mark) bool {
	if m.inode == 0 || t.inode == m.inode && t.file != nil {
		return m.inode == 0 || t.offset >= m.size
	}
	if slices.ContainsFunc(t.finished, func(s source) bool { return s.inode == m.inode }) {
		return true
	}
	all, err := t.sources() // a file that is gone was deleted because it was done
	return err == nil && !slices.ContainsFunc(all, func(s source) bool { return s.inode == m.inode })
}

// tellProgress tells the limiter how far behind this meter is, about once a second: the limiter lets
// holds that are due wait for a meter that is behind, and pools that Redis lost. A report that is lost is
// made again.
func (m *Meter) tellProgress(ctx context.Context, now time.Time) {
	p := &m.progress
	if !p.noted.IsZero() && !p.read && !m.behind && !m.away.waits() && m.tail.reached(p.end) {
		p.read, p.queued = true, m.queued
	}
	if p.read && m.queued-m.waiting.Load() >= p.queued {
		p.settled, p.noted, p.read = p.noted, time.Time{}, false
	}
	if p.noted.IsZero() {
		end, err := m.tail.end()
		if err != nil {
			m.said.Warn(ctx, "the spool's end is not known", err)
			return
		}
		p.end, p.noted = end, now
	}
	behind := int64(-1)
	if !p.settled.IsZero() {
		behind = now.Sub(p.settled).Microseconds()
	}
	ctx, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	said := &limitpb.SettleRequest{Meter: m.cfg.Name, BehindUs: behind, Unwritable: m.disk.problem()}
	if _, err := m.cfg.Limiter.Settle(ctx, said); err != nil {
		m.said.Warn(ctx, "the limiter does not hear how far the spool is settled", fmt.Errorf("tell progress: %w", err))
	}
}
