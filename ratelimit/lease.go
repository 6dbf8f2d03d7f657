package ratelimit

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// leasePrefix begins the id of a lease among the holds of an account. Envoy's ids are
// UUIDs and cannot be taken for one.
const leasePrefix = "lease-"

func isLease(id string) bool { return strings.HasPrefix(id, leasePrefix) }

const (
	// leasesAtOnce bounds how many leases are being taken or given back, and leasesMost how
	// many one replica has.
	leasesAtOnce = 4096
	leasesMost   = 50_000
	leasesEvery  = time.Second
)

// slice is what is leased of one unit: a hold in Redis under an id of its own.
type slice struct {
	take store.Take
	held int64 // in Redis, as far as known
	left int64 // not admitted yet
}

// lease is what this replica may admit without Redis, of calls that fall under the same
// buckets and pool. It is a hold like any other, taken while Redis answered, so that all
// replicas together never lease more than the account has.
type lease struct {
	key      string
	tokens   *slice // nil: the calls have no buckets of tokens and no pool
	requests *slice // nil: they have none of requests
	until    time.Time
	used     time.Time
	ready    bool // Redis granted it
}

// leases are those of one replica.
type leases struct {
	tokens, requests int64
	idle, life       time.Duration

	mu     sync.Mutex
	byKey  map[string]*lease
	rest   map[string]time.Time // what was given back to make room is not leased again before
	orders chan *lease          // to take, or when ready to give back
}

func newLeases(tokens, requests int64, idle, life time.Duration) *leases {
	return &leases{tokens: tokens, requests: requests, idle: idle, life: life, byKey: map[string]*lease{}, rest: map[string]time.Time{},
		orders: make(chan *lease, leasesAtOnce)}
}

// leaseKey tells which calls can share a lease.
func leaseKey(t *store.Take) string {
	var b strings.Builder
	b.WriteString(t.Account)
	if t.Pool != store.PoolNone {
		b.WriteByte(0)
		b.WriteString(t.Provider)
	}
	for _, one := range t.Buckets {
		b.WriteByte(0)
		b.WriteString(one.Key)
	}
	return b.String()
}

// order makes the lease for calls like this; it has to be taken yet.
func (l *leases) order(t *store.Take, key string) *lease {
	out := &lease{key: key, used: time.Now()}
	tokens := store.Take{Account: t.Account, ID: leasePrefix + uuid.NewString(), Fill: l.tokens, Pool: t.Pool, Provider: t.Provider}
	requests := store.Take{Account: t.Account, ID: leasePrefix + uuid.NewString(), Fill: l.requests}
	for _, b := range t.Buckets {
		if b.Limit.Kind.CountsTokens() {
			tokens.Buckets = append(tokens.Buckets, b)
			continue
		}
		kind := store.Tokens // held like tokens, since what is used at once cannot be given back exactly
		if !b.Limit.Kind.Refuses() {
			kind = store.ShadowTokens
		}
		requests.Buckets = append(requests.Buckets, store.Bucket{Limit: store.NewLimit(kind, b.Limit.Params), Key: b.Key})
	}
	if t.ID != "" {
		out.tokens = &slice{take: tokens}
	}
	if len(requests.Buckets) > 0 {
		out.requests = &slice{take: requests}
	}
	return out
}

// touch says that a call was admitted by Redis: its like may come in an outage.
func (l *leases) touch(t *store.Take) {
	key := leaseKey(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := l.byKey[key]; have != nil {
		have.used = time.Now()
		return
	}
	if _, resting := l.rest[key]; resting || len(l.byKey) >= leasesMost {
		return
	}
	l.place(l.order(t, key))
}

// place hands an order to the worker, which it drops if there are too many. mu is held.
func (l *leases) place(one *lease) {
	select {
	case l.orders <- one:
		if !one.ready {
			l.byKey[one.key] = one
		}
	default:
	}
}

// yield gives back what is leased for calls like one that Redis refused: it may be what
// they lacked.
func (l *leases) yield(t *store.Take) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := l.byKey[leaseKey(t)]; have != nil && have.ready {
		delete(l.byKey, have.key)
		l.rest[have.key] = time.Now().Add(l.idle)
		l.place(have)
	}
}

