package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Redis knows since when its data is whole: a key tells it, which goes when all data goes. A call that
// finds no bucket of a long limit (bucket.Limit.Long) looks at that key in the same script, so that
// the first call after a loss is not the first that is let through.

// marks is how many keys tell it in a cluster: so many that each server has some, which go with its data.
const marks = 256

// beginKeys are the keys.
func (s *Store) beginKeys() []string {
	keys := []string{s.beginKey()}
	for i := 0; s.cluster && i < marks; i++ {
		keys = append(keys, s.config.Prefix+"{"+SharedAccount+strconv.Itoa(i)+"}:begin")
	}
	return keys
}

// beginKey is the key of a server that is alone.
func (s *Store) beginKey() string { return s.config.Prefix + "{" + SharedAccount + "}:begin" }

// Begin is since when the server's data is whole, microseconds, 0 for ever; false: it does not know.
func (s *Store) Begin(ctx context.Context) (at int64, known bool, err error) {
	at, found, missing, err := s.readBegin(ctx)
	return at, found && !missing, err
}

// readBegin reads what the servers say that answer: the latest, and whether any said something and any
// nothing. One that is away decides about nobody, and is looked at when it is back.
func (s *Store) readBegin(ctx context.Context) (at int64, found, missing bool, err error) {
	var last error
	err = s.gated(func() error {
		pipe := s.client.Pipeline()
		var cmds []*redis.StringCmd
		for _, key := range s.beginKeys() {
			cmds = append(cmds, pipe.Get(ctx, key))
		}
		_, _ = pipe.Exec(ctx) // each has its own error
		for _, cmd := range cmds {
			n, err := cmd.Int64()
			switch {
			case err == nil:
				at, found = max(at, n), true
			case cmd.Err() == nil || errors.Is(err, redis.Nil): // what is no number is as good as nothing
				missing = true
			default:
				last = err
			}
		}
		if found || missing {
			last = nil
		}
		return last
	})
	return at, found, missing, err
}

// SetBegin writes since when the server's data is whole, unless it knows; anew says that it is wrong.
// It gives what stands then.
func (s *Store) SetBegin(ctx context.Context, at int64, anew bool) (int64, error) {
	_, found, missing, err := s.readBegin(ctx)
	if err != nil {
		return 0, err
	}
	mode := "NX"
	if anew || found && missing { // one of several has lost its data
		mode = ""
	}
	err = s.gated(func() error {
		pipe := s.client.Pipeline()
		for _, key := range s.beginKeys() {
			pipe.SetArgs(ctx, key, at, redis.SetArgs{Mode: mode})
		}
		cmds, err := pipe.Exec(ctx)
		if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() == nil || errors.Is(c.Err(), redis.Nil) }) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	at, known, err := s.Begin(ctx)
	if err == nil && !known {
		err = fmt.Errorf("%w: it forgot what was written just now", ErrUnavailable)
	}
	return at, err
}

// Raise makes a bucket hold at least what was used by the books, beside what is held. Twice is as once.
func (s *Store) Raise(ctx context.Context, b bucket.Bucket, used float64) error {
	form := b.Limit.Params.Form()
	args := append(s.raise.begin(1, 1), s.bucketKey(b),
		bucket.Pack(s.now(), used, b.Limit.Params.Capacity, form.Rate, float64(form.Window)))
	_, err := s.run(ctx, s.raise, args)
	return err
}

// Watch is what a call knows of the server's data: since when it is whole.
type Watch struct {
	On     bool
	Begin  int64 // as Begin said
	Evicts bool  // the server may take any key at any time: a long limit without a bucket is Lost
}

// watches is the argument that has the script look; empty: it does not. A script of a cluster can't
// look at a key of another slot.
func (s *Store) watches(t Take) string {
	switch {
	case t.Watch.On && t.Watch.Evicts:
		return bucket.Pack(-1)
	case !t.Watch.On || s.cluster:
		return ""
	}
	return bucket.Pack(float64(t.Watch.Begin)) + s.beginKey()
}

const (
	// lateFor is how long it stands that an account is to be asked for once more: longer than clocks differ.
	lateFor = time.Minute
	// lateMost is how many of them one look reads.
	lateMost = 10_000
)

// lateKey is a sorted set of accounts by when they are to be asked for once more, which all processes
// are told of by it.
func (s *Store) lateKey() string { return s.config.Prefix + "{" + SharedAccount + "}:late" }

// TellLate tells all processes that something of accounts is lost that the books know at a time.
func (s *Store) TellLate(ctx context.Context, at time.Time, accounts []string) error {
	members := make([]redis.Z, len(accounts))
	for i, account := range accounts {
		members[i] = redis.Z{Score: float64(at.UnixMicro()), Member: account}
	}
	return s.gated(func() error {
		pipe := s.client.Pipeline()
		pipe.ZAdd(ctx, s.lateKey(), members...)
		pipe.ZRemRangeByScore(ctx, s.lateKey(), "-inf", strconv.FormatInt(at.Add(-lateFor).UnixMicro(), 10))
		pipe.Expire(ctx, s.lateKey(), 2*lateFor)
		_, err := pipe.Exec(ctx)
		return err
	})
}

// Late gives the accounts that any process has told of lately to visit, with the time.
func (s *Store) Late(ctx context.Context, now time.Time, visit func(account string, at time.Time)) error {
	var found []redis.Z
	err := s.gated(func() (err error) {
		found, err = s.client.ZRangeByScoreWithScores(ctx, s.lateKey(), &redis.ZRangeBy{
			Min: strconv.FormatInt(now.Add(-lateFor).UnixMicro(), 10), Max: "+inf", Count: lateMost}).Result()
		return err
	})
	for _, one := range found {
		if account, ok := one.Member.(string); ok {
			visit(account, time.UnixMicro(int64(one.Score)))
		}
	}
	return err
}
