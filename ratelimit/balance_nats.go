package ratelimit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Durable is the consumer of balance changes, which all replicas share.
const Durable = "ratelimit-balance"

const (
	changesAtOnce = 256
	// changeAckWait is when a change that nobody acknowledged is given to another replica.
	changeAckWait = 10 * time.Second
	changesPause  = 500 * time.Millisecond
)

// changesWait is said while changes cannot be read.
const changesWait = "balance changes wait"

// NATSBalances asks for pools over NATS and follows their changes on JetStream.
type NATSBalances struct {
	conn *nats.Conn
	js   jetstream.JetStream
	wait time.Duration
	log  *slog.Logger
	said *retry.Troubles
}

// NewNATSBalances makes one over a connection that is kept by the caller. decision is how long
// callers wait for the limiter, as its Config.Timeout says.
func NewNATSBalances(conn *nats.Conn, js jetstream.JetStream, decision time.Duration, log *slog.Logger) *NATSBalances {
	return &NATSBalances{conn: conn, js: js, wait: balance.AskWithin(decision), log: log, said: retry.NewTroubles(log)}
}

// Ask implements Balances.
func (b *NATSBalances) Ask(ctx context.Context, account, provider string) (balance.State, error) {
	ctx, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	question, err := json.Marshal(balance.Ask{Account: account, Provider: provider})
	if err != nil {
		return balance.State{}, fmt.Errorf("ask for a balance: %w", err)
	}
	reply, err := b.conn.RequestWithContext(ctx, balance.SubjectAsk, question)
	if err != nil {
		return balance.State{}, fmt.Errorf("ask for a balance: %w", err)
	}
	var answer balance.Answer
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return balance.State{}, fmt.Errorf("ask for a balance: %w: %w", balance.ErrMalformed, err)
	}
	if answer.Error != "" {
		return balance.State{}, fmt.Errorf("ask for a balance: the token service says: %.200s", answer.Error)
	}
	if err := answer.State.Check(); err != nil {
		return balance.State{}, fmt.Errorf("ask for a balance: %w", err)
	}
	return answer.State, nil
}

// Follow gives every change to apply until ctx ends, each acknowledged after it was
// applied: one that was not is given again, here or to another replica. States are
// absolute and versioned, so that order and repetition do not matter.
func (b *NATSBalances) Follow(ctx context.Context, apply func(context.Context, balance.State) error) {
	_ = retry.Policy{First: changesPause}.Do(ctx, func(ctx context.Context) error { // until ctx ends
		return b.follow(ctx, apply)
	}, func(_ int, err error) {
		if ctx.Err() == nil {
			b.said.Warn(ctx, changesWait, err)
		}
	})
}

// follow ends with an error: the end of ctx closes the messages, too.
func (b *NATSBalances) follow(ctx context.Context, apply func(context.Context, balance.State) error) error {
	stream, err := usage.EnsureStream(ctx, b.js)
	if err != nil {
		return err
	}
	consumer, err := stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{Durable: Durable, FilterSubject: usage.SubjectsBalance,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: changeAckWait, MaxDeliver: -1, MaxAckPending: 4 * changesAtOnce})
	if err != nil {
		return fmt.Errorf("make consumer %s: %w", Durable, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(changesAtOnce))
	if err != nil {
		return fmt.Errorf("read consumer %s: %w", Durable, err)
	}
	b.said.Over(ctx, changesWait, "balance changes come again")
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	for {
		m, err := messages.Next()
		if err != nil {
			return fmt.Errorf("read consumer %s: %w", Durable, err)
		}
		if err := b.change(ctx, m, apply); err != nil {
			return err
		}
	}
}

// change applies one message. The error is of acknowledging it.
func (b *NATSBalances) change(ctx context.Context, m jetstream.Msg, apply func(context.Context, balance.State) error) error {
	state, err := balance.Decode(m.Data())
	if err == nil {
		err = apply(ctx, state)
	}
	switch {
	case err == nil:
		return m.Ack()
	case errors.Is(err, balance.ErrMalformed):
		b.log.LogAttrs(ctx, slog.LevelError, "a balance change is dropped", slog.String("subject", m.Subject()), slog.Any("error", err))
		return m.TermWithReason("malformed")
	}
	b.log.LogAttrs(ctx, slog.LevelDebug, "a balance change is tried again", slog.Any("error", err))
	return m.NakWithDelay(changesPause)
}
