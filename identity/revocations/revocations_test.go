package revocations

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestTheListHasWhatStillCounts(t *testing.T) {
	t.Parallel()
	pool := testenv.Postgres(t)
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	user := revocation.Revocation{Kind: revocation.User, ID: uuid.NewString(), Generation: 7, Until: soon}
	older := user
	older.Generation, older.Until = 3, soon.Add(-time.Minute)
	past := revocation.Revocation{Kind: revocation.Key, ID: "gone", Until: time.Now().Add(-time.Second)}
	for _, r := range []revocation.Revocation{user, older, past} {
		if err := Record(t.Context(), pool, r); err != nil {
			t.Fatal(err)
		}
	}
	list, err := List(t.Context(), pool)
	if err != nil || len(list.Revocations) != 1 || list.Revocations[0] != user {
		t.Fatalf("want %+v alone: an older generation never wins; got %+v, %v", user, list.Revocations, err)
	}
}

func TestTwoTransactionsWithTheSameRows(t *testing.T) {
	t.Parallel()
	pool := testenv.Postgres(t)
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	there := make([]revocation.Revocation, 30)
	for i := range there {
		there[i] = revocation.Revocation{Kind: revocation.Family, ID: uuid.NewString(), Until: time.Now().Add(time.Hour)}
	}
	back := make([]revocation.Revocation, len(there))
	for i := range there {
		back[len(back)-1-i] = there[i]
	}
	var wg sync.WaitGroup
	for _, all := range [][]revocation.Revocation{there, back, there, back} {
		wg.Go(func() {
			ctx := context.WithoutCancel(t.Context())
			if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return Record(ctx, tx, all...) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// What was announced while NATS was away is sent once it is back, and no heartbeat before.
func TestAnnouncementsOutliveAnOutage(t *testing.T) {
	t.Parallel()
	server := testenv.NATSServer(t)
	a := NewAnnouncer(slog.New(slog.DiscardHandler))
	conn, err := nats.Connect(server.URL(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	server.Stop()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, conn) }()
	want := revocation.Revocation{Kind: revocation.Key, ID: "hash", Until: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
	a.Announce(want)
	// Subscribed on the connection that reconnects, so that the one announcement cannot be missed.
	sub, err := conn.SubscribeSync(revocation.Subject)
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	msg, err := sub.NextMsg(20 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := revocation.Decode(msg.Data); err != nil || got.ID != want.ID || !got.Until.Equal(want.Until) || got.At.IsZero() {
		t.Fatalf("want %+v, got %+v, %v", want, got, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestWhatWasAnnouncedBeforeTheEndIsSent also where that end has come by the time it is taken.
func TestWhatWasAnnouncedBeforeTheEndIsSent(t *testing.T) {
	t.Parallel()
	conn, err := nats.Connect(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sub, err := conn.SubscribeSync(revocation.Subject)
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	a := NewAnnouncer(slog.New(slog.DiscardHandler))
	for range 50 { // either of what is ready may be taken first
		a.Announce(revocation.Revocation{Kind: revocation.Key, ID: "hash", Until: time.Now().Add(time.Hour)})
		if err := a.Run(ended, conn); err != nil {
			t.Fatal(err)
		}
	}
	if n, _, err := sub.Pending(); err != nil || n != 50 {
		t.Errorf("want 50 announcements sent, got %d, %v", n, err)
	}
}
