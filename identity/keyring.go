package identity

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// rsaBits is the size of signing keys.
const rsaBits = 2048

// keyring signs access tokens (RFC 9068, RS256) and publishes the public keys. The
// keys live in Postgres, so that a restart or another replica changes nothing.
type keyring struct {
	store    store
	sealer   *sealer
	issuer   string
	audience string
	life     time.Duration
	state    atomic.Pointer[ringState]
}

type ringState struct {
	kid  string
	key  *rsa.PrivateKey
	jwks []byte
}

type signingKey struct {
	kid     string
	public  []byte // PKIX, DER
	private []byte // PKCS 8, DER, sealed
	active  bool
}

var errNoActiveKey = errors.New("no active signing key")

// ensure makes the first signing key when there is none, once among all replicas.
func (r *keyring) ensure(ctx context.Context) error {
	err := r.load(ctx)
	if !errors.Is(err, errNoActiveKey) {
		return err
	}
	fresh, err := r.generate()
	if err != nil {
		return err
	}
	err = r.store.exclusively(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO signing_keys (kid, public_key, private_key, active)
			SELECT $1, $2, $3, true WHERE NOT EXISTS (SELECT 1 FROM signing_keys WHERE active)`, fresh.kid, fresh.public, fresh.private)
		return err
	})
	if err != nil {
		return fmt.Errorf("store signing key: %w", err)
	}
	return r.load(ctx)
}

func (r *keyring) generate() (signingKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return signingKey{}, fmt.Errorf("generate signing key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return signingKey{}, fmt.Errorf("encode signing key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return signingKey{}, fmt.Errorf("encode signing key: %w", err)
	}
	sum := sha256.Sum256(public)
	kid := base64.RawURLEncoding.EncodeToString(sum[:16])
	return signingKey{kid: kid, public: public, private: r.sealer.seal(private, kid), active: true}, nil
}

// load reads the published keys and unseals the active one.
func (r *keyring) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	rows, err := r.store.pool.Query(ctx, `SELECT kid, public_key, private_key, active FROM signing_keys
		WHERE active OR retire_at IS NULL OR retire_at > now() ORDER BY active DESC, created_at DESC`)
	if err != nil {
		return fmt.Errorf("read signing keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k signingKey, err error) {
		err = row.Scan(&k.kid, &k.public, &k.private, &k.active)
		return k, err
	})
	if err != nil {
		return fmt.Errorf("read signing keys: %w", err)
	}
	if len(keys) == 0 || !keys[0].active {
		return errNoActiveKey
	}
	if now := r.state.Load(); now != nil && now.kid == keys[0].kid {
		return r.publish(now.kid, now.key, keys)
	}
	private, err := r.sealer.open(keys[0].private, keys[0].kid)
	if err != nil {
		return fmt.Errorf("open signing key %s (was LEAKY_KEYS_SECRET or secrets/keys.secret changed?): %w", keys[0].kid, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("read signing key %s: %w", keys[0].kid, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return fmt.Errorf("read signing key %s: not an RSA key", keys[0].kid)
	}
	return r.publish(keys[0].kid, key, keys)
}

// publish swaps in the active key and the key set of all published ones.
func (r *keyring) publish(kid string, key *rsa.PrivateKey, published []signingKey) error {
	type jwk struct {
		Type string `json:"kty"`
		Use  string `json:"use"`
		Alg  string `json:"alg"`
		ID   string `json:"kid"`
		N    string `json:"n"`
		E    string `json:"e"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, k := range published {
		parsed, err := x509.ParsePKIXPublicKey(k.public)
		if err != nil {
			return fmt.Errorf("read public key %s: %w", k.kid, err)
		}
		public, ok := parsed.(*rsa.PublicKey)
		if !ok {
			return fmt.Errorf("read public key %s: not an RSA key", k.kid)
		}
		set.Keys = append(set.Keys, jwk{Type: "RSA", Use: "sig", Alg: "RS256", ID: k.kid,
			N: base64.RawURLEncoding.EncodeToString(public.N.Bytes()), E: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(public.E)).Bytes())})
	}
	text, err := json.Marshal(set)
	if err != nil {
		return fmt.Errorf("encode key set: %w", err)
	}
	r.state.Store(&ringState{kid: kid, key: key, jwks: text})
	return nil
}

// issue signs an access token for a user.
func (r *keyring) issue(u user, now time.Time) (string, error) {
	state := r.state.Load()
	if state == nil {
		return "", errNoActiveKey
	}
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"sub": u.id.String(), "iss": r.issuer, "aud": r.audience, "roles": u.roles, "jti": uuid.NewString(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(r.life).Unix(),
	})
	t.Header["kid"], t.Header["typ"] = state.kid, "at+jwt"
	signed, err := t.SignedString(state.key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}
