package judge

import (
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Target is one provider as the demo calls it.
type Target struct {
	Provider string   // name in leaky.yaml
	Protocol Protocol //
	Path     string   // of chat completions; Gemini's is made from the model
	Models   []string // at least one
	Stub     string   // URL of the stub that serves it, without a path
	Part     string   // that stub's name at the supervisor

	Outage, StreamOutage config.OutageMode // of its route while Redis is away: whole answers, streams; empty: closed
}

// Account is one caller of the demo, made fresh for it.
type Account struct {
	Name string `json:"name"`
	User string `json:"userId"`
	Tier string `json:"tier"`
	Key  string `json:"-"`
}

// Limit is the token bucket of one account at one provider.
type Limit struct {
	Capacity float64 `json:"capacity"` // tokens
	Leak     float64 `json:"leak"`     // tokens per second
	Level    float64 `json:"level"`    // tokens in it now, holds included
	Held     float64 `json:"held"`     // of those, held and not settled
}

// Pair names an account, by index, at a provider.
type Pair struct {
	Account  int
	Provider string
}

// Served is what a stub says it gave one request.
type Served struct {
	Input, Output int64
	Times         int // how often it served that request
}

func (s Served) total() int64 { return s.Input + s.Output }

// State is what the limiter's books say of a hold.
type State string

// States of a hold.
const (
	Held    State = "held"
	Settled State = "settled"
	Expired State = "expired"
	Unknown State = "unknown"
)

// Charge is what the limiter's books (Redis) say of one request.
type Charge struct {
	State         State
	Held, Charged int64
}

// Event is what analytics (ClickHouse) says of one request.
type Event struct {
	User          string
	Provider      string
	Input, Output int64
	Charged       int64
	Source        string // provider, estimated, expired, refused, released
	Allowed       bool
	Times         int // how many events carry that request id
}

// Evidence is everything Judge looks at. Maps are by request id.
type Evidence struct {
	Seed     uint64
	Rude     bool          // calls have manners
	Elapsed  time.Duration // from the first request to the last answer
	Accounts []Account
	Targets  []Target
	Limits   map[Pair]Limit
	Calls    []Call
	Served   map[string]Served
	Charges  map[string]Charge
	Events   map[string]Event
	Totals   map[Pair]Total  // nil: not asked
	Orphans  []Call          // requests a stub served and the limiter knows, whose answer no client saw: ID, Account and Provider
	Leases   map[int]float64 // by account: what the limiters hold of it for an outage
	Outages  []Outage
	Adopted  map[string]int // calls of outages that were written down meanwhile, by how; nil: none or not asked
	Restarts map[string]int // by part: how often it started anew during the demo
	Unread   []string       // books that could not be read at the end, and why
}

// Total is what the sums of analytics say of one account at one provider.
type Total struct {
	Events int64 `json:"totalEvents"`
	Tokens int64 `json:"totalTokens"`
}

// Part is how the supervisor sees one part.
type Part struct{ PID, Restarts int }

// Outage is a part that was killed and came back. Times are since the demo began.
type Outage struct {
	Part    string
	Begun   time.Duration // it lived until here
	Dead    time.Duration // it was surely dead from here
	Started time.Duration // to here
	Back    time.Duration // it was ready again
	Leased  float64       // tokens that the limiters could still admit without Redis
	Counted time.Duration // when they said so; 0: they were not asked, or did not answer
}

// Protocol is what a target speaks.
type Protocol string

// The protocols the demo knows.
const (
	ProtocolOpenAI Protocol = "openai"
	ProtocolGemini Protocol = "gemini"
)

// PartRedis is the part whose outage is judged by what the routes' modes promise.
const PartRedis = topology.Redis
