package serve

import (
	"context"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// prices is the list that leaky.yaml names.
func (s service) prices() (*prices.Table, error) {
	return prices.Load(s.files.Beside(s.cfg.Prices.File))
}

// priced freezes costs in the events of a publisher.
type priced struct {
	list *prices.Table
	to   ratelimit.Publisher
}

// Publish implements ratelimit.Publisher.
func (p priced) Publish(ctx context.Context, e usage.Event) error {
	p.list.Freeze(&e)
	return p.to.Publish(ctx, e)
}
