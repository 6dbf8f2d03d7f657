// Package usage is the usage event: what the meter, ratelimit's sweeper and
// tokensvc publish on JetStream and analytics and the ledger consume. The envelope
// is a CloudEvent 1.0 in JSON (structured mode); its id is the request id and the
// Nats-Msg-Id, so that an event published twice counts once.
package usage

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// JetStream names.
const (
	Stream          = "LEAKY"
	SubjectPrefix   = "leaky.usage.v1."
	SubjectsUsage   = "leaky.usage.v1.*"
	SubjectsSaga    = "leaky.saga.v1.>"
	SubjectsBalance = "leaky.balance.v1.*" // see package balance
	SubjectDead     = "leaky.dead.v1"
)

// Subject is where the usage of a provider is published.
func Subject(provider string) string { return SubjectPrefix + provider }

// Source says where the charge of an event comes from.
type Source string

// Where a charge can come from.
const (
	FromProvider  Source = "provider"  // the provider's own count
	FromEstimate  Source = "estimated" // bytes and the learned ratio; never above the hold
	FromHold      Source = "held"      // all that was held, by the policy for calls that end early
	FromExpiry    Source = "expired"   // the sweeper's policy, nobody settled
	FromRefusal   Source = "refused"   // a limit said no; nothing was charged
	FromUnstarted Source = "released"  // the provider served nothing; the hold was given back
	FromRequest   Source = "requested" // the caller stated the tokens (consume)
)

// Pool says whether the charge of an event drew on the account's pool.
type Pool string

// What is known of an event's pool. Without a word (the hold was lost) the ledger draws on
// the pool if the account has one.
const (
	PoolDrawn Pool = "drawn"
	PoolNone  Pool = "none"
)

// Event is the data of a usage event. Token counts are tokens, never negative.
type Event struct {
	RequestID   string `json:"requestId"`
	UserID      string `json:"userId"`
	OrgID       string `json:"orgId,omitzero"`
	Team        string `json:"team,omitzero"`
	KeyID       string `json:"keyId,omitzero"`
	Tier        string `json:"tier,omitzero"`
	Account     string `json:"account"`
	Route       string `json:"route"`
	Provider    string `json:"provider"`
	ModelAsked  string `json:"modelAsked"`
	ModelServed string `json:"modelServed,omitzero"`
	Input       int64  `json:"inputTokens"`
	Output      int64  `json:"outputTokens"`
	Cached      int64  `json:"cachedTokens"`
	Reasoning   int64  `json:"reasoningTokens"`
	// Kinds that few providers tell, in tokens: of the input what was written to a cache, what
	// hosted tools took and what was audio, and of the output what was audio.
	CacheWritten int64 `json:"cacheWrittenTokens,omitzero"`
	ToolInput    int64 `json:"toolInputTokens,omitzero"`
	AudioInput   int64 `json:"audioInputTokens,omitzero"`
	AudioOutput  int64 `json:"audioOutputTokens,omitzero"`

	Held        int64     `json:"heldTokens"`
	Charged     int64     `json:"tokens"` // what is charged: input + output, or the estimate
	Source      Source    `json:"source"`
	Pool        Pool      `json:"pool,omitzero"`
	Allowed     bool      `json:"allowed"`
	Stream      bool      `json:"stream"`
	Status      int       `json:"status"`           // HTTP status the client saw
	Reason      string    `json:"reason,omitzero"`  // why refused, estimated or released
	Skipped     int64     `json:"skipped,omitzero"` // refusals of the account before this one that have no event
	LatencyMS   int64     `json:"latencyMs"`
	FirstByteMS int64     `json:"firstByteMs"`
	Timestamp   time.Time `json:"timestamp"` // when the request began
}

// Envelope is a CloudEvent 1.0 with the extension attributes of the contract.
type Envelope struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	CorrelationID   string          `json:"correlationid,omitzero"`
	TraceParent     string          `json:"traceparent,omitzero"`
	Data            json.RawMessage `json:"data"`
}

// TypeUsage is the CloudEvents type of a usage event.
const TypeUsage = "com.leaky-tokens.usage.v1"

// ErrMalformed says a message is not a usage event; such a message is poison.
var ErrMalformed = errors.New("malformed usage event")

// Decode unwraps and checks an event.
func Decode(message []byte) (Event, error) {
	// Data is decoded in the same pass: every call pays for this.
	var env struct {
		SpecVersion string `json:"specversion"`
		ID          string `json:"id"`
		Type        string `json:"type"`
		Data        *Event `json:"data"`
	}
	if err := json.Unmarshal(message, &env); err != nil {
		return Event{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if env.SpecVersion != "1.0" || env.Type != TypeUsage || env.Data == nil {
		return Event{}, fmt.Errorf("%w: specversion %q, type %q, or no data", ErrMalformed, env.SpecVersion, env.Type)
	}
	e := *env.Data
	switch {
	case e.RequestID == "" || e.RequestID != env.ID:
		return Event{}, fmt.Errorf("%w: request id %q, event id %q", ErrMalformed, e.RequestID, env.ID)
	case e.Provider == "" || strings.ContainsAny(e.Provider, ".*> \t\r\n"):
		return Event{}, fmt.Errorf("%w: provider %q", ErrMalformed, e.Provider)
	case e.Input < 0 || e.Output < 0 || e.Charged < 0 || e.Held < 0 || e.Cached < 0 || e.Reasoning < 0:
		return Event{}, fmt.Errorf("%w: negative tokens", ErrMalformed)
	case e.Timestamp.IsZero():
		return Event{}, fmt.Errorf("%w: no timestamp", ErrMalformed)
	}
	return e, nil
}
