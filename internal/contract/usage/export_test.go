package usage

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrMadeAnew ends a look of a consumer whose stream is gone.
var ErrMadeAnew = errMadeAnew

// Look is what Run does before each fetch, when it is due.
func (c *Consumer) Look(ctx context.Context) error {
	c.at.due = time.Time{}
	return c.follow(ctx)
}

// Process is what Run does with each fetch.
func (c *Consumer) Process(ctx context.Context, messages []jetstream.Msg) { c.process(ctx, messages) }
