package consume

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// Outbox books through the outbox: one row, which the relay publishes even if this
// process dies at once.
type Outbox struct{ pool *pgxpool.Pool }

// NewOutbox books in the database of pool.
func NewOutbox(pool *pgxpool.Pool) *Outbox { return &Outbox{pool: pool} }

// Book implements Books. The request's id is the event's, so that a repeat is the same event.
func (o *Outbox) Book(ctx context.Context, e usage.Event, correlationID string) error {
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
