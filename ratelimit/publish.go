package ratelimit

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Stream publishes usage events on JetStream. The first event makes sure that the
// stream is there.
type Stream struct {
	js jetstream.JetStream
}

// NewStream publishes through js.
func NewStream(js jetstream.JetStream) *Stream { return &Stream{js: js} }

// Publish implements Publisher: the event is stored when it returns nil.
func (s *Stream) Publish(ctx context.Context, e usage.Event) error {
	message, err := usage.Encode(e, "/ratelimit", "", "")
	if err != nil {
		return err
	}
	if _, err := usage.EnsureStream(ctx, s.js); err != nil {
		return err
	}
	if _, err := s.js.Publish(ctx, usage.Subject(e.Provider), message, jetstream.WithMsgID(e.RequestID)); err != nil {
		return fmt.Errorf("publish usage event: %w", err)
	}
	return nil
}
