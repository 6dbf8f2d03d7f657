// Package revocation is what identity tells every extauthz about credentials that ended
// before their time. Messages are plain NATS and may be missed, so identity also lists
// what still counts over HTTP, and a heartbeat tells whether the link carries anything.
package revocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// NATS subjects.
const (
	// Subject carries a Revocation.
	Subject = "leaky.control.v1.revoked"
	// SubjectHeartbeat carries nothing; every identity sends one each HeartbeatEvery, and
	// none while it cannot announce.
	SubjectHeartbeat = "leaky.control.v1.heartbeat"
)

const (
	// HeartbeatEvery is the time between two heartbeats.
	HeartbeatEvery = time.Second
	// StaleAfter without a heartbeat, a cached answer of identity counts as expired.
	StaleAfter = 5 * time.Second
	// ListedFor is how long identity lists the revocation of an API key at least.
	ListedFor = 3 * time.Minute
)

// Path is where identity lists the revocations that still count, on its own port only.
const Path = "/internal/revocations"

// Kind is what is revoked.
type Kind string

// What can be revoked.
const (
	Key    Kind = "key"    // an API key; ID is its SHA-256 in hex
	Token  Kind = "token"  // one access token; ID is its jti
	Family Kind = "family" // all access tokens of one login or grant; ID is their sid
	Signer Kind = "signer" // all tokens that one of identity's keys signed; ID is its kid
	User   Kind = "user"   // all of a user's access tokens with a ver below Generation, and what is cached of them
)

// Kinds are all of them.
func Kinds() []Kind { return []Kind{Key, Token, Family, Signer, User} }

// maxID is the longest id, in bytes.
const maxID = 256

// Revocation is one credential, or a family of them, that is no longer good.
type Revocation struct {
	Kind       Kind      `json:"kind"`
	ID         string    `json:"id"`
	Generation int64     `json:"generation,omitzero"` // with User: the least ver that is still good
	Until      time.Time `json:"until"`               // everything it concerns has expired by then
	// At is when it was announced, by identity's clock: what it takes to arrive is measured
	// by it, and nothing is decided. Zero in a list.
	At time.Time `json:"at,omitzero"`
}

// ErrMalformed says a message is no revocation.
var ErrMalformed = errors.New("malformed revocation")

// Encode writes a message, announced now.
func Encode(r Revocation) []byte {
	r.At = time.Now().UTC()
	b, _ := json.Marshal(r) // strings, a number and times of this millennium: it cannot fail
	return b
}

// Decode reads and checks a message. Errors are ErrMalformed.
func Decode(message []byte) (Revocation, error) {
	var r Revocation
	if err := json.Unmarshal(message, &r); err != nil {
		return Revocation{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := r.Check(); err != nil {
		return Revocation{}, err
	}
	return r, nil
}

// Check is ErrMalformed for what cannot be one.
func (r Revocation) Check() error {
	switch r.Kind {
	case Key, Token, Family, Signer, User:
	default:
		return fmt.Errorf("%w: kind %.32q", ErrMalformed, r.Kind)
	}
	if r.ID == "" || len(r.ID) > maxID || r.Generation < 0 || r.Until.IsZero() {
		return fmt.Errorf("%w: id of %d bytes, generation %d, until %v", ErrMalformed, len(r.ID), r.Generation, r.Until)
	}
	return nil
}

// List is what Path answers.
type List struct {
	Revocations []Revocation `json:"revocations"`
}
