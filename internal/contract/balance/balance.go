// Package balance is how the token service tells ratelimit what an account has left to
// spend. Postgres is the truth of what was granted; ratelimit keeps the live balance in
// Redis and counts there what is held and settled.
//
// A State is absolute and versioned, so it may arrive twice, late or out of order: one
// with a lower version than what Redis has changes nothing but what was spent and given back,
// which only grow within a window. ratelimit asks for the state of an account it has not seen (NATS
// request on SubjectAsk), and is told of every change (JetStream, Subject).
package balance

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// SubjectPrefix and the provider's name are the JetStream subject of a change.
	SubjectPrefix = "leaky.balance.v1."
	// SubjectAsk is answered by the token service: an Ask for a State, plain NATS.
	SubjectAsk = "leaky.rpc.v1.balance"
	// AskTimeout is how long ratelimit waits for an answer at least. Only the first call of an account
	// waits for it, and a model takes longer than a second anyway: better late than refused.
	AskTimeout = time.Second
)

// AskWithin is how long ratelimit waits for an answer where callers wait so long for its decision.
func AskWithin(decision time.Duration) time.Duration { return max(AskTimeout, decision*2/3) }

// Subject is where a change of a pool of the provider is published.
func Subject(provider string) string { return SubjectPrefix + provider }

// Ask names the pool of an account.
type Ask struct {
	Account  string `json:"account"` // "org:<id>" or "user:<id>"
	Provider string `json:"provider"`
}

// State is what an account owns for one provider. Tokens are never negative.
//
// With a Window, time is cut into windows from Anchor on; at the begin of each the account
// has Credits again. Window k lasts from Anchor + k*Window to Anchor + (k+1)*Window.
// Without one (prepaid) there is a single window without end.
type State struct {
	Account  string `json:"account"`
	Provider string `json:"provider"`
	Present  bool   `json:"present"` // false: the account has no pool
	Version  int64  `json:"version"` // grows with every change of the pool; 0: no pool yet
	Credits  int64  `json:"credits"` // tokens granted and not expired, spent ones included
	Spent    int64  `json:"spent"`   // tokens of the current window that the ledger has booked
	// Returned were spent in the current window and given back, since a call was charged too much.
	// Spent and Returned together never shrink within a window, nor does Returned.
	Returned int64         `json:"returned,omitzero"`
	Window   time.Duration `json:"window"` // 0: prepaid
	Anchor   time.Time     `json:"anchor,omitzero"`
	At       time.Time     `json:"at"` // when this was read; tells which window Spent is of
}

// Answer is the reply to an Ask. With Error there is no State: the caller must not take
// the account for one without a pool.
type Answer struct {
	State State  `json:"state"`
	Error string `json:"error,omitzero"`
}

// Index is the number of the window that t is in, 0 without windows or before Anchor.
func (s State) Index(t time.Time) int64 {
	if s.Window <= 0 || t.Before(s.Anchor) {
		return 0
	}
	return int64(t.Sub(s.Anchor) / s.Window)
}

// ErrMalformed says a message is no state of a pool.
var ErrMalformed = errors.New("malformed balance")

// Decode reads and checks a State.
func Decode(message []byte) (State, error) {
	var s State
	if err := json.Unmarshal(message, &s); err != nil {
		return s, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := s.Check(); err != nil {
		return State{}, err
	}
	return s, nil
}

// Check tells what is wrong with a state, as ErrMalformed.
func (s State) Check() error {
	switch {
	case !strings.HasPrefix(s.Account, "user:") && !strings.HasPrefix(s.Account, "org:"):
		return fmt.Errorf("%w: account %q", ErrMalformed, s.Account)
	case s.Provider == "" || strings.ContainsAny(s.Provider, ".*> \t\r\n"):
		return fmt.Errorf("%w: provider %q", ErrMalformed, s.Provider)
	case s.Version < 0 || s.Credits < 0 || s.Spent < 0 || s.Returned < 0 || s.Window < 0:
		return fmt.Errorf("%w: negative version, credits, spent, returned or window", ErrMalformed)
	case s.Window > 0 && s.Anchor.IsZero():
		return fmt.Errorf("%w: a window without an anchor", ErrMalformed)
	}
	return nil
}

// Carried is what is spent of a pool of so many credits when further windows have begun: what
// was overdrawn stays so until the windows have paid it, each what it gives.
func Carried(spent, credits, windows int64) int64 {
	switch {
	case windows <= 0 || credits <= 0:
		return spent
	case windows > spent/credits: // the product may be too large to be a number
		return 0
	}
	return max(0, spent-windows*credits)
}
