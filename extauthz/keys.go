package extauthz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

const (
	// negativeTTL is how long an unknown key is not looked up again.
	negativeTTL = 2 * time.Second
	// maxLookups is how many keys are looked up at once.
	maxLookups = 64
	// spareWait is how long a caller who may go on without an answer waits for one, where
	// identity neither answers nor refuses. The lookup itself goes on.
	spareWait = 200 * time.Millisecond
)

// keys checks API keys: a lookup at identity by the raw key, remembered by its hash.
type keys struct {
	directory *directory
	ttl       time.Duration
	grace     time.Duration
	tiers     config.Tiers
	denied    *denylist
	fresh     *freshness
	cache     cache
	// unknown has its own bound, so that guesses cannot push out callers.
	unknown *lru.Cache[fingerprint, useless]
	flight  singleflight.Group
	slots   chan struct{}
	metrics *metrics
}

// useless is a key that is none, and why, until it is looked up again.
type useless struct {
	until time.Time
	why   error
}

func newUnknown() *lru.Cache[fingerprint, useless] {
	unknown, err := lru.New[fingerprint, useless](cacheSize)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return unknown
}

// recall answers from memory; errUnknown where identity has to be asked.
func (k *keys) recall(key string, now time.Time) (*caller, error) {
	if len(key) != apikey.MaxLen {
		k.metrics.keyFailure.Inc()
		return nil, errInvalid
	}
	print := fingerprintOf(key)
	if found, ok := k.cache.Get(print); ok {
		switch k.denied.judge(found) {
		case revoked:
			k.metrics.keyHit.Inc()
			k.metrics.keyFailure.Inc()
			return nil, errInvalid
		case changed:
			return nil, errUnknown
		case good:
		}
		if at := k.fresh.at(now); at == fresh && now.Before(found.until) || at == offline && now.Before(found.spare) {
			k.metrics.keyHit.Inc()
			k.metrics.keySuccess.Inc()
			return found, nil
		}
		return nil, errUnknown
	}
	if it, ok := k.unknown.Get(print); ok && now.Before(it.until) {
		k.metrics.keyMiss.Inc()
		k.metrics.keyFailure.Inc()
		return nil, it.why
	}
	return nil, errUnknown
}

// check gives the caller of a key; errInvalid or errUnreachable otherwise.
func (k *keys) check(ctx context.Context, key string, now time.Time) (*caller, error) {
	found, err := k.recall(key, now)
	if !errors.Is(err, errUnknown) {
		return found, err
	}
	k.metrics.keyMiss.Inc()
	spare := k.spare(key, now)
	if spare != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, spareWait)
		defer cancel()
	}
	found, err = k.ask(ctx, key)
	if errors.Is(err, errUnreachable) && spare != nil && k.denied.judge(spare) == good {
		found, err = spare, nil
	}
	if err != nil {
		k.metrics.keyFailure.Inc()
		return nil, err
	}
	k.metrics.keySuccess.Inc()
	return found, nil
}

// spare is a caller whose time to be checked again has come, and who may go on for the
// grace should identity not answer: so long as no revocation can have been missed. nil
// if there is none.
func (k *keys) spare(key string, now time.Time) *caller {
	found, ok := k.cache.Peek(fingerprintOf(key))
	if !ok || !now.Before(found.spare) || k.fresh.at(now) == stale || k.denied.judge(found) != good {
		return nil
	}
	return found
}

// ask asks identity, once for all that wait for the same key.
func (k *keys) ask(ctx context.Context, key string) (*caller, error) {
	if _, err := apikey.Parse(key); err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	print := fingerprintOf(key)
	// The first caller may go away while others wait for the same answer.
	lasting := context.WithoutCancel(ctx)
	answers := k.flight.DoChan(string(print[:]), func() (any, error) { return k.lookup(lasting, key, print) })
	select {
	case got := <-answers:
		if got.Err != nil {
			return nil, got.Err
		}
		return got.Val.(*caller), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errUnreachable, ctx.Err())
	}
}

func (k *keys) lookup(ctx context.Context, key string, print fingerprint) (*caller, error) {
	ctx, cancel := context.WithTimeout(ctx, k.directory.timeout)
	defer cancel()
	select {
	case k.slots <- struct{}{}:
		defer func() { <-k.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: too many lookups at once", errUnreachable)
	}
	asked := time.Now()
	answer, err := k.directory.find(ctx, key)
	now := time.Now()
	if errors.Is(err, errInvalid) {
		k.cache.Remove(print)
		k.unknown.Add(print, useless{until: now.Add(negativeTTL), why: err})
	}
	if err != nil {
		return nil, err
	}
	found := k.caller(answer, print, asked)
	if !now.Before(found.until) && !now.Before(found.spare) {
		return nil, errExpired
	}
	if k.denied.judge(found) == revoked { // while identity was answering
		return nil, errInvalid
	}
	k.cache.Add(print, found)
	return found, nil
}

func (k *keys) caller(v validity, print fingerprint, asked time.Time) *caller {
	until := asked.Add(shorten(k.ttl))
	spare := until.Add(k.grace)
	if v.ExpiresAt != nil && v.ExpiresAt.Before(spare) {
		spare = *v.ExpiresAt
		if spare.Before(until) {
			until = spare
		}
	}
	slices.Sort(v.Roles)
	return &caller{asked: asked, until: until, spare: spare,
		names: names{key: nameOf(revocation.Key, string(print[:])), user: nameOf(revocation.User, v.UserID)},
		who: principal.Principal{UserID: v.UserID, OrgID: v.OrgID, Team: v.Team, KeyID: v.KeyID, Roles: v.Roles,
			Tier: principal.TierOf(v.Roles, k.tiers)}}
}
