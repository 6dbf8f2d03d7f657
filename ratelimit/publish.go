package ratelimit

import (
	"context"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Stream publishes the usage events of expired holds on JetStream.
type Stream struct{ publisher *usage.Publisher }

// NewStream publishes through publisher.
func NewStream(publisher *usage.Publisher) *Stream { return &Stream{publisher} }

// Publish implements Publisher: the event is stored when it returns nil.
func (s *Stream) Publish(ctx context.Context, e usage.Event) error {
	message, err := usage.MessageOf(e, "/ratelimit", "", "")
	if err != nil {
		return err
	}
	_, err = s.publisher.Publish(ctx, []usage.Message{message})
	return err
}
