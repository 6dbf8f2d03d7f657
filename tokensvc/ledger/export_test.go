package ledger

import "github.com/leaky-tokens/leaky-tokens/internal/contract/usage"

// Handler is what a consumer that does not run books with.
func (c *Consumer) Handler() usage.Handler { return c.bookings }
