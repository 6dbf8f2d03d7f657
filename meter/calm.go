package meter

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// occasionally logs a trouble at most once in ten seconds, with how often it came.
type occasionally struct {
	log *slog.Logger
	mu  sync.Mutex
	was map[string]*trouble
}

type trouble struct {
	logged time.Time
	times  int
}

const logEvery = 10 * time.Second

func newOccasionally(log *slog.Logger) *occasionally {
	return &occasionally{log: log, was: map[string]*trouble{}}
}

func (o *occasionally) warn(what string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.was[what]
	if t == nil {
		t = &trouble{}
		o.was[what] = t
	}
	t.times++
	if now := time.Now(); now.Sub(t.logged) >= logEvery {
		o.log.LogAttrs(context.Background(), slog.LevelWarn, what, slog.Any("error", err), slog.Int("times", t.times))
		t.logged, t.times = now, 0
	}
}

// damage keeps lines that cannot be read, for a person to look at.
type damage struct {
	path string
	size int64
}

const maxDamage = 16 << 20 // bytes kept

func (d *damage) keep(lines [][]byte) error {
	if len(lines) == 0 || d.size > maxDamage {
		return nil
	}
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep damaged line: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		d.size = info.Size()
	}
	for _, line := range lines {
		if d.size > maxDamage {
			break
		}
		n, err := f.Write(append(append([]byte{}, line...), '\n'))
		if err != nil {
			return fmt.Errorf("keep damaged line: %w", err)
		}
		d.size += int64(n)
	}
	return nil
}
