package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// HoldState is where a hold is in its life.
type HoldState byte

// States of a hold.
const (
	StateNone    HoldState = 0
	StateHeld    HoldState = 'H'
	StateSettled HoldState = 'S'
	StateExpired HoldState = 'X' // its event waits to be published
	StateClosed  HoldState = 'E' // expired and published
	StateMended  HoldState = 'C' // expired and corrected by a settlement
)

// Record is a hold as stored.
type Record struct {
	State   HoldState
	Held    int64
	Charged int64
	Output  int64
	Expires int64  // microseconds; of an expired one when it was charged; held and expired ones only
	Drawn   bool   // the hold draws on the account's pool
	Taken   int64  // microseconds; held and expired ones only
	Release bool   // it is given back when it expires; held and expired ones only
	Facts   []byte // held and expired ones only

	provider string   // of the pool
	buckets  []string // keys of those that hold its tokens
}

// parseRecord reads what the scripts write (see lua/common.lua).
func parseRecord(text string) (Record, error) {
	const head = 1 + 5*size
	if len(text) < head {
		return Record{}, fmt.Errorf("%w: a record of %d bytes", ErrReply, len(text))
	}
	r := Record{State: HoldState(text[0]), Held: int64(double(text, 1, 0)), Charged: int64(double(text, 1, 1)),
		Output:  int64(double(text, 1, 2)),
		Expires: int64(double(text, 1, 3)), Drawn: double(text, 1, 4) >= 0}
	rest := text[head:]
	if rest == "" {
		return r, nil
	}
	if len(rest) <= size {
		return Record{}, fmt.Errorf("%w: a record of %d bytes ends early", ErrReply, len(text))
	}
	r.Taken = int64(double(rest, 0, 0))
	rest = rest[size:]
	provider := 1 + int(rest[0])
	if len(rest) <= provider {
		return Record{}, fmt.Errorf("%w: a record of %d bytes ends early", ErrReply, len(text))
	}
	r.provider = rest[1:provider]
	n := int(rest[provider])
	rest = rest[provider+1:]
	for range n {
		const fixed = 2*size + 2
		if len(rest) < fixed {
			return Record{}, fmt.Errorf("%w: a record of %d bytes ends early", ErrReply, len(text))
		}
		skip := fixed + int(rest[fixed-2]) + int(rest[fixed-1])<<8
		if len(rest) < skip {
			return Record{}, fmt.Errorf("%w: a record of %d bytes ends early", ErrReply, len(text))
		}
		r.buckets = append(r.buckets, rest[fixed:skip])
		rest = rest[skip:]
	}
	if rest == "" {
		return Record{}, fmt.Errorf("%w: a record of %d bytes ends early", ErrReply, len(text))
	}
	r.Release, r.Facts = rest[0] == 1, []byte(rest[1:])
	return r, nil
}

// AccountState is what a ReadState saw, in the order asked.
type AccountState struct {
	Now     int64 // microseconds
	Records []Record
	States  []bucket.State
	Pools   []Pool
}

// ReadState reads holds, buckets and pools as they are now; it changes nothing.
func (s *Store) ReadState(ctx context.Context, account string, ids []string, buckets []bucket.Bucket,
	providers ...string) (AccountState, error) {
	now, err := s.Clock(ctx)
	if err != nil {
		return AccountState{}, err
	}
	keys := make([]string, 0, len(ids)+len(buckets)+len(providers))
	for _, id := range ids {
		keys = append(keys, s.HoldKey(account, id))
	}
	for _, b := range buckets {
		keys = append(keys, s.bucketKey(b))
	}
	for _, p := range providers {
		keys = append(keys, s.poolKey(account, p))
	}
	out := AccountState{Now: now, Records: make([]Record, len(ids)), States: make([]bucket.State, len(buckets)), Pools: make([]Pool,
		len(providers))}
	texts, err := s.get(ctx, keys)
	if err != nil {
		return AccountState{}, err
	}
	for i, text := range texts {
		switch b, p := i-len(ids), i-len(ids)-len(buckets); {
		case p >= 0:
			out.Pools[p], err = parsePool(text, now)
		case b >= 0:
			limit := buckets[b].Limit.Params
			kept := bucket.Kept{Form: limit.Form()}
			if text != "" {
				kept, err = parseKept(text, kept.Form)
			}
			out.States[b] = limit.Turn(kept, now)
		case text != "":
			out.Records[i], err = parseRecord(text)
		}
		if err != nil {
			return AccountState{}, err
		}
	}
	return out, s.recallAll(ctx, account, ids, out.Records)
}

// Clock is the time the scripts go by, in microseconds.
func (s *Store) Clock(ctx context.Context) (int64, error) {
	if s.config.Now != nil {
		return s.config.Now(), nil
	}
	if err := s.breaker.enter(); err != nil {
		return 0, err
	}
	t, err := s.client.Time(ctx).Result()
	if err := s.verdict(err); err != nil {
		return 0, err
	}
	return t.UnixMicro(), nil
}

// Hold found by Overdue.
type Hold struct {
	Account string
	ID      string
	Record  Record
}

// scanCount is how many keys the server looks at in one step of a scan: about a
// tenth of a millisecond of its only thread.
const scanCount = 500

// Standing is what a sweep saw of the holds that are neither settled nor overdue.
type Standing struct {
	Holds  int
	Tokens int64         // held by them; parts in shared buckets are those of other holds and not counted
	Oldest time.Duration // since the oldest of them was taken; 0 without one
}

// ErrWaits is what a visit of Sweep answers for a hold that is left standing for now.
var ErrWaits = errors.New("the hold waits")

