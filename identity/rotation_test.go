package identity

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// published are the ids of the keys in the key set.
func (b *bench) published() map[string]any {
	b.t.Helper()
	keys, err := jwks.Parse([]byte(b.call(http.MethodGet, "/oauth2/jwks", nil, nil).text))
	if err != nil {
		b.t.Fatal(err)
	}
	ids := map[string]any{}
	for id, key := range keys {
		ids[id] = key
	}
	return ids
}

// verifies says whether a token's signature is good by the key set that b publishes.
func (b *bench) verifies(token string) (kid string, err error) {
	keys := b.published()
	_, err = jwt.Parse(token, func(t *jwt.Token) (any, error) {
		kid, _ = t.Header["kid"].(string)
		return keys[kid], nil
	}, jwt.WithValidMethods([]string{"RS256"}))
	return kid, err
}

func (b *bench) token(name string) string {
	b.t.Helper()
	r := b.call("POST", "/api/v1/auth/login", map[string]string{"username": name, "password": "correct horse"}, nil)
	if r.status != http.StatusOK {
		b.t.Fatalf("login: %d %s", r.status, r.text)
	}
	return r.body["token"].(string)
}

func TestRestartAndReplicasShareTheSigningKey(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	replicas := make([]*bench, 3)
	for i := range replicas {
		c := cfg
		c.Metrics = prometheus.NewRegistry()
		replicas[i] = launch(t, c, signer) // all at once, on an empty database
	}
	var first string
	for i, b := range replicas {
		b.waitReady()
		set := b.call("GET", "/oauth2/jwks", nil, nil).text
		if i == 0 {
			first = set
		}
		if set != first {
			t.Fatalf("replica %d publishes\n%s\nand the first\n%s", i, set, first)
		}
	}
	if keys, err := jwks.Parse([]byte(first)); err != nil || len(keys) != 1 {
		t.Fatalf("want one key, got %d, %v", len(keys), err)
	}
	replicas[0].join("ann")
	if _, err := replicas[1].verifies(replicas[2].token("ann")); err != nil {
		t.Fatalf("a token of one replica by the keys of another: %v", err)
	}
}

func TestAnotherSecretOpensNothing(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	launch(t, cfg, signer).waitReady()
	cfg.KeysSecret, cfg.Metrics = "another secret of this test", prometheus.NewRegistry()
	other, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := other.Run(ctx); !errors.Is(err, keyring.ErrForeignSecret) {
		t.Fatalf("want %v, got %v", keyring.ErrForeignSecret, err)
	}
}

