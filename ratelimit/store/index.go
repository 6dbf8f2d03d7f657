package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The index says which holds stand and when each is due, so that a sweep need not walk over every key
// that there is. It is a sorted set that this process writes behind its decisions, in batches: in the
// scripts an entry would cost every request a tenth of its time. A hold waits for one to two rounds,
// and most calls are settled before. So the index may lack the last second of a process that died, and
// know holds that are gone; the first has a scan of all keys that each process makes before its first
// sweep and once in scanEvery, the second every sweep.
const (
	indexEvery = 500 * time.Millisecond
	indexBatch = 1000
	// mostPending is how many entries wait at most, while Redis is away; after more all keys are scanned.
	mostPending = 200_000
	scanEvery   = time.Hour
)

// index is what is not written yet.
type index struct {
	mu         sync.Mutex
	young, old map[string]float64 // when holds are due, by member
	gone       []string           // members to take out
	scan       bool               // the index may lack something
	scanned    time.Time
}

// errIndex says that the index could not be written.
var errIndex = errors.New("write index")

// indexKey is the sorted set's; in a cluster it is on one of the servers.
func (s *Store) indexKey() string { return s.config.Prefix + "{" + SharedAccount + "}:due" }

// member is a hold in the index: its key without the prefix.
func (s *Store) member(account, id string) string {
	return strings.TrimPrefix(s.HoldKey(account, id), s.config.Prefix)
}

// stands notes a hold by its key.
func (s *Store) stands(key string, due float64) {
	x := &s.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.young)+len(x.old) >= mostPending {
		x.scan = true
		return
	}
	if x.young == nil {
		x.young = map[string]float64{}
	}
	x.young[strings.TrimPrefix(key, s.config.Prefix)] = due
}

// ended notes that a hold stands no more.
func (s *Store) ended(account, id string) {
	member := s.member(account, id)
	x := &s.index
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, waits := x.young[member]; waits {
		delete(x.young, member)
		return
	}
	if _, waits := x.old[member]; waits {
		delete(x.old, member)
		return
	}
	if len(x.gone) < mostPending { // else a sweep finds it gone
		x.gone = append(x.gone, member)
	}
}

// KeepIndex writes the index until ctx ends, and then what is left.
func (s *Store) KeepIndex(ctx context.Context) {
	tick := time.NewTicker(indexEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = s.writeIndex(last, true) // what is lost the next scan finds
			return
		case <-tick.C:
			_ = s.writeIndex(ctx, false) // what failed waits
		}
	}
}

// writeIndex writes what has waited for a round, or all.
func (s *Store) writeIndex(ctx context.Context, all bool) error {
	x := &s.index
	x.mu.Lock()
	adding, gone := x.old, x.gone
	x.old, x.young, x.gone = x.young, nil, nil
	if all {
		for member, due := range x.old {
			if adding == nil {
				adding = map[string]float64{}
			}
			adding[member] = due
		}
		x.old = nil
	}
	x.mu.Unlock()
	var members []redis.Z
	for member, due := range adding {
		members = append(members, redis.Z{Score: due, Member: member})
	}
	err := s.addAll(ctx, members)
	if err == nil {
		err = s.removeAll(ctx, gone)
		gone = nil
	}
	if err == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.young)+len(x.old)+len(adding) > mostPending {
		x.scan = true
		return err
	}
	if x.old == nil {
		x.old = map[string]float64{}
	}
	for member, due := range adding {
		x.old[member] = due
	}
	x.gone = append(x.gone, gone...)
	return err
}

func (s *Store) addAll(ctx context.Context, members []redis.Z) error {
	for ; len(members) > 0; members = members[min(indexBatch, len(members)):] {
		part := members[:min(indexBatch, len(members))]
		if err := s.gated(func() error { return s.client.ZAdd(ctx, s.indexKey(), part...).Err() }); err != nil {
			return fmt.Errorf("%w: %w", errIndex, err)
		}
	}
	return nil
}

func (s *Store) removeAll(ctx context.Context, members []string) error {
	for ; len(members) > 0; members = members[min(indexBatch, len(members)):] {
		part := members[:min(indexBatch, len(members))]
		args := make([]any, len(part))
		for i, m := range part {
			args[i] = m
		}
		if err := s.gated(func() error { return s.client.ZRem(ctx, s.indexKey(), args...).Err() }); err != nil {
			return fmt.Errorf("%w: %w", errIndex, err)
		}
	}
	return nil
}

// needsScan reports whether all keys are to be walked over this time.
func (s *Store) needsScan() bool {
	x := &s.index
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.scan || time.Since(x.scanned) > scanEvery
}

// scanned notes that they were.
func (s *Store) scanned(at time.Time) {
	x := &s.index
	x.mu.Lock()
	defer x.mu.Unlock()
	x.scan, x.scanned = false, at
}

// lacks notes that the index may lack something.
func (s *Store) lacks() {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	s.index.scan = true
}

