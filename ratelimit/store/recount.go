package store

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"time"
)

// A server that evicts takes the record of a hold and leaves the pool and the buckets that count it,
// which nobody gives back then: what is held by no hold is found here.
//
//	read what pools and buckets hold ─▶ add up the holds there are, twice ─▶ replace those that are as
//	they were read
//
// As each hold and each settlement changes what it is counted in, one that is as it was read has had the
// same holds all the while, and the sum of their records is what it holds. A lease whose part moves to a
// hold changes none of them and may be missed by a walk, hence two that must agree. What is busy is left
// for the next time.

// Where a pool and a bucket have what they hold, in bytes.
const (
	poolHeld   = 1 + 3*size
	bucketHeld = size
	// freedKept is how long one is kept that holds nothing any more, unless a call says otherwise: as long
	// as the longest limit lasts.
	freedKept = 366 * 24 * time.Hour
)

// ErrCounting says that another process counts.
var ErrCounting = errors.New("another process counts what is held")

// counterKey says which process counts.
func (s *Store) counterKey() string { return s.config.Prefix + "{" + SharedAccount + "}:counter" }

// Recount frees what pools and buckets hold for holds that are gone, and tells how many it freed and how
// many were busy. It walks over all keys several times, so that one process does it at a time; another
// is told ErrCounting.
func (s *Store) Recount(ctx context.Context) (freed, busy int, err error) {
	mine, err := s.turn(ctx, s.counterKey(), 0, func(ctx context.Context) (err error) {
		freed, busy, err = s.recountAll(ctx)
		return err
	})
	if err == nil && !mine {
		err = ErrCounting
	}
	return freed, busy, err
}

func (s *Store) recountAll(ctx context.Context) (freed, busy int, err error) {
	before, err := s.holding(ctx)
	if err != nil || len(before) == 0 {
		return 0, 0, err
	}
	held, err := s.sums(ctx)
	if err != nil {
		return 0, 0, err
	}
	again, err := s.sums(ctx)
	if err != nil {
		return 0, 0, err
	}
	for key, value := range before {
		at := s.heldAt(key)
		if double(value, at, 0) <= held[key] {
			continue
		}
		replaced := false
		if held[key] == again[key] {
			if replaced, err = s.replace(ctx, key, value, at, held[key]); err != nil {
				return freed, busy, err
			}
		}
		if replaced {
			freed++
		} else {
			busy++
		}
	}
	return freed, busy, nil
}

// replace writes what a pool or a bucket holds, and reports whether it was still as it was.
func (s *Store) replace(ctx context.Context, key, value string, at int, held float64) (bool, error) {
	next := []byte(value)
	binary.LittleEndian.PutUint64(next[at:], math.Float64bits(held))
	keep := int64(0)
	if held == 0 {
		keep = freedKept.Milliseconds()
	}
	reply, err := s.run(ctx, s.recount, append(s.recount.begin(1, 3), key, value, next, keep))
	return reply == "1", err
}

// heldAt is where the value of a key has what it holds.
func (s *Store) heldAt(key string) int {
	if strings.Contains(key, "}:p:") {
		return poolHeld
	}
	return bucketHeld
}

// holding are the pools and buckets that hold something, by key.
func (s *Store) holding(ctx context.Context) (map[string]string, error) {
	servers, err := s.servers(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, server := range servers {
		for _, match := range []string{"{*}:p:*", "{*}:b:*"} {
			err := s.scan(ctx, server, match, func(keys []string) error {
				values, err := s.get(ctx, keys)
				for i, value := range values {
					if at := s.heldAt(keys[i]); len(value) >= at+size && double(value, at, 0) > 0 {
						found[keys[i]] = value
					}
				}
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// sums are what all holds hold together in each pool and bucket, by key.
func (s *Store) sums(ctx context.Context) (map[string]float64, error) {
	sums := map[string]float64{}
	err := s.walk(ctx, func(h Hold) error {
		if h.Record.State != StateHeld {
			return nil
		}
		if h.Record.Drawn {
			sums[s.poolKey(h.Account, h.Record.provider)] += float64(h.Record.Held)
		}
		for _, key := range h.Record.buckets {
			sums[key] += float64(h.Record.Held)
		}
		return nil
	})
	return sums, err
}
