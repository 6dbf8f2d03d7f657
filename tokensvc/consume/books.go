package consume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// outboxWait is how long Postgres has, so that JetStream still has some of a caller's time.
const outboxWait = time.Second

// Publisher stores usage events in the stream; those that it answers are not known to be there.
type Publisher interface {
	Publish(ctx context.Context, messages []usage.Message) (rest []usage.Unstored, err error)
}

// Outbox books through the outbox: one row, which the relay publishes even if this
// process dies at once. While Postgres is away it publishes past the outbox, which is as
// safe: JetStream has stored the event when it confirms.
type Outbox struct {
	pool      *pgxpool.Pool
	publisher Publisher
}

// NewOutbox books in the database of pool, or else through publisher.
func NewOutbox(pool *pgxpool.Pool, publisher Publisher) *Outbox {
	return &Outbox{pool: pool, publisher: publisher}
}

// Book implements Books. The request's id is the event's, on both ways, so that a repeat is
// the same event, also where the row was committed and only the answer got lost.
func (o *Outbox) Book(ctx context.Context, e usage.Event, correlationID string) error {
	writing, cancel := context.WithTimeout(ctx, outboxWait)
	defer cancel()
	err := o.write(writing, e, correlationID)
	if err == nil || errors.Is(err, outbox.ErrInvalid) {
		return err
	}
	if publishErr := o.publish(ctx, e, correlationID); publishErr != nil {
		return errors.Join(err, fmt.Errorf("book usage past the outbox: %w", publishErr))
	}
	return nil
}

// Correct implements Books, past the outbox, whose events have the request's id: a correction has its own.
func (o *Outbox) Correct(ctx context.Context, e usage.Event, correlationID string) error {
	return o.publish(ctx, e, correlationID)
}

func (o *Outbox) publish(ctx context.Context, e usage.Event, correlationID string) error {
	message, err := usage.MessageOf(e, "/tokensvc", correlationID, tracing.Text(trace.SpanContextFromContext(ctx)))
	if err == nil {
		_, err = o.publisher.Publish(ctx, []usage.Message{message})
	}
	return err
}

func (o *Outbox) write(ctx context.Context, e usage.Event, correlationID string) error {
	id, err := uuid.Parse(e.RequestID)
	if err != nil {
		return fmt.Errorf("book usage: request id: %w", err)
	}
	event := outbox.Event{ID: id, AggregateType: "TokenUsage", Type: usage.TypeUsage, Subject: usage.Subject(e.Provider),
		CorrelationID: correlationID, Data: e}
	if err := pgx.BeginFunc(ctx, o.pool, func(tx pgx.Tx) error { return outbox.Add(ctx, tx, event) }); err != nil {
		return fmt.Errorf("book usage: %w", err)
	}
	return nil
}
