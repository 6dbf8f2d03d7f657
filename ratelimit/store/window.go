package store

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Redis knows since when its data is whole: a key tells it, which goes when all data goes. A call that
// finds no bucket of a long limit (bucket.Limit.Long) looks at that key in the same script, so that
// the first call after a loss is not the first that is let through.

// beginKey is the key's; in a cluster it is on one of the servers.
func (s *Store) beginKey() string { return s.config.Prefix + "{" + SharedAccount + "}:begin" }

// Begin is since when the server's data is whole, microseconds, 0 for ever; false: it does not know.
func (s *Store) Begin(ctx context.Context) (at int64, known bool, err error) {
	err = s.gated(func() (err error) {
		at, err = s.client.Get(ctx, s.beginKey()).Int64()
		known = err == nil
		return err // nothing there is no error of the round trip
	})
	return at, known, err
}

// SetBegin writes since when the server's data is whole, unless it knows; anew says that it is wrong.
// It gives what stands then.
func (s *Store) SetBegin(ctx context.Context, at int64, anew bool) (int64, error) {
	mode := "NX"
	if anew {
		mode = ""
	}
	err := s.gated(func() error {
		return s.client.SetArgs(ctx, s.beginKey(), at, redis.SetArgs{Mode: mode}).Err()
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
	On    bool
	Begin int64 // as Begin said
}

// watches is the argument that has the script look; empty: it does not. A script of a cluster can't
// look at a key of another slot.
func (s *Store) watches(t Take) string {
	if !t.Watch.On || s.cluster {
		return ""
	}
	return bucket.Pack(float64(t.Watch.Begin)) + s.beginKey()
}
