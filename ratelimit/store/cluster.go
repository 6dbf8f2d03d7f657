package store

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// In a cluster an account's keys are in one slot and so on one server. Buckets of rules
// that name no caller belong to all accounts and are kept together in a slot of their own,
// as those of SharedAccount. A call that falls under both kinds is held in two steps, the
// shared buckets first, and when the second refuses the first is undone. So no limit is
// ever exceeded and none stays charged; between the steps the shared buckets look fuller
// than they are, and another call may be refused that would have fitted.

// SharedAccount owns the buckets of rules that name no caller, in a cluster.
const SharedAccount = "*"

// bucketKey is where a bucket is.
func (s *Store) bucketKey(b bucket.Bucket) string {
	if s.cluster && b.Shared() {
		return s.config.Prefix + "{" + SharedAccount + "}:" + b.Key
	}
	return s.config.Prefix + b.Key
}

// split parts a take in two, of the shared buckets and of the account's; false if one
// script can do it.
func (s *Store) split(t Take) (shared, own Take, ok bool) {
	if !s.cluster || t.Account == SharedAccount || !slices.ContainsFunc(t.Buckets, bucket.Bucket.Shared) {
		return Take{}, t, false
	}
	shared, own = t, t
	shared.Account, shared.Pool, shared.Provider, shared.Facts = SharedAccount, PoolNone, "", nil
	shared.Buckets, own.Buckets, own.parted = nil, nil, true
	for _, b := range t.Buckets {
		if b.Shared() {
			shared.Buckets = append(shared.Buckets, b)
		} else {
			own.Buckets = append(own.Buckets, b)
		}
	}
	return shared, own, true
}

// holdSplit holds in two steps.
func (s *Store) holdSplit(ctx context.Context, t, shared, own Take) (Taken, error) {
	first, err := s.holdOne(ctx, shared)
	if err != nil {
		return Taken{}, err
	}
	if first.Outcome.Refuses() {
		return merge(t, first, Taken{Now: first.Now, States: make([]bucket.State, len(own.Buckets))}, first), nil
	}
	if own.Output == 0 && own.Fill > 0 {
		own.Fill = max(1, first.Output)
	}
	second, err := s.holdOne(ctx, own)
	if err != nil {
		return Taken{}, errors.Join(err, s.undo(ctx, shared))
	}
	if second.Outcome.Refuses() {
		return merge(t, first, second, second), s.undo(ctx, shared)
	}
	return merge(t, first, second, second), nil
}

// holdOne is Hold of what is in one slot.
func (s *Store) holdOne(ctx context.Context, t Take) (Taken, error) {
	if t.ID == "" && len(t.Buckets) == 0 {
		return Taken{Outcome: Admitted}, nil
	}
	args := s.holdArgs(t)
	reply, err := s.run(ctx, s.scriptOf(t), args)
	if err != nil {
		return Taken{}, err
	}
	taken, err := parseTaken(reply, t)
	s.note(t, args, taken)
	return taken, err
}

// note tells the index of a hold that was taken by a call of the script, or by one before whose answer
// was lost, so that nobody noted it: when it is due is corrected by the first sweep.
func (s *Store) note(t Take, args []any, taken Taken) {
	if key, ok := args[header].(string); ok && t.ID != "" && !taken.Outcome.Refuses() {
		s.stands(key, float64(taken.Now)+s.lifeOf(t))
	}
}

// merge is the answer to t of two answers to its parts; decided is the one that counts.
func merge(t Take, shared, own, decided Taken) Taken {
	out := decided
	out.States, out.Pool = make([]bucket.State, len(t.Buckets)), own.Pool
	out.Now = max(shared.Now, own.Now)
	i, j := 0, 0
	for k, b := range t.Buckets {
		if b.Shared() {
			out.States[k] = shared.States[i]
			i++
		} else {
			out.States[k] = own.States[j]
			j++
		}
	}
	return out
}

// undo takes back what the first step took, as if it had not been.
func (s *Store) undo(ctx context.Context, shared Take) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*s.config.Timeout)
	defer cancel()
	back := shared
	back.ID, back.Buckets = "", nil
	for _, b := range shared.Buckets {
		if b.Limit.Kind.CountsTokens() {
			continue
		}
		if !b.HasOwn {
			b.Own, b.HasOwn = shared.Requests, true
		}
		b.Own = -b.Own
		back.Buckets = append(back.Buckets, b)
	}
	var errs []error
	if len(back.Buckets) > 0 {
		_, err := s.holdOne(ctx, back)
		errs = append(errs, err)
	}
	if shared.ID != "" {
		_, err := s.run(ctx, s.settle, s.settleArgs(SharedAccount, shared.ID, 0, 0))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// servers are those that keep keys: one, or the masters of a cluster.
func (s *Store) servers(ctx context.Context) ([]redis.Cmdable, error) {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return []redis.Cmdable{s.client}, nil
	}
	var mu sync.Mutex
	var all []redis.Cmdable
	err := cluster.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, c)
		return nil
	})
	return all, s.verdict(err)
}
