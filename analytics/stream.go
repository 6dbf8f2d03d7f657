package analytics

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

const (
	durable = "analytics"
	// ackWait is how long a delivery may stay unanswered: after a crash between insert
	// and ack, the next process sees the batch again that much later.
	ackWait = 5 * time.Second
)

// attach makes sure that the streams and the durable consumer are there.
func attach(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	if _, err := usage.EnsureStream(ctx, js); err != nil {
		return nil, err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, usage.Stream, jetstream.ConsumerConfig{
		Durable: durable, FilterSubject: usage.SubjectsUsage, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckWait: ackWait, MaxDeliver: -1, MaxAckPending: 4 * fetchMost,
		Description: "usage events to ClickHouse",
	})
	if err != nil {
		return nil, fmt.Errorf("make consumer: %w", err)
	}
	return consumer, nil
}
