package outbox

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// TestNothingIsPublishedOverAConnectionBeforeTheLook: a round whose connection is replaced while it runs
// publishes nothing over the new one; the next round does, after its look.
func TestNothingIsPublishedOverAConnectionBeforeTheLook(t *testing.T) {
	t.Parallel()
	db, server := testenv.Postgres(t), testenv.NATSServer(t)
	if err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	r, err := New(Config{DB: db, NATS: nc, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	link, err := r.lookAtStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	event := Event{ID: uuid.New(), AggregateType: "Test", AggregateID: "a", Type: "T", Subject: "leaky.saga.v1.T"}
	if err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error { return Add(t.Context(), tx, event) }); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	testenv.Eventually(t, "the link is lost", nc.IsReconnecting)
	server.Start()
	testenv.Eventually(t, "there is another link", nc.IsConnected)

	pending := []tokensdb.PendingEventsRow{{ID: event.ID, AggregateID: &event.AggregateID, Subject: event.Subject, Payload: []byte("null")}}
	done, refused, outage := r.publish(t.Context(), link, nil, tokensdb.New(db), pending)
	if len(done) != 0 || refused != 0 || !errors.Is(outage, errMoved) {
		t.Errorf("over another connection: want %v, got %v, %d refused, %v", errMoved, done, refused, outage)
	}
	stream, err := usage.EnsureStream(t.Context(), r.js)
	if err != nil {
		t.Fatal(err)
	}
	if n := testenv.Messages(t, stream, event.Subject); n != 0 {
		t.Errorf("want nothing in the stream, got %d", n)
	}
	if n, err := r.Round(t.Context()); n != 1 || err != nil {
		t.Errorf("the next round: want it published, got %d, %v", n, err)
	}
}
