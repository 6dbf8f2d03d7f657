// Package payment is behind a purchase: it asks a payment provider to authorise, capture
// or void money. It speaks two protocols: a plain one of our own, where a payment is named
// by the purchase's id, and Stripe's payment intents.
//
// Every call may be repeated. An answer is the state of the payment afterwards, whatever
// the call wanted: capturing a voided payment answers Voided. A call whose effect is not
// known (no answer, a 5xx, an answer that does not parse) is an error, and the caller
// must ask again.
package payment

import (
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// Status is what a payment is.
type Status string

// States of a payment.
const (
	Absent     Status = "absent"     // the provider knows of none; a call that is still under way may make one
	Authorized Status = "authorized" // the money is reserved
	Captured   Status = "captured"   // the money was taken
	Voided     Status = "voided"     // given back, or refunded, for good
	Declined   Status = "declined"   // refused for good; nothing is reserved
)

// Order is the payment that a purchase wants.
type Order struct {
	Purchase uuid.UUID // names the payment, and with the step's name each call (idempotency key)
	Account  string    // "org:<id>" or "user:<id>"
	Amount   int64     // minor units (cents), at least 1
	Currency string    // ISO 4217, lower-case
	ID       string    // the provider's own name for it; empty until known
}

// State is what the provider says of a payment.
type State struct {
	ID       string
	Status   Status
	Amount   int64 // authorised, minor units
	Captured int64 // taken, minor units
	Currency string
	Reason   string // why it was declined, for people
}

// Matches says that the amounts are those of the order: what is authorised, and what is
// captured once it is.
func (s State) Matches(o Order) bool {
	if s.Status == Captured && s.Captured != o.Amount {
		return false
	}
	return s.Amount == o.Amount && s.Currency == o.Currency
}

// Errors of calls.
var (
	// ErrUndecided says that nobody knows whether the call took effect.
	ErrUndecided = errors.New("payment did not answer clearly")
	// ErrRefused says that the provider did not accept the call and changed nothing:
	// wrong credentials, a request it does not understand. A person has to look.
	ErrRefused = errors.New("payment refused the call")
)

// Config is how to reach the provider.
type Config struct {
	URL     string        // http(s)://host[:port][/prefix]
	APIKey  string        // empty: none is sent
	Timeout time.Duration // of one call
	// Spans may put something before the connections; nil: nothing.
	Spans func(http.RoundTripper) http.RoundTripper
}
