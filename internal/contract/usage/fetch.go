package usage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Fetch waits up to idle for a first message, and then up to linger for more, for at most
// most in all. Messages that came before an error are returned with it; none in time is no
// error. The end of ctx keeps it from asking again, so that idle is also what a stop waits.
func Fetch(ctx context.Context, consumer jetstream.Consumer, most int, idle, linger time.Duration) ([]jetstream.Msg, error) {
	messages, err := pull(ctx, consumer, 1, idle)
	if err != nil || len(messages) == 0 {
		return messages, err
	}
	more, err := pull(ctx, consumer, most-1, linger)
	return append(messages, more...), err
}

// pull is one request to the server, and the server says when it is over. A deadline of
// our own (jetstream.FetchContext) would drop what the server has sent by then and a busy
// process has not read yet; it would come again only after the consumer's AckWait.
func pull(ctx context.Context, consumer jetstream.Consumer, most int, wait time.Duration) ([]jetstream.Msg, error) {
	if ctx.Err() != nil {
		return nil, nil
	}
	found, err := consumer.Fetch(most, jetstream.FetchMaxWait(wait))
	if err != nil {
		return nil, fmt.Errorf("fetch usage events: %w", err)
	}
	var messages []jetstream.Msg
	for msg := range found.Messages() {
		messages = append(messages, msg)
	}
	err = found.Error()
	if err == nil || errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrNoMessages) {
		return messages, nil
	}
	return messages, fmt.Errorf("fetch usage events: %w", err)
}
