package store

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// meterForgotten is how long a meter counts that says nothing any more.
	meterForgotten = 24 * time.Hour
	// unwritableFor is how long its word counts that its log cannot be written.
	unwritableFor = time.Minute
	// longestReason is how much is kept of that, in bytes.
	longestReason = 256
)

// Progress is what the meters said together.
type Progress struct {
	Now int64 // microseconds
	// Settled is the time by which the calls were over that all meters have settled, in microseconds;
	// the end of time where no meter has ever said anything.
	Settled int64
	Meters  map[string]Said
	// Unwritable is why an Envoy cannot write its log of calls; empty: all can.
	Unwritable string
}

// Said is what one meter said: by when calls were over that it has settled and published all of, and when
// it said so, both in microseconds.
type Said struct{ Settled, At int64 }

// progressKey is a hash of what each meter said, by its name: by when calls were over that it has
// settled all of and when it said so, both in microseconds of the server's clock, and why the log that
// it reads cannot be written.
func (s *Store) progressKey() string { return s.config.Prefix + "{" + SharedAccount + "}:meters" }

// SetProgress notes that a meter has settled everything that was over so long ago; below zero, that
// it has settled nothing since it was started.
func (s *Store) SetProgress(ctx context.Context, meter string, behind time.Duration, unwritable string) error {
	now, err := s.Clock(ctx)
	if err != nil {
		return err
	}
	settled := uint64(now - behind.Microseconds())
	if behind < 0 { // what it had settled before stays settled
		before, err := s.meter(ctx, meter)
		if err != nil {
			return err
		}
		settled = 0
		if len(before) >= 2*size {
			settled = binary.LittleEndian.Uint64([]byte(before))
		}
	}
	value := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, settled), uint64(now))
	value = append(value, unwritable[:min(len(unwritable), longestReason)]...)
	return s.gated(func() error { return s.client.HSet(ctx, s.progressKey(), meter, value).Err() })
}

// meter is what a meter said last; empty: nothing.
func (s *Store) meter(ctx context.Context, name string) (said string, err error) {
	err = s.gated(func() error {
		said, err = s.client.HGet(ctx, s.progressKey(), name).Result()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	})
	return said, err
}

// Progress reads what the meters said, and forgets those that are gone.
func (s *Store) Progress(ctx context.Context) (Progress, error) {
	p := Progress{Settled: math.MaxInt64, Meters: map[string]Said{}}
	var err error
	if p.Now, err = s.Clock(ctx); err != nil {
		return Progress{}, err
	}
	var meters map[string]string
	if err := s.gated(func() error {
		meters, err = s.client.HGetAll(ctx, s.progressKey()).Result()
		return err
	}); err != nil {
		return Progress{}, err
	}
	for meter, text := range meters {
		var age time.Duration
		if len(text) >= 2*size {
			age = time.Duration(p.Now-int64(binary.LittleEndian.Uint64([]byte(text[size:])))) * time.Microsecond
		}
		if len(text) < 2*size || age > meterForgotten || age < -unwritableFor { // from the future: its clock was set back
			if err := s.gated(func() error { return s.client.HDel(ctx, s.progressKey(), meter).Err() }); err != nil {
				return Progress{}, err
			}
			continue
		}
		said := Said{Settled: int64(binary.LittleEndian.Uint64([]byte(text))), At: int64(binary.LittleEndian.Uint64([]byte(text[size:])))}
		p.Settled, p.Meters[meter] = min(p.Settled, said.Settled), said
		if reason := text[2*size:]; reason != "" && age < unwritableFor {
			p.Unwritable = reason
		}
	}
	return p, nil
}
