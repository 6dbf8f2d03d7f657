package ratelimit

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// Booked is the books as the limiter sees them.
type Booked interface {
	Tell(ctx context.Context, ask booked.Ask) (booked.Answer, error)
}

const (
	// rebuiltMost is how many buckets are remembered to have been asked for; then all are forgotten, and
	// asked for again.
	rebuiltMost = 1 << 16
	// lostCallsAfter is how long after a settlement without a hold its call is in the stream.
	lostCallsAfter = 3 * time.Second
	// evictionsEvery is the least pause between two questions for everything because keys were evicted.
	evictionsEvery = time.Minute
)

// windows is what is known of the counts of limits of a day and more. Redis has them; if it loses
// them they are asked of the books, a bucket at a time, when it is needed next.
//
//	unknown ──Redis says since when its data is whole──▶ known
//	   │  └──it does not: now, or for ever if nothing is booked──▶ known
//	   ◀──another server, older data, or a call finds that it is not so──┘
//
// While it is known, a bucket that what was used before that moment may still be in decides nothing
// until it has been raised to what the books know.
type windows struct {
	booked Booked

	mu      sync.Mutex
	known   bool
	anew    bool                           // what Redis says of itself is wrong
	begin   int64                          // since when its data is whole, microseconds; 0: for ever
	rebuilt map[string]map[string]struct{} // keys of buckets that have been asked for, by account
	n       int
	late    map[string]int64 // when an account's are to be asked for once more
	after   map[string]int64 // what was published before must be in the answer, where that is later than begin

	evicts  bool      // the server takes keys for want of memory: a bucket that is not there may be lost
	evicted bool      // it took some since that last counted
	noticed time.Time // when that was

	flights singleflight.Group
}

func newWindows(b Booked) *windows {
	return &windows{booked: b, rebuilt: map[string]map[string]struct{}{}, late: map[string]int64{}, after: map[string]int64{}}
}

// on reports whether there is anybody to ask.
func (w *windows) on() bool { return w.booked != nil }

// changed hears that Redis has older data than it had.
func (w *windows) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known, w.anew = false, true
}

// evicting hears whether Redis takes keys for want of memory, and whether it took more. They may be any:
// who finds no bucket asks for it, and all limits are asked for anew, since a bucket may have come again
// without what it had; but not in each second of a server that is too small.
func (w *windows) evicting(may, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.evicts = may
	w.evicted = w.evicted || more
	if w.evicted && time.Since(w.noticed) >= evictionsEvery {
		w.known, w.anew, w.noticed, w.evicted = false, true, time.Now(), false
	}
}

// lost hears that a call found no bucket where Redis may have lost one.
func (w *windows) lost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.evicts { // else it says so of each that is new
		w.known = false
	}
}

// forget hears that Redis does not say what was known of it.
func (w *windows) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = false
}

// lacked hears of accounts that Redis has less of than the books will have at a time: of calls whose
// holds it does not know, and which it so charged nothing, or whose buckets were gone.
func (w *windows) lacked(account string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.late) >= rebuiltMost {
		clear(w.late)
	}
	w.late[account] = max(w.late[account], at.UnixMicro())
}

// hasLost reports whether Redis may have lost something.
func (w *windows) hasLost() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begin > 0 || !w.known || w.evicts
}

