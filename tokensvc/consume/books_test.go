package consume_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/consume"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// TestBookedWhilePostgresIsAway: what was answered is in the stream, and once, though the
// same event is booked again when Postgres is back. Without both stores nothing is booked.
func TestBookedWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	pool, server := testenv.Postgres(t), testenv.NATSServer(t)
	gone, err := pgxpool.New(t.Context(), "postgres:///nobody?host="+t.TempDir()) // a socket that is not there
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	publisher, err := usage.NewPublisher(nc, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	books, away := consume.NewOutbox(pool, publisher), consume.NewOutbox(gone, publisher)
	e := usage.Event{RequestID: uuid.NewString(), UserID: uuid.NewString(), Provider: "openai", Charged: 100, Source: usage.FromRequest,
		Allowed: true, Pool: usage.PoolDrawn, Status: 200, Timestamp: time.Now().UTC()}
	e.Account = "user:" + e.UserID
	for range 2 {
		if err := away.Book(t.Context(), e, "c-1"); err != nil {
			t.Fatalf("without Postgres: want it booked, got %v", err)
		}
	}
	server.Stop()
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := away.Book(short, e, "c-1"); err == nil {
		t.Error("without both: want an error, got none")
	}
	server.Start()
	if err := books.Book(t.Context(), e, "c-1"); err != nil { // a caller's repeat when Postgres is back
		t.Fatal(err)
	}
	relay, err := outbox.New(outbox.Config{DB: pool, NATS: nc, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the relay publishes it", func() bool { n, err := relay.Round(t.Context()); return n == 1 && err == nil })
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var stream jetstream.Stream
	var last *jetstream.RawStreamMsg
	testenv.Eventually(t, "the stream is back", func() bool {
		if stream, err = js.Stream(t.Context(), usage.Stream); err != nil {
			return false
		}
		last, err = stream.GetLastMsgForSubject(t.Context(), usage.Subject("openai"))
		return err == nil
	})
	n, id := testenv.Messages(t, stream, usage.Subject("openai")), last.Header.Get("Nats-Msg-Id")
	if n != 1 || id != e.RequestID {
		t.Errorf("want one message by the request's id, got %d, the last of %q", n, id)
	}
	var got usage.Envelope
	if err := json.Unmarshal(last.Data, &got); err != nil || got.ID != e.RequestID || got.CorrelationID != "c-1" || got.Source != "/tokensvc" {
		t.Errorf("want the event as the outbox would send it, got %s, %v", last.Data, err)
	}
	e.Version, e.Charged, e.Allowed = 1, 0, false
	if err := away.Correct(t.Context(), e, "c-1"); err != nil {
		t.Fatal(err)
	}
	if last, err = stream.GetLastMsgForSubject(t.Context(), usage.Subject("openai")); err != nil {
		t.Fatal(err)
	}
	if correction, err := usage.Decode(last.Data); err != nil || correction.Version != 1 || correction.Charged != 0 ||
		correction.RequestID != e.RequestID {
		t.Errorf("want the correction behind what it replaces, got %s, %v", last.Data, err)
	}
}
