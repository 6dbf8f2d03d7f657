package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	agekeys "filippo.io/age"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/backup"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// books are four stores, and what reads the stream into two of them.
type books struct {
	*testing.T
	env   []string
	redis *testenv.RedisProcess
	db    *pgxpool.Pool
	nc    *nats.Conn
	calls *analytics.Store
}

func newBooks(t *testing.T) *books {
	t.Helper()
	url, click, bus := testenv.PostgresURL(t), testenv.ClickHouse(t), testenv.NATS(t)
	b := &books{T: t, redis: testenv.RedisServer(t)}
	b.env = []string{"LEAKY_POSTGRES_URL=" + url, "LEAKY_CLICKHOUSE_URL=" + click, "LEAKY_NATS_URL=" + bus, "LEAKY_REDIS_URL=" + b.redis.URL()}
	var err error
	if b.db, err = pgxpool.New(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.db.Close)
	if b.nc, err = nats.Connect(bus); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.nc.Close)
	if b.calls, err = analytics.NewStore(analytics.StoreConfig{URL: click, KeepDays: 730, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.calls.Close() })
	return b
}

// keep runs the ledger and analytics until the test says so.
func (b *books) keep() (stop func()) {
	b.Helper()
	if err := b.calls.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	js, err := jetstream.New(b.nc)
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	booking, err := ledger.NewConsumer(ledger.ConsumerConfig{JetStream: js, DB: b.db, Metrics: prometheus.NewRegistry(), Log: log})
	if err != nil {
		b.Fatal(err)
	}
	counting, err := analytics.NewConsumer(analytics.ConsumerConfig{JetStream: js, Store: b.calls,
		Metrics: analytics.NewMetrics(prometheus.NewRegistry()), Log: log})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var group errgroup.Group
	group.Go(func() error { return booking.Run(ctx) })
	group.Go(func() error { return counting.Run(ctx) })
	return func() {
		cancel()
		if err := group.Wait(); err != nil && ctx.Err() == nil {
			b.Error(err)
		}
	}
}

func (b *books) credit(user uuid.UUID) {
	b.Helper()
	if err := pgx.BeginFunc(b.Context(), b.db, func(tx pgx.Tx) error {
		return ledger.Credit(b.Context(), tx, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1 << 40, Reference: "first"})
	}); err != nil {
		b.Fatal(err)
	}
}

// call publishes calls of ten tokens until told to stop, and answers how many.
func (b *books) call(ctx context.Context, user uuid.UUID) (made int, err error) {
	js, err := jetstream.New(b.nc)
	if err != nil {
		return 0, err
	}
	if _, err := usage.EnsureStream(ctx, js); err != nil {
		return 0, err
	}
	publisher, err := usage.NewPublisher(b.nc, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, err
	}
	for ; ctx.Err() == nil; made++ {
		m, err := usage.MessageOf(usage.Event{RequestID: uuid.NewString(), UserID: user.String(), Account: ledger.Account(user, uuid.Nil),
			Route: "openai-chat", Provider: "openai", ModelAsked: "gpt-4o", Input: 4, Output: 6, Charged: 10, Source: usage.FromProvider,
			Pool: usage.PoolDrawn, Allowed: true, Status: 200, Timestamp: time.Now()}, "test", "", "")
		if err != nil {
			return made, err
		}
		if _, err := publisher.Publish(context.WithoutCancel(ctx), []usage.Message{m}); err != nil {
			return made, err
		}
	}
	return made, nil
}

// spent is what the ledger and analytics say of an account, and how many events the stream has.
func (b *books) spent(user uuid.UUID) (booked, counted, events int64) {
	b.Helper()
	p, err := ledger.Find(b.Context(), b.db, ledger.Key{Account: ledger.Account(user, uuid.Nil), Provider: "openai"})
	if err != nil {
		b.Fatal(err)
	}
	totals, err := b.calls.Totals(b.Context(), analytics.Filter{UserID: user.String()}, 1)
	if err != nil {
		b.Fatal(err)
	}
	js, err := jetstream.New(b.nc)
	if err != nil {
		b.Fatal(err)
	}
	stream, err := js.Stream(b.Context(), usage.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // the services have just begun
		return 1<<40 - p.Remaining, totals.Tokens, 0
	}
	if err != nil {
		b.Fatal(err)
	}
	return 1<<40 - p.Remaining, totals.Tokens, int64(testenv.Messages(b, stream, usage.SubjectsUsage))
}

