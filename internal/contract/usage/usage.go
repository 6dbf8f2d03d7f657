// Package usage is the usage event: what the meter, ratelimit's sweeper and
// tokensvc publish on JetStream and analytics and the ledger consume. The envelope
// is a CloudEvent 1.0 in JSON (structured mode); its id is the request id and the
// Nats-Msg-Id, so that an event published twice counts once.
package usage

import (
	"encoding/json"
	"strconv"
	"time"
)

// JetStream names.
const (
	Stream          = "LEAKY"
	SubjectPrefix   = "leaky.usage.v2."
	SubjectsUsage   = "leaky.usage.*.*" // of every version: what consumers read
	SubjectsSaga    = "leaky.saga.v1.>"
	SubjectsBalance = "leaky.balance.v1.*" // see package balance
	SubjectDead     = "leaky.dead.v1"
	SubjectProbe    = "leaky.probe.v1" // see Probe; nobody listens to it
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

// Event is the data of a usage event, version 2. Token counts are tokens, never negative.
type Event struct {
	RequestID string `json:"requestId"`
	// Version is 0 for what is first said of a call. A correction has a higher one and replaces
	// what was said before, whole.
	Version int64             `json:"version,omitzero"`
	UserID  string            `json:"userId"`
	OrgID   string            `json:"orgId,omitzero"`
	Team    string            `json:"team,omitzero"`
	KeyID   string            `json:"keyId,omitzero"`
	Tier    string            `json:"tier,omitzero"`
	EndUser string            `json:"endUser,omitzero"` // for whom the caller called, in its own words
	Session string            `json:"session,omitzero"` // conversation or run, in the caller's own words
	Tags    map[string]string `json:"tags,omitempty"`   // at most MostTags, by names of leaky.yaml

	Account     string `json:"account"`
	Route       string `json:"route"`
	Provider    string `json:"provider"`
	ModelAsked  string `json:"modelAsked"`
	ModelServed string `json:"modelServed,omitzero"`

	// Kinds of tokens. Of Input: what was read from a cache, what was written to one that lives
	// five minutes or an hour, what hosted tools took, what was sound. Of Output: what nobody
	// saw, what was sound.
	Input        int64 `json:"input"`
	Output       int64 `json:"output"`
	Cached       int64 `json:"cached"`
	CacheWrite5m int64 `json:"cacheWrite5m,omitzero"`
	CacheWrite1h int64 `json:"cacheWrite1h,omitzero"`
	ToolInput    int64 `json:"toolInput,omitzero"`
	Reasoning    int64 `json:"reasoning"`
	Audio        int64 `json:"audio,omitzero"`
	AudioOutput  int64 `json:"audioOutput,omitzero"`

	Held    int64 `json:"heldTokens"`
	Charged int64 `json:"tokens"` // what is charged: input + output, or the estimate

	// What the call cost by the prices of that moment, in millionths of Currency. Without a
	// PriceVersion no price was known: the cost is unknown, not nothing.
	PriceVersion string `json:"priceVersion,omitzero"`
	CostMicros   int64  `json:"costMicros"`
	Currency     string `json:"currency,omitzero"` // ISO 4217

	Source      Source    `json:"source"`
	Pool        Pool      `json:"pool,omitzero"`
	Allowed     bool      `json:"allowed"`
	Stream      bool      `json:"stream"`
	Status      int       `json:"status"`            // HTTP status the client saw
	Reason      string    `json:"reason,omitzero"`   // why refused, estimated or released
	Skipped     int64     `json:"skipped,omitzero"`  // refusals of the account before this one that have no event
	Attempts    int64     `json:"attempts,omitzero"` // how often the provider was asked; 0: never, or nobody knows
	LatencyMS   int64     `json:"latencyMs"`
	FirstByteMS int64     `json:"firstByteMs"`
	Timestamp   time.Time `json:"timestamp"` // when the request began
}

// ID is the event's own: the request's, and of a correction with its version.
func (e *Event) ID() string {
	if e.Version == 0 {
		return e.RequestID
	}
	return e.RequestID + "~" + strconv.FormatInt(e.Version, 10)
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

// CloudEvents types of a usage event. The first version is read and no longer written.
const (
	TypeUsage   = "leaky.usage.v2"
	TypeUsageV1 = "com.leaky-tokens.usage.v1"
)
