// Package keyring is the keys that sign access tokens and ID tokens. They live in
// Postgres, sealed, so that a restart or another replica changes nothing. A new key is
// published some time before it signs, and an old one until all it signed has expired.
package keyring

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
)

const (
	// rsaBits is the size of signing keys.
	rsaBits = 2048
	// queryTime bounds each statement.
	queryTime = 5 * time.Second
	// grace is how much longer than its tokens a key is published, for clocks that differ.
	grace = 2 * time.Minute
)

// Types of tokens: the typ of their header.
const (
	TypeAccess = "at+jwt" // RFC 9068, 2.1
	TypeID     = "JWT"
	TypeLogout = "logout+jwt" // OpenID Connect Back-Channel Logout 1.0, 2.4
)

var (
	// ErrNoKey says that the keys are not loaded yet.
	ErrNoKey = errors.New("no active signing key")
	// ErrUnknownKey says that no published key has a token's kid.
	ErrUnknownKey = errors.New("unknown signing key")
	// ErrTooSoon says that a key of the last rotation does not sign yet.
	ErrTooSoon = errors.New("the key of the last rotation is not in use yet")
)

// Config is what New needs.
type Config struct {
	Pool   *pgxpool.Pool
	Sealer *Sealer
	Ahead  time.Duration // a new key is published so long before it signs
	Life   time.Duration // longest life of what is signed
}

// Ring signs with the key whose turn it is. It is safe for concurrent use.
type Ring struct {
	cfg   Config
	loads atomic.Uint64
	mu    sync.Mutex // of storing
	state atomic.Pointer[state]
}

type state struct {
	load uint64   // which one read it, counted as they began
	keys []loaded // the one that signs last first
	jwks []byte
}

type loaded struct {
	kid      string
	key      *rsa.PrivateKey
	activeAt time.Time
}

// Info is a published key, without its secret.
type Info struct {
	ID        string     `json:"kid"`
	Algorithm string     `json:"alg"`
	Signs     bool       `json:"signs"` // now
	CreatedAt time.Time  `json:"createdAt"`
	ActiveAt  time.Time  `json:"activeAt"`
	RetireAt  *time.Time `json:"retireAt"`
}

// New reads nothing: call Ensure.
func New(cfg Config) *Ring { return &Ring{cfg: cfg} }

// Ensure loads the keys, and makes the first one when there is none, once among all replicas.
func (r *Ring) Ensure(ctx context.Context) error {
	err := r.Load(ctx)
	if !errors.Is(err, ErrNoKey) {
		return err
	}
	fresh, err := r.generate()
	if err != nil {
		return err
	}
	err = r.alone(ctx, func(tx pgx.Tx, have []identitydb.SigningKeysRow) error {
		if len(have) > 0 {
			return nil
		}
		return identitydb.New(tx).AddSigningKey(ctx, fresh)
	})
	if err != nil {
		return fmt.Errorf("store signing key: %w", err)
	}
	return r.Load(ctx)
}

// Rotate adds a key that signs once it has been published for a while; the others are
// published until what they sign till then has expired. also runs in the same transaction.
// ErrTooSoon while the key of an earlier rotation still waits for its turn.
func (r *Ring) Rotate(ctx context.Context, also func(pgx.Tx, string) error) (kid string, err error) {
	return r.rotate(ctx, 0, also)
}

// RotateAfter rotates if the newest key has been signing for so long; kid is empty if not.
func (r *Ring) RotateAfter(ctx context.Context, age time.Duration, also func(pgx.Tx, string) error) (kid string, err error) {
	keys, err := r.rows(ctx)
	if err != nil || len(keys) == 0 || !old(keys[0], age) {
		return "", err
	}
	kid, err = r.rotate(ctx, age, also)
	if errors.Is(err, ErrTooSoon) {
		return "", nil // another replica was faster
	}
	return kid, err
}

func old(newest identitydb.SigningKeysRow, age time.Duration) bool {
	return newest.Now.Sub(newest.ActiveAt) >= age
}

func (r *Ring) rotate(ctx context.Context, age time.Duration, also func(pgx.Tx, string) error) (string, error) {
	fresh, err := r.generate()
	if err != nil {
		return "", err
	}
	fresh.Ahead = r.cfg.Ahead.Seconds()
	err = r.alone(ctx, func(tx pgx.Tx, have []identitydb.SigningKeysRow) error {
		if len(have) > 0 && !old(have[0], age) {
			return ErrTooSoon
		}
		q := identitydb.New(tx)
		if err := q.AddSigningKey(ctx, fresh); err != nil {
			return err
		}
		after := r.cfg.Ahead + r.cfg.Life + grace
		if err := q.RetireSigningKeys(ctx, identitydb.RetireSigningKeysParams{Kid: fresh.Kid, After: after.Seconds()}); err != nil {
			return err
		}
		return also(tx, fresh.Kid)
	})
	if err != nil {
		return "", fmt.Errorf("rotate signing keys: %w", err)
	}
	return fresh.Kid, r.Load(ctx)
}