// doubts reports whether a request may not be decided before the books were asked, and else tells the
// store what is known of its data.
func (w *windows) doubts(a *admission) bool {
	if !a.books {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known {
		return true
	}
	a.take.Watch = store.Watch{On: true, Begin: w.begin, Evicts: w.evicts}
	if w.begin == 0 && len(w.late) == 0 { // nothing was lost
		return false
	}
	return slices.ContainsFunc(a.take.Buckets, func(b bucket.Bucket) bool { return w.lacks(a.take.Account, b) })
}

// lacks reports whether what was used of a bucket may be lost. w is locked.
func (w *windows) lacks(account string, b bucket.Bucket) bool {
	if !b.Limit.Long {
		return false
	}
	now := time.Now().UnixMicro()
	at, again := w.late[account]
	if again = again && now >= at; again && w.after[account] != at {
		w.n -= len(w.rebuilt[account])
		delete(w.rebuilt, account)
		w.after[account] = at
	}
	if !again && (w.begin == 0 || b.Limit.Params.Since(now) >= w.begin) {
		return false
	}
	_, done := w.rebuilt[account][b.Key]
	return !done
}

// learn takes over what Redis says, unless it became another meanwhile.
func (w *windows) learn(begin int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if begin != w.begin {
		w.clear()
	}
	w.known, w.anew, w.begin = true, false, begin
}

// done notes that buckets hold what the books know, by what was known then.
func (w *windows) done(account string, begin int64, buckets []bucket.Bucket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.begin != begin {
		return
	}
	if w.n >= rebuiltMost {
		w.clear()
	}
	if w.rebuilt[account] == nil {
		w.rebuilt[account] = map[string]struct{}{}
	}
	for _, b := range buckets {
		w.rebuilt[account][b.Key] = struct{}{}
		w.n++
	}
}

func (w *windows) clear() {
	clear(w.rebuilt)
	clear(w.after)
	w.n = 0
}

// state is what is known, and whether Redis is wrong about itself.
func (w *windows) state() (begin int64, known, anew bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.begin, w.known, w.anew
}

// since is the time before which what was published of an account must be known.
func (w *windows) since(account string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.UnixMicro(max(w.begin, w.after[account]))
}

// watchWindows looks once a second whether Redis still says what is known of it, until ctx ends.
func (s *Service) watchWindows(ctx context.Context) {
	if !s.windows.on() {
		return
	}
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		if begin, known, _ := s.windows.state(); known {
			looking, cancel := context.WithTimeout(ctx, s.timeout)
			at, there, err := s.store.Begin(looking)
			cancel()
			if err == nil && (!there || at != begin) {
				s.windows.forget()
			}
		}
		looking, cancel := context.WithTimeout(ctx, s.timeout)
		_ = s.store.Late(looking, time.Now(), s.windows.lacked) // the next look comes in a second
		cancel()
		if err := s.learnBegin(ctx); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelDebug, "it is not known since when redis' data is whole", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tellLate has accounts asked for once more, by every process, when the calls that were just settled are
// booked.
func (s *Service) tellLate(ctx context.Context, accounts []string) {
	if !s.windows.on() || len(accounts) == 0 {
		return
	}
	at := time.Now().Add(lostCallsAfter)
	for _, account := range accounts {
		s.windows.lacked(account, at)
	}
	if err := s.store.TellLate(ctx, at, accounts); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "other processes do not hear which calls redis lost", slog.Any("error", err))
	}
}

// learnBegin finds out since when Redis' data is whole, if that is not known.
func (s *Service) learnBegin(ctx context.Context) error {
	if _, known, _ := s.windows.state(); known {
		return nil
	}
	_, err, _ := s.windows.flights.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), balance.AskWithin(s.timeout)+s.timeout)
		defer cancel()
		_, _, anew := s.windows.state()
		at, there, err := s.store.Begin(ctx)
		if err != nil {
			return nil, err
		}
		if !there || anew {
			if at, err = s.writeBegin(ctx, !anew); err != nil {
				return nil, err
			}
		}
		s.windows.learn(at)
		return nil, nil
	})
	return err
}

// writeBegin writes that Redis' data is whole from now on; or for ever, where it is fresh and nothing is
// booked that it could have lost.
func (s *Service) writeBegin(ctx context.Context, fresh bool) (int64, error) {
	now := time.Now()
	if fresh {
		told, err := s.tell(ctx, booked.Ask{After: now})
		if err != nil {
			return 0, err
		}
		if told.Empty {
			return s.store.SetBegin(ctx, 0, false)
		}
	}
	at, err := s.store.SetBegin(ctx, now.UnixMicro(), !fresh)
	if err == nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "redis lacks what was before: limits of a day and more are counted anew from the books",
			slog.Time("whole_since", time.UnixMicro(at)))
	}
	return at, err
}
