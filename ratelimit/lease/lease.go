// Package lease admits calls while Redis does not answer, for routes whose outage mode is
// lease or open, and sees to it that the books are right afterwards.
//
// A lease is a hold like any other, taken ahead of need while Redis answers: this replica
// may admit as many tokens and requests as it has leased without asking. All replicas
// lease from the same buckets, so together they never admit more than the account has.
// There is one lease for all calls that fall under the same buckets and pool.
//
//	         a call like it             Redis granted
//	         was admitted                 all of it
//	(none) ----------------> ordered ------------------> ready --+ admits calls while
//	  ^                         | refused, or              |  ^--+ Redis is away
//	  |                         | no answer                |
//	  |                         v                          | idle, half its life over, a
//	  |                  what was taken, or                | call like it was refused, or
//	  |                  may have been                     | the service ends
//	  |                         |                          v
//	  +-------------------------+--------------------- given back: settled, after what
//	                                                   admitted calls hold was moved
//
// What could not be given back is tried again every second until Redis has answered. A command
// without an answer may still lie in the socket of a server that hangs, and be executed after one
// that came later; store.Revoke sees to it that it takes nothing then.
//
// What is admitted while Redis is away waits in the journal. As soon as Redis answers
// again, and before a lease is given back or one of these calls is settled, each is
// written down (store.RecordLate): out of the lease that covered it, or by force when
// there was none. Writing down is idempotent by request id. The journal is in memory: a
// replica that dies in an outage loses it, and its leases then expire as holds do.
//
// Redis' clock counts for buckets and expiry; the clock of this process only for how long
// a lease may be used, which ends before Redis' expiry of it (a tenth of its life earlier).
package lease

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// idPrefix begins the id of a lease among the holds of an account. Envoy's ids are
// UUIDs and cannot be taken for one.
const idPrefix = "lease-"

// IsLease reports whether a hold's id is a lease's.
func IsLease(id string) bool { return strings.HasPrefix(id, idPrefix) }

const (
	// mostOrders bounds how many leases are being taken or given back, and mostLeases how
	// many one replica has.
	mostOrders = 4096
	mostLeases = 50_000
)

// slice is what is leased of one unit: a hold in Redis under an id of its own.
type slice struct {
	take store.Take
	held int64 // in Redis, as far as known
	left int64 // not admitted yet
}

// lease is what this replica may admit without Redis, of calls that fall under the same
// buckets and pool.
type lease struct {
	key      string
	tokens   *slice // nil: the calls have no buckets of tokens and no pool
	requests *slice // nil: they have none of requests
	until    time.Time
	used     time.Time
	ready    bool // Redis granted it
}

// parts are what it consists of, in the order in which they are taken.
func (l *lease) parts() []*slice {
	return slices.DeleteFunc([]*slice{l.tokens, l.requests}, func(s *slice) bool { return s == nil })
}

// table has the leases of one replica.
type table struct {
	tokens, requests int64
	idle, life       time.Duration

	mu     sync.Mutex
	byKey  map[string]*lease
	rest   map[string]time.Time // what was given back to make room is not leased again before
	orders chan *lease          // to take, or when ready to give back
}

func newTable(tokens, requests int64, idle, life time.Duration) *table {
	return &table{tokens: tokens, requests: requests, idle: idle, life: life, byKey: map[string]*lease{}, rest: map[string]time.Time{},
		orders: make(chan *lease, mostOrders)}
}

// keyOf tells which calls can share a lease.
func keyOf(t *store.Take) string {
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

// newLease makes the lease for calls like this; it has to be taken yet.
func (l *table) newLease(t *store.Take, key string) *lease {
	out := &lease{key: key, used: time.Now()}
	tokens := store.Take{Account: t.Account, ID: idPrefix + uuid.NewString(), Fill: l.tokens, Pool: t.Pool, Provider: t.Provider}
	requests := store.Take{Account: t.Account, ID: idPrefix + uuid.NewString(), Fill: l.requests}
	for _, b := range t.Buckets {
		if b.Limit.Kind.CountsTokens() {
			tokens.Buckets = append(tokens.Buckets, b)
			continue
		}
		kind := bucket.Tokens // held like tokens, since what is used at once cannot be given back exactly
		if !b.Limit.Kind.Refuses() {
			kind = bucket.ShadowTokens
		}
		requests.Buckets = append(requests.Buckets, bucket.Bucket{Limit: bucket.NewLimit(kind, b.Limit.Params), Key: b.Key})
	}
	if t.ID != "" {
		out.tokens = &slice{take: tokens}
	}
	if len(requests.Buckets) > 0 {
		out.requests = &slice{take: requests}
	}
	return out
}

// keepFor keeps a lease for calls like one that Redis admitted: its like may come in an
// outage.
func (l *table) keepFor(t *store.Take) {
	key := keyOf(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := l.byKey[key]; have != nil {
		have.used = time.Now()
		return
	}
	if _, resting := l.rest[key]; resting || len(l.byKey) >= mostLeases {
		return
	}
	l.enqueue(l.newLease(t, key))
}

// giveBackFor gives back what is leased for calls like one that Redis refused: it may be
// what they lacked.
func (l *table) giveBackFor(t *store.Take) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := l.byKey[keyOf(t)]; have != nil && have.ready {
		delete(l.byKey, have.key)
		l.rest[have.key] = time.Now().Add(l.idle)
		l.enqueue(have)
	}
}

// enqueue hands an order to the worker, which it drops if there are too many. mu is held.
func (l *table) enqueue(one *lease) {
	select {
	case l.orders <- one:
		if !one.ready {
			l.byKey[one.key] = one
		}
	default:
	}
}

// takeFrom admits a call from its lease: the output granted and the lease's id, false if
// there is too little.
func (l *table) takeFrom(t *store.Take) (output int64, id string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, requests := l.byKey[keyOf(t)], t.Requests
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

// removeDue forgets the leases that are idle or old, or all, and gives them to be given
// back.
func (l *table) removeDue(all bool) []*lease {
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

// leasedTokens is what is leased and not admitted, in tokens.
func (l *table) leasedTokens() float64 {
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
