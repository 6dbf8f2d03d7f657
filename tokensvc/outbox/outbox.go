// Package outbox carries events from Postgres to JetStream: they are written in the
// transaction of what they tell of, so that neither happens without the other, and a
// relay publishes them afterwards, in order for each aggregate, at least once. See
// docs/design/outbox.md.
package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

const (
	// channel is what relays LISTEN on.
	channel = "leaky_outbox"
	// longest texts that the columns hold.
	longestAggregateType, longestAggregateID, longestType, longestSubject, longestCorrelation = 50, 150, 100, 200, 128
)

// Event is something that happened. Events about one thing, which are those with one
// AggregateID whatever their types, are published in the order in which they were added, as
// long as the transactions that add them are in an order: lock the thing before.
type Event struct {
	ID            uuid.UUID // of the CloudEvent, and the Nats-Msg-Id; zero: a new one
	AggregateType string    // such as TokenPurchaseSaga; says nothing about order
	AggregateID   string    // what it is about; empty: an event on its own, without any order
	Type          string    // such as TOKEN_PURCHASE_STARTED
	Subject       string    // in the stream LEAKY
	CorrelationID string    // of the request that caused it; may be empty
	Data          any       // encoded as JSON
}

// ErrInvalid says that an event can't be published as it is.
var ErrInvalid = errors.New("invalid event")

// Add writes an event in the caller's transaction and wakes the relays at its commit. An
// ID that was added before is the same event, and is not added again. The event carries the span of
// ctx, so that who reads it goes on in the same trace.
func Add(ctx context.Context, tx pgx.Tx, e Event) error { return AddAll(ctx, tx, []Event{e}) }

// AddAll writes events in their order, in one round trip.
func AddAll(ctx context.Context, tx pgx.Tx, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	p := tokensdb.AddEventsParams{Channel: channel}
	traceParent := tracing.Text(trace.SpanContextFromContext(ctx))
	for _, e := range events {
		if err := e.check(); err != nil {
			return err
		}
		payload, err := json.Marshal(e.Data)
		if err != nil {
			return fmt.Errorf("%w: encode %s: %w", ErrInvalid, e.Type, err)
		}
		if bytes.Contains(payload, []byte(`\u0000`)) { // jsonb has no NUL; a failing insert would end the caller's transaction
			return fmt.Errorf("%w: NUL in the data of %s", ErrInvalid, e.Type)
		}
		if e.ID == uuid.Nil {
			if e.ID, err = uuid.NewV7(); err != nil { // ordered by time: kind to the index
				return fmt.Errorf("make event id: %w", err)
			}
		}
		p.Ids = append(p.Ids, e.ID)
		p.AggregateTypes, p.AggregateIds = append(p.AggregateTypes, e.AggregateType), append(p.AggregateIds, e.AggregateID)
		p.EventTypes, p.Subjects = append(p.EventTypes, e.Type), append(p.Subjects, e.Subject)
		p.Payloads, p.CorrelationIds = append(p.Payloads, string(payload)), append(p.CorrelationIds, e.CorrelationID)
		p.Traceparents = append(p.Traceparents, traceParent)
	}
	if err := tokensdb.New(tx).AddEvents(ctx, p); err != nil {
		return fmt.Errorf("add events to outbox: %w", err)
	}
	return nil
}

func (e Event) check() error {
	for _, field := range []struct {
		name, value string
		longest     int
		needed      bool
	}{{"aggregate type", e.AggregateType, longestAggregateType, true}, {"aggregate id", e.AggregateID, longestAggregateID, false},
		{"type", e.Type, longestType, true}, {"subject", e.Subject, longestSubject, true}, {"correlation id", e.CorrelationID,
			longestCorrelation, false}} {
		if field.needed && field.value == "" || len(field.value) > field.longest || strings.ContainsRune(field.value, 0) {
			return fmt.Errorf("%w: %s %q is empty or over %d bytes", ErrInvalid, field.name, field.value, field.longest)
		}
	}
	if strings.ContainsAny(e.Subject, "*> \t\r\n") {
		return fmt.Errorf("%w: subject %q", ErrInvalid, e.Subject)
	}
	return nil
}
