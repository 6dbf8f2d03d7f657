// Package jwks keeps the public keys of another service at hand, so that checking a
// signature needs no call: extauthz checks identity's JWTs with it, and the services
// behind Envoy check the identities that extauthz mints. Keys are fetched in the
// background and kept when a fetch fails (RFC 7517 for the format).
//
// Parsing is jwkset's. Its companion keyfunc would fetch, too, but answers alike for a key
// that does not exist (401) and an issuer that does not answer (503), and asks the issuer
// for every unknown id of a caller's making.
package jwks

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	maxBytes = 256 << 10 // of a key set's text
	maxKeys  = 64
	maxKeyID = 128 // bytes
	// minRSABits is the smallest RSA key a signature is accepted from (RFC 7518, 3.3).
	minRSABits = 2048
)

var (
	// ErrUnknownKey says that no key has the token's kid.
	ErrUnknownKey = errors.New("unknown key id")
	// ErrUnavailable says that the key may exist but its issuer did not answer.
	ErrUnavailable = errors.New("key set is unavailable")
)

// Config is what New needs.
type Config struct {
	URL          string        // http(s) or file; where the key set is, fixed: no token can name another
	Client       *http.Client  // nil: one with a deadline of 3 s and no redirects; a file needs none
	RefreshEvery time.Duration // in the background, default 1 min
	UnknownEvery time.Duration // at most one fetch for unknown ids in so long, and one more at once; default 5 s
	Log          *slog.Logger
}

// Keys is a key set that refreshes itself while Run runs.
type Keys struct {
	cfg     Config
	keys    atomic.Pointer[map[string]crypto.PublicKey] // nil until the first fetch
	flight  singleflight.Group
	unknown *rate.Limiter // fetches for unknown ids, which callers may invent
	failing atomic.Bool
}

// New checks the configuration. Nothing is fetched before Run or the first use.
func New(cfg Config) (*Keys, error) {
	u, err := url.Parse(cfg.URL)
	file := err == nil && u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path)
	if !file && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("key set address %q: want http(s)://host/path or file:///path", cfg.URL)
	}
	switch {
	case file:
		files := &http.Transport{}
		files.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
		cfg.Client = &http.Client{Transport: files}
	case cfg.Client == nil:
		cfg.Client = &http.Client{Timeout: 3 * time.Second, CheckRedirect: func(*http.Request,
			[]*http.Request) error {
			return http.ErrUseLastResponse
		}}
	}
	if cfg.RefreshEvery <= 0 {
		cfg.RefreshEvery = time.Minute
	}
	if cfg.UnknownEvery <= 0 {
		cfg.UnknownEvery = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Keys{cfg: cfg, unknown: rate.NewLimiter(rate.Every(cfg.UnknownEvery), 2)}, nil
}

