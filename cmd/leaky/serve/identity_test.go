package serve

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/identity"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// TestIdentityAnnouncesWhatItRevokesWhileItEnds: who is told that a key is revoked need not wait for the
// next list, also if identity was told to end while it was at it.
func TestIdentityAnnouncesWhatItRevokesWhileItEnds(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, postgres, bus := principal.NewSigner(private), testenv.PostgresURL(t), testenv.NATS(t)
	s, client := ofIdentity(t, postgres, bus)
	if err := os.MkdirAll(filepath.Dir(s.callersKeys()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.callersKeys(), signer.JWKS(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveIdentity(ctx, s) }()
	var as principal.Principal
	call := func(method, path, body string, into any) (status int, err error) {
		req, err := http.NewRequestWithContext(context.Background(), method, "http://identity"+path, bytes.NewReader([]byte(body)))
		if err != nil {
			return 0, err
		}
		req.Header.Set("Content-Type", "application/json")
		if as.UserID != "" {
			token, err := signer.Mint(as, identity.Audience, time.Now())
			if err != nil {
				return 0, err
			}
			req.Header.Set(attributes.HeaderIdentity, token)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && into != nil {
			err = json.Unmarshal(text, into)
		}
		return resp.StatusCode, err
	}
	testenv.Eventually(t, "identity is ready", func() bool {
		status, err := call("GET", "/readyz", "", nil)
		return err == nil && status == http.StatusOK
	})
	var user struct{ UserID string }
	if status, err := call("POST", "/api/v1/auth/register", `{"username":"ann","email":"ann@example.org","password":"correct horse"}`,
		&user); err != nil || status != http.StatusCreated {
		t.Fatalf("register: %d %v", status, err)
	}
	as = principal.Principal{UserID: user.UserID, Roles: []string{principal.RoleUser}, Tier: "USER"}
	var key struct{ ID string }
	if status, err := call("POST", "/api/v1/auth/api-keys", `{}`, &key); err != nil || status != http.StatusCreated {
		t.Fatalf("make a key: %d %v", status, err)
	}
	conn, err := nats.Connect(bus)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	told, err := conn.SubscribeSync(revocation.Subject)
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}

	db, err := pgx.Connect(t.Context(), postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	tx, err := db.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), "LOCK TABLE revocations IN EXCLUSIVE MODE")
	}
	if err != nil {
		t.Fatal(err)
	}
	revoked := make(chan int, 1)
	go func() {
		status, err := call("DELETE", "/api/v1/auth/api-keys?apiKeyId="+key.ID, "", nil)
		if err != nil {
			t.Error(err)
		}
		revoked <- status
	}()
	testenv.Eventually(t, "the revocation waits", func() bool {
		var waits bool
		err := tx.QueryRow(t.Context(), "SELECT exists(SELECT FROM pg_locks WHERE NOT granted AND relation = 'revocations'::regclass)").Scan(&waits)
		return err == nil && waits
	})
	end()
	testenv.Eventually(t, "identity takes no connections", func() bool {
		conn, err := net.Dial("unix", filepath.Join(s.dir, "identity.sock"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status := <-revoked; status != http.StatusNoContent {
		t.Fatalf("want the key revoked, got %d", status)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	msg, err := told.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatalf("want the revocation announced: %v", err)
	}
	if r, err := revocation.Decode(msg.Data); err != nil || r.Kind != revocation.Key {
		t.Errorf("want the key's, got %+v, %v", r, err)
	}
}

// ofIdentity is identity as it is served, at a socket that client calls.
func ofIdentity(t *testing.T, postgres, bus string) (s service, client *http.Client) {
	t.Helper()
	cfg, err := config.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Stores.Postgres, cfg.Stores.NATS, cfg.Stores.Redis = postgres, bus, ""
	cfg.Services.Identity = config.Endpoint{HTTP: "unix:identity.sock"}
	dir, log := testenv.Folder(t), slog.New(slog.DiscardHandler)
	traces, err := telemetry.OpenTraces(t.Context(), telemetry.TracesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	current := &live{}
	current.now.Store(cfg)
	registry, metrics := telemetry.Registry(topology.Identity)
	s = service{name: topology.Identity, part: topology.Identity, cfg: cfg, dir: dir, log: log, registry: registry, metrics: metrics, live: current,
		files: settings.New("", dir, os.Getenv, log), stores: telemetry.NewStores(metrics), traces: traces}
	client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "identity.sock"))
	}}}
	t.Cleanup(client.CloseIdleConnections)
	return s, client
}
