package meter

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// logEvery is how often a trouble that goes on is logged.
const logEvery = 10 * time.Second

// sparseLog logs each trouble at most once in logEvery, with how often it came since.
type sparseLog struct {
	log      *slog.Logger
	mu       sync.Mutex
	troubles map[string]*trouble
}

type trouble struct {
	rate.Sometimes
	times int // not logged yet
}

func newSparseLog(log *slog.Logger) *sparseLog {
	return &sparseLog{log: log, troubles: map[string]*trouble{}}
}

func (l *sparseLog) warn(what string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.troubles[what]
	if t == nil {
		t = &trouble{Sometimes: rate.Sometimes{Interval: logEvery}}
		l.troubles[what] = t
	}
	t.times++
	t.Do(func() {
		l.log.LogAttrs(context.Background(), slog.LevelWarn, what, slog.Any("error", err), slog.Int("times", t.times))
		t.times = 0
	})
}
