package analytics

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/usage"
)

const (
	durable = "analytics"
	// ackWait is how long a delivery may stay unanswered: after a crash between insert
	// and ack, the next process sees the batch again that much later.
	ackWait = 5 * time.Second
)

// Headers of a dead letter.
const (
	headerDeadReason   = "Leaky-Dead-Reason"
	headerDeadSubject  = "Leaky-Dead-Subject"
	headerDeadSequence = "Leaky-Dead-Sequence"
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

// bury publishes what is not an event to the dead-letter subject, once per message.
func bury(ctx context.Context, js jetstream.JetStream, msg jetstream.Msg, seq uint64, reason error) error {
	dead := nats.NewMsg(usage.SubjectDead)
	dead.Data = msg.Data()
	dead.Header.Set(headerDeadReason, headerText(reason.Error()))
	dead.Header.Set(headerDeadSubject, msg.Subject())
	dead.Header.Set(headerDeadSequence, fmt.Sprint(seq))
	if _, err := js.PublishMsg(ctx, dead, jetstream.WithMsgID(fmt.Sprintf("dead:%s:%d", usage.Stream, seq))); err != nil {
		return fmt.Errorf("publish dead letter: %w", err)
	}
	return nil
}

// headerText keeps a reason, which may quote the message, to one printable line.
func headerText(s string) string {
	b := []byte(s[:min(len(s), 300)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