// walkIndex gives each hold of the index that is held, or expired and not published, to visit, by when
// it is due. Entries of others are taken out. As in walk, what fails stands in no other's way.
func (s *Store) walkIndex(ctx context.Context, visit func(Hold) error) error {
	if err := s.writeIndex(ctx, true); err != nil {
		return err
	}
	if s.needsScan() {
		return s.walkAll(ctx, visit)
	}
	var failed failures
	kept := int64(0) // entries that stay and are behind us
	for {
		began := time.Now()
		var entries []redis.Z
		if err := s.gated(func() (err error) {
			entries, err = s.client.ZRangeWithScores(ctx, s.indexKey(), kept, kept+scanCount-1).Result()
			return err
		}); err != nil {
			return err
		}
		if len(entries) == 0 {
			return failed.err()
		}
		stay, err := s.walkEntries(ctx, entries, visit, &failed)
		if err != nil {
			return err
		}
		kept += int64(stay)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Since(began)):
		}
	}
}

// walkEntries visits some entries and counts those that stay, as do those whose server is away. One whose
// hold was renewed moves to where it is due, and is visited there.
func (s *Store) walkEntries(ctx context.Context, entries []redis.Z, visit func(Hold) error, failed *failures) (stay int, err error) {
	members, keys := make([]string, len(entries)), make([]string, len(entries))
	for i, e := range entries {
		members[i], _ = e.Member.(string)
		keys[i] = s.config.Prefix + members[i]
	}
	texts, away, err := s.getSome(ctx, keys)
	if err != nil {
		return 0, err
	}
	for _, one := range away {
		failed.add(one) // one stands for all
		break
	}
	var later []redis.Z
	var looked []string // keys that are visited
	for i, text := range texts {
		r, err := parseRecord(text)
		if err == nil && r.State == StateHeld && float64(r.Expires) > entries[i].Score {
			later = append(later, redis.Z{Score: float64(r.Expires), Member: members[i]})
			texts[i] = ""
		} else if away[keys[i]] == nil {
			looked = append(looked, keys[i])
		}
	}
	err = s.visitAll(ctx, keys, texts, visit)
	if s.ends(ctx, err) {
		return 0, errors.Join(err, ctx.Err())
	}
	failed.add(err)
	after, gone, err := s.standing(ctx, looked)
	if err != nil {
		return 0, err
	}
	return after + len(away), errors.Join(s.removeAll(ctx, gone), s.addAll(ctx, later))
}

// standing counts the keys whose holds are held, or expired and not published, or cannot be read now, and
// gives the members of the others.
func (s *Store) standing(ctx context.Context, keys []string) (stay int, gone []string, err error) {
	texts, away, err := s.getSome(ctx, keys)
	for i, text := range texts {
		if away[keys[i]] != nil || text != "" && (text[0] == byte(StateHeld) || text[0] == byte(StateExpired)) {
			stay++
		} else {
			gone = append(gone, strings.TrimPrefix(keys[i], s.config.Prefix))
		}
	}
	return stay, gone, err
}

// walkAll is walk, and brings the index up to what there is.
func (s *Store) walkAll(ctx context.Context, visit func(Hold) error) error {
	began := time.Now()
	var found []redis.Z
	err := s.walk(ctx, func(h Hold) error {
		found = append(found, redis.Z{Score: float64(h.Record.Expires), Member: s.member(h.Account, h.ID)})
		if len(found) >= indexBatch {
			if err := s.addAll(ctx, found); err != nil {
				return err
			}
			found = found[:0]
		}
		return visit(h)
	})
	if err := s.addAll(ctx, found); err != nil {
		return err
	}
	if !errors.Is(err, ErrUnavailable) && ctx.Err() == nil { // of a server that is away it may lack something
		s.scanned(began)
	}
	return err
}

// turnKey says which process sweeps.
func (s *Store) turnKey() string { return s.config.Prefix + "{" + SharedAccount + "}:sweeper" }

// turnLasts is how long a sweeper that died is taken for alive.
const turnLasts = 10 * time.Second

// shorten ends a turn that lasts longer than any does: the server's clock was ahead when it was taken and
// was set back, and nobody would have one until it comes to that time again.
func (s *Store) shorten(ctx context.Context, key string, every time.Duration) error {
	return s.gated(func() error {
		left, err := s.client.PTTL(ctx, key).Result()
		if err != nil || left <= max(every, turnLasts) {
			return err
		}
		return s.client.Expire(ctx, key, turnLasts).Err()
	})
}

// Turn runs f if no other process has its turn, and lets none have the next before every is over; f
// must end with its context, which does when the turn is lost.
func (s *Store) Turn(ctx context.Context, every time.Duration, f func(context.Context) error) error {
	_, err := s.turn(ctx, s.turnKey(), every, f)
	return err
}

// turn is Turn by a key, and tells whether f ran.
func (s *Store) turn(ctx context.Context, key string, every time.Duration, f func(context.Context) error) (mine bool, err error) {
	began, name := time.Now(), strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := s.gated(func() (err error) {
		mine, err = s.client.SetNX(ctx, key, name, turnLasts).Result()
		return err
	}); err != nil || !mine {
		return false, errors.Join(err, s.shorten(ctx, key, every))
	}
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(turnLasts / 4)
		defer tick.Stop()
		for {
			select {
			case <-working.Done():
				return
			case <-tick.C:
				if held, err := s.client.Expire(working, key, turnLasts).Result(); err == nil && !held {
					cancel()
				}
			}
		}
	}()
	err = f(working)
	cancel()
	<-ended
	ctx = context.WithoutCancel(ctx)
	return true, errors.Join(err, s.gated(func() error {
		if rest := every*9/10 - time.Since(began); rest >= time.Millisecond {
			return s.client.PExpire(ctx, key, rest).Err()
		}
		return s.client.Del(ctx, key).Err()
	}))
}
