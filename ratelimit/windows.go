package ratelimit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
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

// errBooks says that nobody can tell what was used of a limit: its route decides as in an outage.
var errBooks = fmt.Errorf("%w: what was used of a limit is not known yet", store.ErrUnavailable)

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

	evicted bool      // the server took keys for want of memory since that last counted
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

// evicts hears whether Redis took more keys, for want of memory. They may be any: all limits are asked
// for anew, but not in each second of a server that is too small.
func (w *windows) evicts(more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.evicted = w.evicted || more
	if w.evicted && time.Since(w.noticed) >= evictionsEvery {
		w.known, w.anew, w.noticed, w.evicted = false, true, time.Now(), false
	}
}

// forget hears that Redis does not say what was known of it.
func (w *windows) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = false
}

// unknown hears of a call whose hold Redis does not know, and which it so charged nothing: if Redis lost
// the hold, what the books say of the account before that call is booked is too little.
func (w *windows) unknown(account string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.rebuilt[account]; there {
		w.late[account] = time.Now().Add(lostCallsAfter).UnixMicro()
	}
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
	a.take.Watch = store.Watch{On: true, Begin: w.begin}
	return w.begin > 0 && slices.ContainsFunc(a.take.Buckets, func(b bucket.Bucket) bool { return w.lacks(a.take.Account, b) })
}

// lacks reports whether what was used of a bucket may be lost. w is locked.
func (w *windows) lacks(account string, b bucket.Bucket) bool {
	now := time.Now().UnixMicro()
	if !b.Limit.Long || b.Limit.Params.Since(now) >= w.begin {
		return false
	}
	if at, again := w.late[account]; again && now >= at {
		w.n -= len(w.rebuilt[account])
		delete(w.rebuilt, account)
		delete(w.late, account)
		w.after[account] = at
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
	clear(w.late)
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

// tell asks the books.
func (s *Service) tell(ctx context.Context, ask booked.Ask) (booked.Answer, error) {
	told, err := s.windows.booked.Tell(ctx, ask)
	if err != nil {
		s.metrics.booked.failed.Inc()
		return told, fmt.Errorf("%w: %w", errBooks, err)
	}
	s.metrics.booked.answered.Inc()
	return told, nil
}

// holdRebuilt is a hold after what Redis has lost was asked of the books.
func (s *Service) holdRebuilt(ctx context.Context, a *admission) (store.Taken, error) {
	for range 2 {
		if err := s.rebuild(ctx, a); err != nil {
			return store.Taken{}, err
		}
		t, err := s.holdChecked(ctx, a)
		if err != nil || t.Outcome != store.Lost {
			return t, err
		}
		s.windows.forget() // it was lost just now
	}
	return store.Taken{}, errBooks
}

// rebuild raises the buckets of a request to what the books know, where Redis may have lost it.
func (s *Service) rebuild(ctx context.Context, a *admission) error {
	if !a.books {
		return nil
	}
	if err := s.learnBegin(ctx); err != nil {
		return err
	}
	if !s.windows.doubts(a) {
		return nil
	}
	begin, _, _ := s.windows.state()
	lost, ask := s.lost(a)
	_, err, _ := s.windows.flights.Do(a.take.Account+" "+strings.Join(keysOf(lost), " "), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), balance.AskWithin(s.timeout)+s.timeout)
		defer cancel()
		told, err := s.tell(ctx, ask)
		if err != nil {
			return nil, err
		}
		for i, b := range lost {
			if err := s.store.Raise(ctx, b, told.Used[i]); err != nil {
				return nil, err
			}
		}
		s.windows.done(a.take.Account, begin, lost)
		return nil, nil
	})
	return err
}

// lost are the buckets of a request that may have lost something, and the question for it. Of
// limits whose calls the books do not tell apart nothing can be asked.
func (s *Service) lost(a *admission) (lost []bucket.Bucket, ask booked.Ask) {
	ask.After = s.windows.since(a.take.Account)
	var unasked []bucket.Bucket
	for _, d := range a.asked {
		one := a.rules.Match([]match.Descriptor{d}, a.take.Account, "", match.OneCall())
		for i, b := range one.Buckets {
			at := slices.IndexFunc(a.take.Buckets, func(have bucket.Bucket) bool { return have.Key == b.Key })
			if at < 0 || !a.take.Buckets[at].Limit.Long || slices.Contains(keysOf(lost), b.Key) {
				continue
			}
			b = a.take.Buckets[at]
			question, ok := question(d, one.Limits[i].Rule, b, a.take.Account)
			if !ok {
				unasked = append(unasked, b)
				continue
			}
			lost, ask.Limits = append(lost, b), append(ask.Limits, question)
		}
	}
	begin, _, _ := s.windows.state()
	s.windows.done(a.take.Account, begin, unasked)
	return lost, ask
}

// question asks for what was used of a limit; false: the books do not know by what it is told apart.
func question(d match.Descriptor, rule *limits.Rule, b bucket.Bucket, account string) (booked.Limit, bool) {
	now := time.Now().UnixMicro()
	q := booked.Limit{Account: account, Of: map[string]string{}, Tokens: rule.Unit == limits.Tokens,
		From: time.UnixMicro(b.Limit.Params.Since(now)), Capacity: b.Limit.Params.Capacity}
	if b.Limit.Params.Window == 0 {
		q.Rate = b.Limit.Params.Rate * 1e6
	}
	if rule.Shared {
		q.Account = ""
	}
	for _, e := range d[1:] { // the first says what is counted
		if !slices.Contains(booked.Keys(), e.Key) {
			return q, false
		}
		q.Of[e.Key] = e.Value
	}
	return q, true
}

func keysOf(buckets []bucket.Bucket) []string {
	keys := make([]string, len(buckets))
	for i, b := range buckets {
		keys[i] = b.Key
	}
	return keys
}
