package store

import (
	"context"
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Pool is an account's balance with a provider as Redis has it. Counts are tokens.
type Pool struct {
	Known   bool // the token service told of it, be it that there is none
	Present bool
	Version int64
	Credits int64
	Spent   int64
	Held    int64
	Anchor  int64 // microseconds since the epoch
	Window  int64 // microseconds; 0: prepaid
	Index   int64 // the window that Spent is of
}

// Left is what is neither spent nor held, not below zero.
func (p Pool) Left() int64 { return max(0, p.Credits-p.Spent-p.Held) }

// Reset is how long until the window ends, in microseconds; 0: it never does.
func (p Pool) Reset(now int64) int64 {
	if !p.Present || p.Window <= 0 {
		return 0
	}
	return max(0, p.Anchor+(p.Index+1)*p.Window-now)
}

// at is the pool as the scripts take it at a time: in a new window nothing is spent but what
// the windows before were overdrawn by.
func (p Pool) at(now int64) Pool {
	if p.Window > 0 && now > p.Anchor {
		if current := (now - p.Anchor) / p.Window; current > p.Index {
			p.Spent, p.Index = balance.Carried(p.Spent, p.Credits, current-p.Index), current
		}
	}
	return p
}

// poolSize is a pool as scripts answer it, and as it is stored unless something was given back in its
// window, which is then a further number, or the ledger's clock is in that window and Redis' is not yet,
// which is a byte after that.
const poolSize = 1 + 7*size

// pool reads a pool. The caller has checked the length.
func pool(text string) Pool {
	if text[0] == '-' {
		return Pool{}
	}
	n := func(i int) int64 { return int64(double(text, 1, i)) }
	return Pool{Known: true, Present: text[0] == 'P', Version: n(0), Credits: n(1), Spent: n(2), Held: n(3), Anchor: n(4), Window: n(5),
		Index: n(6)}
}

// parsePool reads a pool as stored; nothing is one that is not known.
func parsePool(text string, now int64) (Pool, error) {
	switch len(text) {
	case 0:
		return Pool{}, nil
	case poolSize, poolSize + size, poolSize + size + 1:
		return pool(text).at(now), nil
	}
	return Pool{}, fmt.Errorf("%w: a pool of %d bytes", ErrReply, len(text))
}

// poolKey is where the pool of an account is.
func (s *Store) poolKey(account, provider string) string {
	return s.config.Prefix + "{" + account + "}:p:" + provider
}

// MaxTokens is the most tokens that a pool may state: more are not exact as doubles.
const MaxTokens = 1 << 53

// SetBalance writes what the token service says of a pool that it was asked for just now, and gives the
// pool as it is then. Of two states the one with the higher version wins, in whatever order they come;
// what is held stays, and spent only grows within a window. A pool whose window has not begun by Redis'
// clock comes to the window that the state was read in, with what was spent.
func (s *Store) SetBalance(ctx context.Context, b balance.State) (Pool, error) {
	reply, err := s.balance(ctx, b, 0)
	if err != nil {
		return Pool{}, err
	}
	return pool(reply), nil
}

// UpdateBalance is SetBalance of a pool that is known here; false: it is not, and nothing is written. The
// state may be old: by it no pool comes to an earlier window.
func (s *Store) UpdateBalance(ctx context.Context, b balance.State) (known bool, err error) {
	reply, err := s.balance(ctx, b, 1)
	return len(reply) > 0, err
}

// balance runs the script; with 1 it writes only what is known, and answers nothing for what is not.
func (s *Store) balance(ctx context.Context, b balance.State, known float64) (string, error) {
	if err := b.Check(); err != nil {
		return "", err
	}
	if max(b.Credits, b.Spent, b.Returned, b.Version) > MaxTokens {
		return "", fmt.Errorf("%w: credits, spent, returned or version above 2^53", balance.ErrMalformed)
	}
	present, anchor, window := 0.0, 0.0, 0.0
	if b.Present {
		present = 1
	}
	if b.Window > 0 {
		anchor, window = float64(b.Anchor.UnixMicro()), float64(max(1, b.Window.Microseconds()))
	}
	args := append(s.pool.begin(1, 1), s.poolKey(b.Account, b.Provider),
		bucket.Pack(s.now(), present, float64(b.Version), float64(b.Credits), float64(b.Spent), anchor, window, float64(b.At.UnixMicro()),
			float64(b.Returned), known))
	reply, err := s.run(ctx, s.pool, args)
	if err != nil {
		return "", err
	}
	if len(reply) != poolSize && (known == 0 || len(reply) > 0) {
		return "", fmt.Errorf("%w: a pool of %d bytes", ErrReply, len(reply))
	}
	return reply, nil
}