// Sweep gives each hold that is overdue, or expired and not published, to visit. It
// returns what it saw of the others.
func (s *Store) Sweep(ctx context.Context, visit func(Hold) error) (live Standing, err error) {
	now, err := s.Clock(ctx)
	if err != nil {
		return Standing{}, err
	}
	err = s.walkIndex(ctx, func(h Hold) error {
		if h.Record.State == StateHeld && h.Record.Taken > now+farAhead.Microseconds() {
			if err := s.restamp(ctx, h); err != nil {
				return err
			}
		}
		if h.Record.State != StateHeld || h.Record.Expires <= now {
			if err := visit(h); !errors.Is(err, ErrWaits) {
				return err
			}
		}
		live.Holds++
		live.Oldest = max(live.Oldest, time.Duration(now-h.Record.Taken)*time.Microsecond)
		if h.Account != SharedAccount {
			live.Tokens += h.Record.Held
		}
		return nil
	})
	return live, err
}

// Holds gives each hold that is held, or expired and not published, to visit.
func (s *Store) Holds(ctx context.Context, visit func(Hold) error) error { return s.walk(ctx, visit) }

// walk goes through all keys and gives each hold that is held, or expired and not
// published, to visit. It rests between steps for as long as a step took, so that it
// takes a bounded share of the server. A hold that cannot be read or that visit fails for
// stands in no other's way, nor does a server of a cluster that does not answer; only another ends the walk.
func (s *Store) walk(ctx context.Context, visit func(Hold) error) error {
	servers, err := s.servers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, server := range servers {
		err := s.walkServer(ctx, server, visit)
		errs = append(errs, err)
		if s.ends(ctx, err) {
			break
		}
	}
	return errors.Join(errs...)
}

// ends reports whether an error ends a walk: the only server is away, or the one that has the index, or
// nobody waits for it any more.
func (s *Store) ends(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, ErrUnavailable) && (!s.cluster || errors.Is(err, errIndex))
}

func (s *Store) walkServer(ctx context.Context, server redis.Cmdable, visit func(Hold) error) error {
	var failed failures
	err := s.scan(ctx, server, "{*}:h:*", func(keys []string) error {
		err := s.walkKeys(ctx, keys, visit)
		if s.ends(ctx, err) {
			return err
		}
		failed.add(err)
		return nil
	})
	return errors.Join(err, failed.err())
}

// failures are what went wrong with single holds: the first few, and how many steps had some.
type failures struct {
	first []error
	more  int
}

func (f *failures) add(err error) {
	const shown = 5
	switch {
	case err == nil:
	case len(f.first) < shown:
		f.first = append(f.first, err)
	default:
		f.more++
	}
}

func (f *failures) err() error {
	if f.more > 0 {
		return errors.Join(append(f.first, fmt.Errorf("and %d more", f.more))...)
	}
	return errors.Join(f.first...)
}

// scan gives the keys of a server that match, step by step.
func (s *Store) scan(ctx context.Context, server redis.Cmdable, match string, step func(keys []string) error) error {
	var cursor uint64
	for {
		began := time.Now()
		var keys []string
		var err error
		keys, cursor, err = server.Scan(ctx, cursor, s.config.Prefix+match, scanCount).Result()
		if err := s.verdict(err); err != nil {
			return err
		}
		if err := step(keys); err != nil || cursor == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Since(began)):
		}
	}
}

func (s *Store) walkKeys(ctx context.Context, keys []string, visit func(Hold) error) error {
	texts, away, err := s.getSome(ctx, keys)
	if err != nil {
		return err
	}
	err = s.visitAll(ctx, keys, texts, visit)
	for _, one := range away {
		return errors.Join(err, one) // one stands for all
	}
	return err
}

// visitAll gives each hold to visit that is held, or expired and not published.
func (s *Store) visitAll(ctx context.Context, keys, texts []string, visit func(Hold) error) error {
	var failed failures
	for i, text := range texts {
		if text == "" || text[0] != byte(StateHeld) && text[0] != byte(StateExpired) {
			continue
		}
		r, err := parseRecord(text)
		if err != nil {
			failed.add(fmt.Errorf("hold %s: %w", keys[i], err))
			continue
		}
		if account, id, ok := s.parseHoldKey(keys[i]); ok {
			err := visit(Hold{Account: account, ID: id, Record: r})
			if s.ends(ctx, err) {
				return errors.Join(err, ctx.Err())
			}
			failed.add(err)
		}
	}
	return failed.err()
}

// parseHoldKey undoes HoldKey.
func (s *Store) parseHoldKey(key string) (account, id string, ok bool) {
	key, ok = strings.CutPrefix(key, s.config.Prefix+"{")
	if !ok {
		return "", "", false
	}
	i := strings.LastIndex(key, "}:h:")
	if i < 0 {
		return "", "", false
	}
	return key[:i], key[i+len("}:h:"):], true
}

// Expire settles an overdue hold by policy: charge takes all that was held, else nothing
// is. It reports the record if its event is to be published, and false if somebody
// settled or published it meanwhile.
func (s *Store) Expire(ctx context.Context, account, id string, charge bool) (Record, bool, error) {
	policy := 0.0
	if charge {
		policy = 1
	}
	reply, err := s.run(ctx, s.expire, append(s.expire.begin(1, 1), s.HoldKey(account, id), bucket.Pack(s.now(), policy)))
	if err != nil || reply == "" {
		return Record{}, false, err
	}
	r, err := parseRecord(reply)
	return r, err == nil, err
}

// Finish says that the event of an expired hold is published.
func (s *Store) Finish(ctx context.Context, account, id string) error {
	_, err := s.run(ctx, s.finish, append(s.finish.begin(1, 1), s.HoldKey(account, id), bucket.Pack(millis(s.config.ExpiredKept))))
	return err
}

// Lifetime is how long a hold may stay unsettled.
func (s *Store) Lifetime() time.Duration { return s.config.Lifetime }