// TestABackupUnderLoadBringsTheBooksBack copies while calls are booked, restores into empty stores,
// and lets the services read on: ledger, analytics and the stream agree on every call of the copy.
func TestABackupUnderLoadBringsTheBooksBack(t *testing.T) {
	t.Parallel()
	user, dir, from, to := uuid.New(), filepath.Join(t.TempDir(), "backup"), newBooks(t), newBooks(t)
	if _, errs, ok := leaky(t, stateDir(t), from.env, "migrate"); !ok {
		t.Fatal(errs)
	}
	from.credit(user)
	levels := from.redis.Client()
	for key, value := range map[string]string{"{a}:b:user": "\x00\xff level", "{a}:p:openai": "a pool"} {
		if err := levels.Set(t.Context(), key, value, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	stop := from.keep()
	ctx, cancel := context.WithCancel(t.Context())
	all := 0
	var load errgroup.Group
	load.Go(func() (err error) {
		all, err = from.call(ctx, user)
		return err
	})
	testenv.Eventually(t, "calls on the books", func() bool { booked, counted, _ := from.spent(user); return booked > 0 && counted > 0 })
	secret, err := agekeys.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	out, errs, ok := leaky(t, stateDir(t), from.env, "backup", dir, "--recipient", secret.Recipient().String(), "-o", "json")
	if !ok || !strings.Contains(errs, "postgres-token_ledger.copy.gz: ") {
		t.Fatalf("%s%s", out, errs)
	}
	cancel()
	if err := load.Wait(); err != nil {
		t.Fatal(err)
	}
	stop()
	var m backup.Manifest
	if err := json.Unmarshal([]byte(out), &m); err != nil || !m.Encrypted || time.Since(m.Moment) > time.Hour {
		t.Fatalf("%v in %s", err, out)
	}
	identity := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(identity, []byte(secret.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, ok := leaky(t, stateDir(t), to.env, "restore", dir, "--identity", identity); !ok {
		t.Fatalf("%s%s", out, errs)
	}
	stop = to.keep()
	defer stop()
	_, _, events := to.spent(user)
	testenv.Eventually(t, "the books agree with the stream", func() bool {
		booked, counted, _ := to.spent(user)
		return booked == events*10 && counted == events*10
	})
	if events == 0 || events > int64(all) {
		t.Errorf("%d calls, %d of them in the copy", all, events)
	}
	t.Logf("%d calls made, %d of them in the copy", all, events)
	if wrong, err := ledger.Verify(t.Context(), to.db); err != nil || len(wrong) > 0 {
		t.Errorf("%v, %v", wrong, err)
	}
	restored := to.redis.Client()
	if value, life := restored.Get(t.Context(), "{a}:b:user").Val(), restored.TTL(t.Context(), "{a}:b:user").Val(); value != "\x00\xff level" ||
		life <= 0 || life > time.Hour {
		t.Errorf("a level came back as %q for %v", value, life)
	}
	if restored.Exists(t.Context(), "{a}:p:openai").Val() != 0 {
		t.Error("the state of a pool came back, which Redis has to ask for")
	}
	if _, errs, ok := leaky(t, stateDir(t), to.env, "restore", dir, "--identity", identity); ok || !strings.Contains(errs, "a restore goes into an empty one") {
		t.Errorf("into stores that are not empty: %s", errs)
	}
}

// TestADamagedBackupIsRefused before anything is written.
func TestADamagedBackupIsRefused(t *testing.T) {
	t.Parallel()
	from, to := newBooks(t), newBooks(t)
	if _, errs, ok := leaky(t, stateDir(t), from.env, "migrate"); !ok {
		t.Fatal(errs)
	}
	good := filepath.Join(t.TempDir(), "backup")
	if out, errs, ok := leaky(t, stateDir(t), from.env, "backup", good); !ok || !strings.Contains(out, "A restore brings back ") {
		t.Fatalf("%s%s", out, errs)
	}
	if _, errs, ok := leaky(t, stateDir(t), from.env, "backup", good); ok || !strings.Contains(errs, "not empty") {
		t.Errorf("over another backup: %s", errs)
	}
	const users = "postgres-users.copy.gz"
	for name, c := range map[string]struct {
		harm func(dir string) error
		want string
	}{
		"a byte differs": {func(dir string) error {
			text, err := os.ReadFile(filepath.Join(dir, users))
			if err != nil {
				return err
			}
			text[len(text)/2] ^= 1
			return os.WriteFile(filepath.Join(dir, users), text, 0o600)
		}, users + " is damaged"},
		"a file is cut":       {func(dir string) error { return os.Truncate(filepath.Join(dir, users), 5) }, users + " is damaged"},
		"a file is away":      {func(dir string) error { return os.Remove(filepath.Join(dir, users)) }, "incomplete"},
		"it did not end":      {func(dir string) error { return os.Remove(filepath.Join(dir, "manifest.json")) }, "did not end"},
		"the manifest is cut": {func(dir string) error { return os.Truncate(filepath.Join(dir, "manifest.json"), 40) }, "manifest.json is damaged"},
		"a path leads out": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "manifest.json"), fmt.Appendf(nil, `{"format":1,"files":[{"name":"../../%s"}]}`, users), 0o600)
		}, "no file of a backup"},
		"another format": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(`{"format":2}`), 0o600)
		}, "format 2"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(dir); err != nil {
				t.Fatal(err)
			}
			if _, errs, ok := leaky(t, stateDir(t), to.env, "restore", dir); ok || !strings.Contains(errs, c.want) {
				t.Errorf("want %q, got %s", c.want, errs)
			}
		})
	}
	if _, errs, ok := leaky(t, stateDir(t), nil, "restore", "--check", good); !ok {
		t.Errorf("a good one: %s", errs)
	}
	path := filepath.Join(good, "manifest.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), `"goose_identity": `, `"goose_identity": 9`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, ok := leaky(t, stateDir(t), to.env, "restore", good); ok || !strings.Contains(errs, "then upgrade") {
		t.Errorf("of another release: %s", errs)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, ok := leaky(t, stateDir(t), to.env, "restore", good); !ok {
		t.Errorf("after those that failed: %s", errs)
	}
}
