package ledger

import "github.com/leaky-tokens/leaky-tokens/internal/contract/usage"

// Handler is what a consumer that does not run books with.
func (c *Consumer) Handler() usage.Handler { return c.bookings }

// Busy says that a lock did not come in time.
func Busy(err error) bool { return busy(err) }
