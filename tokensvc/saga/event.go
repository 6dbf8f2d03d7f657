package saga

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// Types of events.
const (
	eventStarted   = "TOKEN_PURCHASE_STARTED"
	eventReserved  = "TOKEN_PAYMENT_RESERVED"
	eventAllocated = "TOKEN_ALLOCATED"
	eventCompleted = "TOKEN_PURCHASE_COMPLETED"
	eventFailed    = "TOKEN_PURCHASE_FAILED"
	eventRelease   = "PAYMENT_RELEASE_REQUESTED"
)

// SubjectPrefix and the event's type are the JetStream subject of a purchase's event.
const SubjectPrefix = "leaky.saga.v1."

// snapshot is a purchase as its owner sees it, and as events carry it.
type snapshot struct {
	ID             uuid.UUID  `json:"id"`
	UserID         uuid.UUID  `json:"userId"`
	OrgID          *uuid.UUID `json:"orgId"`
	Provider       string     `json:"provider"`
	Tokens         int64      `json:"tokens"`
	IdempotencyKey *string    `json:"idempotencyKey"`
	Status         Status     `json:"status"`
	Amount         int64      `json:"amount"`   // minor units
	Currency       string     `json:"currency"` // lower-case
	Reason         string     `json:"reason,omitzero"`
	CreatedAt      time.Time  `json:"createdAt"`
	UpdatedAt      time.Time  `json:"updatedAt"`
}

func snapshotOf(s Saga) snapshot {
	return snapshot{ID: s.ID, UserID: s.UserID, OrgID: s.OrgID, Provider: s.Provider, Tokens: s.Tokens, IdempotencyKey: s.IdempotencyKey,
		Status: Status(s.Status),
		Amount: s.Amount, Currency: s.Currency, Reason: s.Failure, CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC()}
}

// eventsOf are the events of a step from one status to another. A payment is released
// once, when a purchase fails for which money was reserved.
func eventsOf(from, to Status) []string {
	if from == to {
		return nil
	}
	switch to {
	case PaymentReserved:
		return []string{eventReserved}
	case TokensAllocated:
		return []string{eventAllocated}
	case Completed:
		return []string{eventCompleted}
	case Failed:
		if from == Started {
			return []string{eventFailed}
		}
		return []string{eventFailed, eventRelease}
	case Started:
	}
	return nil
}

// aggregate is the predecessor's name for where an event comes from.
func aggregate(s Saga, event string) string {
	name := "TokenPurchaseSaga"
	if s.Recovered {
		name += "Recovery"
	}
	if event == eventRelease {
		name += "Compensation"
	}
	return name
}

// publish puts events of the purchase as it now is into the outbox.
func publish(ctx context.Context, tx pgx.Tx, s Saga, types []string) error {
	events := make([]outbox.Event, len(types))
	for i, event := range types {
		events[i] = outbox.Event{AggregateType: aggregate(s, event), AggregateID: s.ID.String(), Type: event, Subject: SubjectPrefix + event,
			CorrelationID: s.CorrelationID, Data: snapshotOf(s)}
	}
	if err := outbox.AddAll(ctx, tx, events); err != nil {
		return fmt.Errorf("write events %v: %w", types, err)
	}
	return nil
}
