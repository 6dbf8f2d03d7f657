package extauthz

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/leaky-tokens/leaky-tokens/internal/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/principal"
)

const (
	// negativeTTL is how long an unknown key is not looked up again.
	negativeTTL = 2 * time.Second
	// maxLookups is how many keys are looked up at once.
	maxLookups = 64
)

// keys checks API keys: a lookup at identity by the raw key, remembered by its hash.
type keys struct {
	directory *directory
	ttl       time.Duration
	tiers     config.Tiers
	cache     *cache
	// unknown has its own bound, so that guesses cannot push out callers.
	unknown *lru.Cache[fingerprint, time.Time]
	flight  singleflight.Group
	slots   chan struct{}
	metrics *metrics
}

func newKeys(d *directory, ttl time.Duration, tiers config.Tiers, m *metrics) *keys {
	unknown, err := lru.New[fingerprint, time.Time](cacheSize)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &keys{directory: d, ttl: ttl, tiers: tiers, cache: newCache(), unknown: unknown, slots: make(chan struct{}, maxLookups), metrics: m}
}

// check gives the caller of a key; errInvalid or errUnreachable otherwise.
func (k *keys) check(ctx context.Context, key string, now time.Time) (*caller, error) {
	if _, err := apikey.Parse(key); err != nil {
		k.metrics.keyFailure.Inc()
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	print := fingerprintOf(key)
	if found := k.cache.get(print, now); found != nil {
		k.metrics.keyHit.Inc()
		k.metrics.keySuccess.Inc()
		return found, nil
	}
	k.metrics.keyMiss.Inc()
	if until, ok := k.unknown.Get(print); ok && now.Before(until) {
		k.metrics.keyFailure.Inc()
		return nil, errInvalid
	}
	found, err := k.lookup(ctx, key, print)
	if err != nil {
		k.metrics.keyFailure.Inc()
		return nil, err
	}
	k.metrics.keySuccess.Inc()
	return found, nil
}

// lookup asks identity, once for all that wait for the same key.
func (k *keys) lookup(ctx context.Context, key string, print fingerprint) (*caller, error) {
	got, err, _ := k.flight.Do(string(print[:]), func() (any, error) {
		// The first caller may go away while others wait for the same answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.directory.timeout)
		defer cancel()
		select {
		case k.slots <- struct{}{}:
			defer func() { <-k.slots }()
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: too many lookups at once", errUnreachable)
		}
		generation := k.cache.generation.Load()
		answer, err := k.directory.find(ctx, key)
		now := time.Now()
		if errors.Is(err, errInvalid) {
			k.unknown.Add(print, now.Add(negativeTTL))
		}
		if err != nil {
			return nil, err
		}
		found := k.caller(answer, now)
		if !now.Before(found.until) {
			return nil, errInvalid
		}
		k.cache.add(print, found, generation)
		return found, nil
	})
	if err != nil {
		return nil, err
	}
	return got.(*caller), nil
}

func (k *keys) caller(v validity, now time.Time) *caller {
	until := now.Add(k.ttl)
	if v.ExpiresAt != nil && v.ExpiresAt.Before(until) {
		until = *v.ExpiresAt
	}
	slices.Sort(v.Roles)
	return &caller{until: until, who: principal.Principal{UserID: v.UserID, KeyID: v.KeyID, Roles: v.Roles, Tier: principal.TierOf(v.Roles, k.tiers)}}
}

// forget drops a key by the hex of its SHA-256.
func (k *keys) forget(hash string) {
	var print fingerprint
	if n, err := hex.Decode(print[:], []byte(hash[:min(len(hash), 2*len(print))])); err == nil && n == len(print) {
		k.cache.remove(print)
	}
}

// directory is identity as extauthz sees it: GET /api/v1/auth/api-keys/validate.
type directory struct {
	base    string
	timeout time.Duration
	client  *http.Client
}

func newClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: maxLookups, MaxConnsPerHost: maxLookups, IdleConnTimeout: time.Minute, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// validity is identity's answer about a key.
type validity struct {
	UserID    string     `json:"userId"`
	KeyID     string     `json:"keyId"`
	ExpiresAt *time.Time `json:"expiresAt"`
	Roles     []string   `json:"roles"`
}

// find gives errInvalid only when identity says so; whatever else goes wrong is
// errUnreachable.
func (d *directory) find(ctx context.Context, key string) (v validity, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+"/api/v1/auth/api-keys/validate", http.NoBody)
	if err != nil {
		return v, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	req.Header.Set("X-Api-Key", key)
	resp, err := d.client.Do(req)
	if err != nil {
		return v, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, 64<<10)
	defer func() { _, _ = io.Copy(io.Discard, body) }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return v, errInvalid
	default:
		return v, fmt.Errorf("%w: status %d", errUnreachable, resp.StatusCode)
	}
	if err := json.NewDecoder(body).Decode(&v); err != nil {
		return v, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	claimed, _ := apikey.Parse(key)
	if v.UserID != claimed.String() || v.KeyID == "" {
		return v, fmt.Errorf("%w: the answer is about another key", errUnreachable)
	}
	return v, nil
}