// A rotated key is published first and signs later; what the old one signed stays good.
func TestRotation(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	b := launch(t, cfg, signer)
	b.waitReady()
	b.join("ann")
	before := b.token("ann")
	old, err := b.verifies(before)
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, b.call("POST", "/api/v1/admin/keys/rotate", nil, nil), http.StatusUnauthorized, "")
	wantProblem(t, b.call("POST", "/api/v1/admin/keys/rotate", nil, b.join("bob")), http.StatusForbidden, "")
	if r := b.call("POST", "/api/v1/admin/keys/rotate", nil, admin()); r.status != http.StatusCreated {
		t.Fatalf("rotate: %d %s", r.status, r.text)
	}
	wantProblem(t, b.call("POST", "/api/v1/admin/keys/rotate", nil, admin()), http.StatusConflict, keyring.ErrTooSoon.Error())
	if n := len(b.published()); n != 2 {
		t.Fatalf("want both keys published, got %d", n)
	}
	if kid, err := b.verifies(b.token("ann")); err != nil || kid != old {
		t.Fatalf("before its time the new key does not sign: %s, %v", kid, err)
	}
	if _, err := b.store.pool.Exec(t.Context(), `UPDATE signing_keys SET active_at = active_at - interval '2 h'`); err != nil {
		t.Fatal(err)
	}
	if err := b.keys.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh, err := b.verifies(b.token("ann"))
	if err != nil || fresh == old {
		t.Fatalf("now the new key signs: %s, %v", fresh, err)
	}
	if _, err := b.verifies(before); err != nil {
		t.Fatalf("what the old key signed stays good: %v", err)
	}
	if _, err := b.store.pool.Exec(t.Context(), `UPDATE signing_keys SET retire_at = now() WHERE retire_at IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	if err := b.keys.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.published(); len(got) != 1 || got[fresh] == nil {
		t.Fatalf("want only %s published after the overlap, got %v", fresh, got)
	}
}

// TestAWithdrawnKeyEndsAtOnce: another signs, on every replica, and what it signed is revoked by its kid.
func TestAWithdrawnKeyEndsAtOnce(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.NATS = testenv.NATS(t)
	b := launch(t, cfg, signer)
	b.waitReady()
	second := cfg
	second.Metrics = prometheus.NewRegistry()
	other := launch(t, second, signer)
	other.waitReady()
	b.join("ann")
	before := b.token("ann")
	old, err := b.verifies(before)
	if err != nil {
		t.Fatal(err)
	}
	path := "/api/v1/admin/keys/" + old + "/withdraw"
	wantProblem(t, b.call("POST", path, nil, nil), http.StatusUnauthorized, "")
	wantProblem(t, b.call("POST", path, nil, b.join("bob")), http.StatusForbidden, "")
	wantProblem(t, b.call("POST", "/api/v1/admin/keys/none/withdraw", nil, admin()), http.StatusNotFound, "")
	wantProblem(t, b.call("POST", "/api/v1/admin/keys/%00/withdraw", nil, admin()), http.StatusNotFound, "")
	if r := b.call("POST", path, nil, admin()); r.status != http.StatusOK {
		t.Fatalf("withdraw: %d %s", r.status, r.text)
	}
	if _, err := b.verifies(before); err == nil {
		t.Error("a token of the withdrawn key is good by the key set")
	}
	for name, replica := range map[string]*bench{"the one that was asked": b, "another": other} {
		testenv.Eventually(t, name+" signs by another key", func() bool {
			kid, err := b.verifies(replica.token("ann"))
			return err == nil && kid != old && len(replica.published()) == 1
		})
	}
	var listed int
	if err := b.store.pool.QueryRow(t.Context(), `SELECT count(*) FROM revocations WHERE kind = 'signer' AND id = $1`, old).Scan(&listed); err != nil ||
		listed != 1 {
		t.Errorf("want the key among the revocations, got %d, %v", listed, err)
	}
	wantProblem(t, b.call("POST", path, nil, admin()), http.StatusNotFound, "")
}

// TestWithdrawingTheSignerBringsTheNextOneForward, if one waits for its turn.
func TestWithdrawingTheSignerBringsTheNextOneForward(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.join("ann")
	old, err := b.verifies(b.token("ann"))
	if err != nil {
		t.Fatal(err)
	}
	if r := b.call("POST", "/api/v1/admin/keys/rotate", nil, admin()); r.status != http.StatusCreated {
		t.Fatalf("rotate: %d %s", r.status, r.text)
	}
	if r := b.call("POST", "/api/v1/admin/keys/"+old+"/withdraw", nil, admin()); r.status != http.StatusOK {
		t.Fatalf("withdraw: %d %s", r.status, r.text)
	}
	left := b.published()
	if kid, err := b.verifies(b.token("ann")); err != nil || kid == old || left[kid] == nil || len(left) != 1 {
		t.Errorf("want the waiting key to sign, got %s of %v, %v", kid, left, err)
	}
}

func TestKeysRotateOnSchedule(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	b := launch(t, cfg, signer)
	b.waitReady()
	if err := b.refreshKeys(t.Context()); err != nil || len(b.published()) != 1 {
		t.Fatalf("a young key stays alone: %d keys, %v", len(b.published()), err)
	}
	if _, err := b.store.pool.Exec(t.Context(), `UPDATE signing_keys SET active_at = now() - interval '721 hours'`); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 4)
	for range 4 { // as many replicas at once
		go func() { failed <- b.refreshKeys(context.WithoutCancel(t.Context())) }()
	}
	for range 4 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if n := len(b.published()); n != 2 {
		t.Fatalf("want one new key of all replicas, got %d in all", n)
	}
}
