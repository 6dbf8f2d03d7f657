package analytics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
)

// Stream is how far the store is behind what is published (see usage.Consumer).
type Stream interface {
	Published(ctx context.Context) (uint64, error)
	Reach(ctx context.Context, sequence uint64) error
}

// Books tell ratelimit what was used of limits whose count its Redis has lost. They wait until the
// store has what was published before the loss, and no longer: under load something is always on its
// way.
type Books struct {
	store  *Store
	stream Stream

	mu     sync.Mutex
	target uint64 // what was published by the time of looked
	looked time.Time
}

// NewBooks makes them.
func NewBooks(store *Store, stream Stream) *Books { return &Books{store: store, stream: stream} }

// Tell implements booked.Book.
func (b *Books) Tell(ctx context.Context, ask booked.Ask) (booked.Answer, error) {
	target, err := b.publishedBefore(ctx, ask.After)
	if err == nil {
		err = b.stream.Reach(ctx, target)
	}
	if err != nil {
		return booked.Answer{}, err
	}
	answer := booked.Answer{Used: make([]float64, len(ask.Limits))}
	if len(ask.Limits) == 0 {
		answer.Empty, err = b.store.empty(ctx)
		return answer, err
	}
	now := time.Now()
	for i, l := range ask.Limits {
		if answer.Used[i], err = b.store.used(ctx, l, now); err != nil {
			return booked.Answer{}, err
		}
	}
	return answer, nil
}

// publishedBefore is where the stream was at a time, or later.
func (b *Books) publishedBefore(ctx context.Context, at time.Time) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); b.looked.IsZero() || at.After(b.looked) {
		target, err := b.stream.Published(ctx)
		if err != nil {
			return 0, err
		}
		b.target, b.looked = target, now
	}
	return b.target, nil
}

// empty reports whether no call was ever stored.
func (s *Store) empty(ctx context.Context) (bool, error) {
	if !s.ready.Load() {
		return false, errNotReady
	}
	var n uint64
	for _, table := range []string{"usage", "usage_day"} {
		if err := s.conn.QueryRow(ctx, "SELECT count() FROM (SELECT 1 FROM "+table+" LIMIT 1)").Scan(&n); err != nil {
			return false, fmt.Errorf("query first call: %w", err)
		}
		if n > 0 {
			return false, nil
		}
	}
	return true, nil
}

// used is what is in a limit's bucket at now by the calls in the books.
func (s *Store) used(ctx context.Context, l booked.Limit, now time.Time) (float64, error) {
	f := Filter{Account: l.Account, UserID: l.Of["user"], OrgID: l.Of["org"], Team: l.Of["team"], KeyID: l.Of["key"], Tier: l.Of["tier"],
		ModelAsked: l.Of["model"], Provider: l.Of["provider"], Route: l.Of["route"], From: l.From, To: now.Add(latestAhead)}
	count := func(sums Sums) float64 {
		if l.Tokens {
			return float64(sums.Consumed)
		}
		return float64(sums.Allowed)
	}
	if l.Rate == 0 {
		sums, _, err := s.Buckets(ctx, f, []time.Time{f.From, f.To})
		return count(sums), err
	}
	return s.level(ctx, f, l, now, count)
}

// level is what is left in a bucket that drains. What was in it when a full one would have begun to
// drain is taken for as much as was used in as long before: it cannot have been more, since older use
// has drained by then. Each hour's use (a day's, in a bucket that drains for months) counts as if it
// had come at the hour's end, so the level is never told too low.
func (s *Store) level(ctx context.Context, f Filter, l booked.Limit, now time.Time, count func(Sums) float64) (float64, error) {
	line := time.Hour
	if now.Sub(l.From) > 62*day {
		line = day
	}
	begin := l.From.Truncate(line)
	before := begin.Add(-now.Sub(begin)).Truncate(line)
	starts := []time.Time{before}
	for at := begin; at.Before(now); at = at.Add(line) {
		starts = append(starts, at)
	}
	f.From = before
	_, lines, err := s.Buckets(ctx, f, append(starts, f.To))
	if err != nil {
		return 0, err
	}
	level := min(l.Capacity, count(lines[0]))
	for i, at := range starts[1:] {
		end := at.Add(line)
		if end.After(now) {
			end = now
		}
		level = max(0, level-l.Rate*end.Sub(at).Seconds()) + count(lines[i+1])
	}
	return level, nil
}
