package ratelimit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// errBooks says that nobody can tell what was used of a limit: its route decides as in an outage.
var errBooks = fmt.Errorf("%w: what was used of a limit is not known yet", store.ErrUnavailable)

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
		s.windows.lost()
		a.lost = true
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
	if !s.windows.doubts(a) && !a.lost {
		return nil
	}
	begin, _, _ := s.windows.state()
	lost, unasked, ask := s.lost(a)
	if a.lost { // nobody knows when
		ask.After = time.Now()
	}
	flight := fmt.Sprint(a.take.Account, " ", a.lost, " ", strings.Join(keysOf(append(slices.Clone(lost), unasked...)), " "))
	_, err, _ := s.windows.flights.Do(flight, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), balance.AskWithin(s.timeout)+s.timeout)
		defer cancel()
		if err := s.raise(ctx, ask, lost); err != nil {
			return nil, err
		}
		if a.lost { // those begin at zero, but have to be there
			for _, b := range unasked {
				if err := s.store.Raise(ctx, b, 0); err != nil {
					return nil, err
				}
			}
		}
		s.windows.done(a.take.Account, begin, append(unasked, lost...))
		return nil, nil
	})
	return err
}

// raise makes buckets hold what the books answer to a question for them.
func (s *Service) raise(ctx context.Context, ask booked.Ask, buckets []bucket.Bucket) error {
	if len(buckets) == 0 {
		return nil
	}
	told, err := s.tell(ctx, ask)
	if err != nil {
		return err
	}
	for i, b := range buckets {
		if err := s.store.Raise(ctx, b, told.Used[i]); err != nil {
			return err
		}
	}
	return nil
}

// lost are the buckets of a request that may have lost something, with the question for it, and those
// whose calls the books do not tell apart: of them nothing can be asked.
func (s *Service) lost(a *admission) (lost, unasked []bucket.Bucket, ask booked.Ask) {
	ask.After = s.windows.since(a.take.Account)
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
	return lost, unasked, ask
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