// Run fetches now and then again and again until ctx ends. A failed fetch keeps the
// keys at hand; while there are none it is retried with growing pauses.
func (k *Keys) Run(ctx context.Context) error {
	pauses := retry.Policy{First: 100 * time.Millisecond, Most: 500 * time.Millisecond}.Pauses()
	for {
		err := k.refreshNow(ctx)
		next := k.cfg.RefreshEvery
		if err != nil && k.keys.Load() == nil {
			next = pauses.NextBackOff()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// Ready is nil once keys are at hand.
func (k *Keys) Ready() error {
	if k.keys.Load() == nil {
		return fmt.Errorf("%s: %w", k.cfg.URL, ErrUnavailable)
	}
	return nil
}

// Key finds a public key by its id. An unknown id asks the issuer again, rarely, as
// keys rotate. Errors are ErrUnknownKey or ErrUnavailable.
//
// Of several callers with a key that is new one asks, and the others wait for the same answer. An answer
// to a question that was there before the call may be older than the key, so one more counts: the call's
// own, or another's that came after it.
func (k *Keys) Key(ctx context.Context, kid string) (crypto.PublicKey, error) {
	if kid == "" || len(kid) > maxKeyID {
		return nil, ErrUnknownKey
	}
	if key, ok := k.find(kid); ok {
		return key, nil
	}
	for range 2 {
		got := k.refresh(ctx, k.unknown.Allow) // k.failing says how it went, also to those who may not ask
		if key, ok := k.find(kid); ok {
			return key, nil
		}
		if got.own || ctx.Err() != nil {
			break
		}
	}
	if k.failing.Load() || k.keys.Load() == nil || ctx.Err() != nil {
		return nil, ErrUnavailable
	}
	return nil, ErrUnknownKey
}

// Keyfunc finds the key of a token by its kid.
func (k *Keys) Keyfunc(t *jwt.Token) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return k.KeyfuncContext(ctx)(t)
}

// KeyfuncContext is Keyfunc bound to the context of one call.
func (k *Keys) KeyfuncContext(ctx context.Context) jwt.Keyfunc {
	return func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		return k.Key(ctx, kid)
	}
}

func (k *Keys) find(kid string) (crypto.PublicKey, bool) {
	keys := k.keys.Load()
	if keys == nil {
		return nil, false
	}
	key, ok := (*keys)[kid]
	return key, ok
}

// refreshNow fetches, or waits for a fetch that runs.
func (k *Keys) refreshNow(ctx context.Context) error {
	for {
		got := k.refresh(ctx, func() bool { return true })
		if got.asked || got.err != nil {
			return got.err
		}
	}
}

// answer is what a caller of refresh got: the one to its own question or to one that it joined.
type answer struct {
	own   bool
	asked bool // the issuer was; else the question may not be asked just now
	err   error
}

// refresh asks the issuer if it may, or waits until ctx ends for the answer to a question that is asked
// already. Whoever has to ask decides for those who wait with it whether it may.
func (k *Keys) refresh(ctx context.Context, may func() bool) answer {
	own := false
	shared := context.WithoutCancel(ctx) // one caller's end must not fail the others that share the fetch
	done := k.flight.DoChan("", func() (any, error) {
		own = true
		if !may() {
			return false, nil
		}
		return true, k.ask(shared)
	})
	select {
	case <-ctx.Done():
		return answer{err: ctx.Err()}
	case r := <-done:
		asked, _ := r.Val.(bool)
		return answer{own: own, asked: asked, err: r.Err}
	}
}

// ask fetches the keys once and keeps them.
func (k *Keys) ask(ctx context.Context) error {
	keys, err := k.fetch(ctx)
	if err != nil {
		if !k.failing.Swap(true) {
			k.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "key set not fetched, keeping what is at hand", slog.String("url", k.cfg.URL),
				slog.Any("error", err))
		}
		return err
	}
	k.keys.Store(&keys)
	if k.failing.Swap(false) {
		k.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "key set fetched", slog.String("url", k.cfg.URL), slog.Int("keys", len(keys)))
	}
	return nil
}

func (k *Keys) fetch(ctx context.Context) (map[string]crypto.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.cfg.URL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("fetch key set: %w", err)
	}
	resp, err := k.cfg.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch key set: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch key set: status %d", resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("fetch key set: %w", err)
	}
	return Parse(text)
}

// Parse reads a key set. RSA and Ed25519 public keys for signatures that have an id
// are taken, all others left out; a set without one usable key is an error.
func Parse(text []byte) (map[string]crypto.PublicKey, error) {
	if len(text) > maxBytes {
		return nil, fmt.Errorf("parse key set: larger than %d bytes", maxBytes)
	}
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("parse key set: %d keys, at most %d are taken", len(set.Keys), maxKeys)
	}
	keys := make(map[string]crypto.PublicKey, len(set.Keys))
	for _, m := range set.Keys {
		if m.KID == "" || len(m.KID) > maxKeyID || m.USE != "" && m.USE != jwkset.UseSig || m.KTY == jwkset.KtyOct || m.X5U != "" ||
			len(m.X5C) > 0 {
			continue
		}
		jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			continue
		}
		switch key := jwk.Key().(type) {
		case *rsa.PublicKey:
			if key.N.BitLen() >= minRSABits {
				keys[m.KID] = key
			}
		case ed25519.PublicKey:
			keys[m.KID] = key
		case *ecdsa.PublicKey:
			if key.Curve == elliptic.P256() {
				keys[m.KID] = key
			}
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("parse key set: no usable key")
	}
	return keys, nil
}
