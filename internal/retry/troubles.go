package retry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// sayAgain is the least pause between two lines of one trouble.
const sayAgain = 10 * time.Second

// Troubles logs what goes wrong again and again, such as each try at a store that is away, in few
// lines: a trouble is said at once when it begins, then once in ten seconds while it lasts, and once
// when it is over. A line says how often it came since the last one (times). One that is over and back
// within the ten seconds is not said anew: it is counted, and said with the rest. So a store that
// comes and goes does not fill the log either.
//
//	tries     x x x x x x x x x x x x x x x x . . . .
//	lines     1                   7                 over
//	seconds   0                  10
//
// It is safe for concurrent use.
type Troubles struct {
	log *slog.Logger

	mu    sync.Mutex
	known map[string]*trouble // by what is said of it
}

type trouble struct {
	began        time.Time
	said         time.Time // a line last, of this time or one before
	unsaid       int       // times since
	times        int       // since it began
	lasts, heard bool      // it goes on; a line was said of it since it began
}

// NewTroubles makes one for a logger.
func NewTroubles(log *slog.Logger) *Troubles {
	return &Troubles{log: log, known: map[string]*trouble{}}
}

// Warn notes a trouble, known by what is said of it: a text that stands in the code, as each is
// remembered. err may be nil. more is said beside it, such as how much waits (Waiting).
func (t *Troubles) Warn(ctx context.Context, what string, err error, more ...slog.Attr) {
	t.Say(ctx, slog.LevelWarn, what, err, more...)
}

// Say is Warn for another level.
func (t *Troubles) Say(ctx context.Context, level slog.Level, what string, err error, more ...slog.Attr) {
	times, due := t.note(what, time.Now())
	if !due {
		return
	}
	attrs := make([]slog.Attr, 0, 2+len(more))
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	attrs = append(attrs, slog.Int("times", times))
	t.log.LogAttrs(ctx, level, what, append(attrs, more...)...)
}

// note counts a trouble, and gives how many times a line that is due now stands for.
func (t *Troubles) note(what string, now time.Time) (times int, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.known[what]
	if one == nil {
		one = &trouble{}
		t.known[what] = one
	}
	if !one.lasts {
		one.began, one.times, one.lasts, one.heard = now, 0, true, false
	}
	one.times++
	one.unsaid++
	if !one.said.IsZero() && now.Sub(one.said) < sayAgain {
		return 0, false
	}
	times = one.unsaid
	one.said, one.unsaid, one.heard = now, 0, true
	return times, true
}

// Over notes that a trouble is over, and says again, how long it lasted and how often it came, if a line
// was said of it. It costs little where there is none. Who cannot tell need not call it: what comes
// later than ten seconds after the last line is said at once.
func (t *Troubles) Over(ctx context.Context, what, again string) {
	t.mu.Lock()
	one := t.known[what]
	if one == nil || !one.lasts {
		t.mu.Unlock()
		return
	}
	one.lasts = false
	lasted, times, heard := time.Since(one.began), one.times, one.heard
	t.mu.Unlock()
	if heard {
		t.log.LogAttrs(ctx, slog.LevelInfo, again, slog.String("lasted", lasted.Round(time.Millisecond).String()), slog.Int("times", times))
	}
}

// Waiting is said beside a trouble: how much waits while it lasts, counted only for a line that is said.
func Waiting(count func() int64) slog.Attr { return slog.Any("waiting", waiting(count)) }

type waiting func() int64

// LogValue implements slog.LogValuer.
func (w waiting) LogValue() slog.Value { return slog.Int64Value(w()) }