// lendFor keeps a lease for calls like one that Redis decided about.
func (s *Service) lendFor(t *store.Take, outcome store.Outcome) {
	switch outcome {
	case store.Admitted:
		s.leases.touch(t)
	case store.Refused, store.Short:
		s.leases.yield(t)
	}
}

// spend admits a call from its lease: the output granted and the lease's id, false if
// there is too little.
func (l *leases) spend(t *store.Take) (output int64, id string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, requests := l.byKey[leaseKey(t)], t.Requests
	for _, b := range t.Buckets {
		requests = max(requests, b.Own)
	}
	if have == nil || !have.ready || time.Now().After(have.until) || have.requests != nil && have.requests.left < requests {
		return 0, "", false
	}
	output = t.Output
	if have.tokens != nil {
		left := have.tokens.left - t.Input
		if t.Output == 0 && t.Fill > 0 {
			if output = min(t.Fill, left); output < min(bucket.LeastFill, t.Fill) {
				return 0, "", false
			}
		}
		if output > left {
			return 0, "", false
		}
		have.tokens.left -= t.Input + output
		id = have.tokens.take.ID
	}
	if have.requests != nil {
		have.requests.left -= requests
	}
	return output, id, true
}

// due gives the leases that are idle or old, or all, and forgets them.
func (l *leases) due(all bool) []*lease {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, until := range l.rest {
		if now.After(until) {
			delete(l.rest, key)
		}
	}
	var out []*lease
	for key, one := range l.byKey {
		if one.ready && (all || now.Sub(one.used) > l.idle || one.until.Sub(now) < l.life/2) {
			delete(l.byKey, key)
			out = append(out, one)
		}
	}
	return out
}

// total is what is leased and not admitted, in tokens.
func (l *leases) total() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum int64
	for _, one := range l.byKey {
		if one.ready && one.tokens != nil {
			sum += one.tokens.left
		}
	}
	return float64(sum)
}

func (s *Service) leasedTokens() float64 { return s.leases.total() }

// lend takes and gives back leases until ctx ends, then gives back all.
func (s *Service) lend(ctx context.Context) {
	ticker := time.NewTicker(leasesEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			s.returnAll(context.WithoutCancel(ctx))
			return
		case one := <-s.leases.orders:
			s.carry(ctx, one)
		case <-ticker.C:
			if !s.store.Down() && s.journal.size() == 0 {
				for _, one := range s.leases.due(false) {
					s.giveUp(ctx, one)
				}
			}
		}
	}
}

func (s *Service) returnAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.adoptAll(ctx)
	for {
		select {
		case one := <-s.leases.orders:
			if one.ready {
				s.giveUp(ctx, one)
			}
			continue
		default:
		}
		break
	}
	for _, one := range s.leases.due(true) {
		s.giveUp(ctx, one)
	}
}

// carry does what an order says.
func (s *Service) carry(ctx context.Context, one *lease) {
	if one.ready {
		s.giveUp(ctx, one)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	granted := time.Now().Add(s.leases.life)
	ok := true
	for _, part := range []*slice{one.tokens, one.requests} {
		if part == nil || !ok {
			continue
		}
		taken, err := s.store.Hold(ctx, part.take)
		if ok = err == nil && taken.Outcome == store.Admitted; ok {
			part.held, part.left = taken.Held, taken.Held
		}
	}
	s.leases.mu.Lock()
	one.ready, one.until = ok, granted
	if !ok {
		delete(s.leases.byKey, one.key)
	}
	s.leases.mu.Unlock()
	if !ok && one.tokens != nil && one.tokens.held > 0 {
		s.giveUp(ctx, one)
	}
}

// giveUp settles a lease: tokens that calls were admitted for were moved to their own
// holds, requests count as used.
func (s *Service) giveUp(ctx context.Context, one *lease) {
	s.adoptAll(ctx) // first, or others could take what it covers
	var back []store.Settlement
	if one.tokens != nil {
		back = append(back, store.Settlement{Account: one.tokens.take.Account, ID: one.tokens.take.ID})
	}
	if one.requests != nil {
		back = append(back, store.Settlement{Account: one.requests.take.Account, ID: one.requests.take.ID,
			Charged: one.requests.held - one.requests.left})
	}
	if _, err := s.store.Settle(ctx, back); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "a lease is not given back and lasts until it expires", slog.Any("error", err))
	}
}
