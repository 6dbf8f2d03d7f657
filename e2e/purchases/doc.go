// Package purchases tests the selling of tokens from outside, with everything that can
// break it: worker processes that are killed at every step, a payment stub that declines,
// loses and repeats, and Postgres and NATS that restart. It has no code of its own.
package purchases