// Withdraw ends a published key at once: it is in no key set any longer, and another signs. What it
// signed is for also to revoke, in the same transaction. ErrUnknownKey if no such key is published.
func (r *Ring) Withdraw(ctx context.Context, kid string, also func(pgx.Tx) error) error {
	err := r.alone(ctx, func(tx pgx.Tx, have []identitydb.SigningKeysRow) error {
		q := identitydb.New(tx)
		left := slices.DeleteFunc(slices.Clone(have), func(k identitydb.SigningKeysRow) bool { return k.Kid == kid })
		if len(left) == len(have) {
			return ErrUnknownKey
		}
		if err := q.WithdrawSigningKey(ctx, kid); err != nil {
			return err
		}
		if err := r.ensureSigner(ctx, q, left); err != nil {
			return err
		}
		return also(tx)
	})
	if err != nil {
		return fmt.Errorf("withdraw signing key: %w", err)
	}
	return r.Load(ctx)
}

// ensureSigner sees to it that a key signs that does not end: one that waits for its turn, or a new one.
// One that others have not fetched yet is looked up by its kid when they first meet it.
func (r *Ring) ensureSigner(ctx context.Context, q *identitydb.Queries, have []identitydb.SigningKeysRow) error {
	for _, k := range have {
		switch {
		case k.RetireAt != nil:
		case k.ActiveAt.After(k.Now):
			return q.ActivateSigningKey(ctx, k.Kid)
		default:
			return nil
		}
	}
	fresh, err := r.generate()
	if err != nil {
		return err
	}
	return q.AddSigningKey(ctx, fresh)
}

// alone runs f with the published keys while no other replica changes them.
func (r *Ring) alone(ctx context.Context, f func(pgx.Tx, []identitydb.SigningKeysRow) error) error {
	return pgx.BeginFunc(ctx, r.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		if err := q.LockIdentity(ctx); err != nil {
			return err
		}
		have, err := q.SigningKeys(ctx)
		if err != nil {
			return err
		}
		return f(tx, have)
	})
}

func (r *Ring) rows(ctx context.Context) ([]identitydb.SigningKeysRow, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	rows, err := identitydb.New(r.cfg.Pool).SigningKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	return rows, nil
}

// Purge deletes keys that have been retired for a day.
func (r *Ring) Purge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if _, err := identitydb.New(r.cfg.Pool).PurgeSigningKeys(ctx); err != nil {
		return fmt.Errorf("purge signing keys: %w", err)
	}
	return nil
}

// List is the published keys, the newest first.
func (r *Ring) List(ctx context.Context) ([]Info, error) {
	rows, err := r.rows(ctx)
	if err != nil {
		return nil, err
	}
	infos, signing := make([]Info, len(rows)), false
	for i, row := range rows {
		infos[i] = Info{ID: row.Kid, Algorithm: "RS256", CreatedAt: row.CreatedAt.UTC(), ActiveAt: row.ActiveAt.UTC()}
		if row.RetireAt != nil {
			at := row.RetireAt.UTC()
			infos[i].RetireAt = &at
		}
		if !signing && !row.ActiveAt.After(row.Now) {
			infos[i].Signs, signing = true, true
		}
	}
	return infos, nil
}

func (r *Ring) generate() (fresh identitydb.AddSigningKeyParams, err error) {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return fresh, fmt.Errorf("generate signing key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fresh, fmt.Errorf("encode signing key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fresh, fmt.Errorf("encode signing key: %w", err)
	}
	sum := sha256.Sum256(public)
	kid := base64.RawURLEncoding.EncodeToString(sum[:16])
	return identitydb.AddSigningKeyParams{Kid: kid, PublicKey: public, PrivateKey: r.cfg.Sealer.seal(private, kid)}, nil
}

// Load reads the published keys; those that are known already are not unsealed again. Of two at once the
// one that began later counts: the other may have read before a key was withdrawn, of which the later one
// was told.
func (r *Ring) Load(ctx context.Context) error {
	load := r.loads.Add(1)
	rows, err := r.rows(ctx)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return ErrNoKey
	}
	known := map[string]*rsa.PrivateKey{}
	if now := r.state.Load(); now != nil {
		for _, k := range now.keys {
			known[k.kid] = k.key
		}
	}
	next := &state{load: load}
	for _, row := range rows {
		key := known[row.Kid]
		if key == nil {
			if key, err = r.parse(row.Kid, row.PrivateKey); err != nil {
				return err
			}
		}
		// The database's clock and ours may differ: what counts is how far away its turn is.
		next.keys = append(next.keys, loaded{kid: row.Kid, key: key, activeAt: time.Now().Add(row.ActiveAt.Sub(row.Now))})
	}
	if next.jwks, err = keySet(next.keys); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.state.Load(); now == nil || now.load < load {
		r.state.Store(next)
	}
	return nil
}

func (r *Ring) parse(kid string, sealed []byte) (*rsa.PrivateKey, error) {
	private, err := r.cfg.Sealer.open(sealed, kid)
	if err != nil {
		return nil, fmt.Errorf("open signing key %s (was LEAKY_KEYS_SECRET or secrets/keys.secret changed?): %w", kid, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("read signing key %s: %w", kid, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read signing key %s: not an RSA key", kid)
	}
	return key, nil
}
