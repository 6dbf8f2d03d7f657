package identity

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/testenv"
)

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
}

func TestPrivateKeysAreSealed(t *testing.T) {
	t.Parallel()
	cfg, signer := settings(t, testenv.Postgres(t))
	b := launch(t, cfg, signer)
	b.waitReady()
	var kid string
	var sealed []byte
	if err := b.store.pool.QueryRow(t.Context(), `SELECT kid, private_key FROM signing_keys`).Scan(&kid, &sealed); err != nil {
		t.Fatal(err)
	}
	if _, err := b.keys.sealer.open(sealed, kid); err != nil {
		t.Fatal(err)
	}
	if _, err := b.keys.sealer.open(sealed, "another row"); !errors.Is(err, errForeignSecret) {
		t.Fatalf("moved to another row: want %v, got %v", errForeignSecret, err)
	}
	cfg.KeysSecret, cfg.Metrics = "another secret of this test", prometheus.NewRegistry()
	other, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := other.Run(ctx); !errors.Is(err, errForeignSecret) {
		t.Fatalf("with another secret: want %v, got %v", errForeignSecret, err)
	}
}

func TestARetiringKeyStaysPublished(t *testing.T) {
	t.Parallel()
	b := start(t)
	old := b.keys.state.Load().kid
	fresh, err := b.keys.generate()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.pool.Exec(t.Context(), `UPDATE signing_keys SET active = false, retire_at = now() + interval '1 h'`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.pool.Exec(t.Context(), `INSERT INTO signing_keys (kid, public_key, private_key, active) VALUES ($1, $2, $3, true)`, fresh.kid, fresh.public, fresh.private); err != nil {
		t.Fatal(err)
	}
	if err := b.keys.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	published := func() map[string]bool {
		keys, err := jwks.Parse([]byte(b.call(http.MethodGet, "/oauth2/jwks", nil, nil).text))
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{}
		for id := range keys {
			ids[id] = true
		}
		return ids
	}
	if got := published(); b.keys.state.Load().kid != fresh.kid || !got[old] || !got[fresh.kid] {
		t.Fatalf("want both %s and %s published and the latter active, got %v", old, fresh.kid, got)
	}
	if _, err := b.store.pool.Exec(t.Context(), `UPDATE signing_keys SET retire_at = now() WHERE NOT active`); err != nil {
		t.Fatal(err)
	}
	if err := b.keys.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := published(); got[old] {
		t.Fatalf("a retired key is still published: %v", got)
	}
}

func TestOneActiveKeyWhenReplicasStartTogether(t *testing.T) {
	t.Parallel()
	b := start(t)
	if _, err := b.store.pool.Exec(t.Context(), `DELETE FROM signing_keys`); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			r := &keyring{store: b.store, sealer: b.keys.sealer}
			if err := r.ensure(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var count int
	if err := b.store.pool.QueryRow(t.Context(), `SELECT count(*) FROM signing_keys`).Scan(&count); err != nil || count != 1 {
		t.Fatalf("want one key, got %d, %v", count, err)
	}
}
