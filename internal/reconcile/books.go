// Package reconcile is beside the request path: it holds the books against each other, call by
// call, and names what differs. Five books know a call: the stream of usage events (what was said of
// it), ClickHouse (what reports sum up), the ledger (what its pool paid), Redis (what its hold was
// settled at) and, where the provider is a stub, what the stub served.
//
// Compare is pure; the readers of the books stand beside it. That of
// ClickHouse belongs to its service, which the composition root joins.
package reconcile

import (
	"cmp"
	"slices"
	"time"
)

// Fault is a way in which books differ.
type Fault string

// What can be found. Each names a request, but for a pool's drift that no call explains.
const (
	Lost         Fault = "lost"          // one book has the call and another has not
	Doubled      Fault = "doubled"       // ClickHouse counts the call more than once
	WrongAccount Fault = "wrong_account" // the call is booked on another account
	WrongPrice   Fault = "wrong_price"   // the price list or the cost of the call is another one
	WrongCharge  Fault = "wrong_charge"  // the tokens of the call are others
	OrphanHold   Fault = "orphan_hold"   // a hold stands, and its call is over
	RedisDrift   Fault = "redis_drift"   // Redis charged another amount, or its balance is not the ledger's
	LedgerGap    Fault = "ledger_gap"    // the call drew on a pool, and the ledger has no entry or another amount
	BillOff      Fault = "bill_off"      // the provider served other tokens than it told, or bills others
)

// Faults are all of them, in the order of their names in reports.
func Faults() []Fault {
	return []Fault{Lost, Doubled, WrongAccount, WrongPrice, WrongCharge, OrphanHold, RedisDrift, LedgerGap, BillOff}
}

// Call is what one book of events says of a call. Tokens are what was charged.
type Call struct {
	Account, Provider, Model string
	Tokens, Input, Output    int64
	CostMicros               int64
	PriceVersion, Currency   string
	// WantMicros is what the call costs by the list of its PriceVersion, where that list is known;
	// else CostMicros.
	WantMicros int64
	Drawn      bool // its pool paid
	Told       bool // by the provider's own count
	Allowed    bool
	Retried    bool  // the provider was asked more than once
	Version    int64 // of what is said; 0: never corrected
	Rows       int   // in ClickHouse
	At         time.Time
}

// Entry is a usage entry of the ledger.
type Entry struct {
	Account, Provider      string
	Tokens                 int64
	CostMicros             int64
	PriceVersion, Currency string
	Costed                 bool // false: from before entries had a cost
}

// Hold is one that stands in Redis.
type Hold struct {
	RequestID, Account, Provider string
	Tokens                       int64
	Age                          time.Duration
	Overdue                      time.Duration // since it should have ended; negative: not yet
}

// Settled is what Redis remembers of a hold that has ended.
type Settled struct{ Charged int64 }

// PoolKey names a pool.
type PoolKey struct{ Account, Provider string }

// Pool is what is left of it, held tokens not taken off. In says whether a book knows it.
type Pool struct {
	Redis, Ledger     int64
	InRedis, InLedger bool
}

// Served is what stubs gave a request in all.
type Served struct {
	Provider      string
	Input, Output int64
	Times         int
	Whole         bool // the answer was neither cut nor left, and told its usage
	Stream        bool // a stream, of which less may have passed than the stub wrote
	At            time.Time
}

// Books are what all of them say of the calls of a span of time. A nil map is a book that was not
// read, and nothing is found about it.
type Books struct {
	Events  map[string]Call // the stream, the newest version of each
	Calls   map[string]Call // ClickHouse
	Entries map[string]Entry
	Holds   []Hold
	Settled map[string]Settled
	Pools   map[PoolKey]Pool
	Served  map[string]Served
	Grace   time.Duration // how long a hold may be overdue
}

// Finding is one difference.
type Finding struct {
	Fault     Fault  `json:"fault"`
	RequestID string `json:"requestId,omitzero"`
	Account   string `json:"account,omitzero"`
	Provider  string `json:"provider,omitzero"`
	Detail    string `json:"detail"`
}

// Sums are what the books say of one account. Drawn are tokens that pools paid.
type Sums struct {
	Account     string           `json:"account"`
	Events      int64            `json:"publishedCalls"`
	EventTokens int64            `json:"publishedTokens"`
	EventCosts  map[string]int64 `json:"publishedCostMicros"` // by currency
	Calls       int64            `json:"bookedCalls"`
	CallTokens  int64            `json:"bookedTokens"`
	CallCosts   map[string]int64 `json:"bookedCostMicros"`
	Drawn       int64            `json:"drawnTokens"`      // by events
	DrawnCosts  map[string]int64 `json:"drawnCostMicros"`  // of the same calls
	Ledger      int64            `json:"ledgerTokens"`     // by usage entries
	LedgerCosts map[string]int64 `json:"ledgerCostMicros"` //
	Differs     bool             `json:"differs"`
}

// Report is what Compare found.
type Report struct {
	From     time.Time     `json:"from"`
	To       time.Time     `json:"to"`
	Calls    int           `json:"calls"`
	Clean    bool          `json:"clean"`
	Counts   map[Fault]int `json:"counts"` // every fault, also those that were not found
	Findings []Finding     `json:"findings"`
	Accounts []Sums        `json:"accounts"`
	Unread   []string      `json:"unread"` // books that could not be read, and why
}

func (r *Report) add(f Fault, id string, c Call, detail string) {
	r.Findings = append(r.Findings, Finding{Fault: f, RequestID: id, Account: c.Account, Provider: c.Provider, Detail: detail})
}

// finish sorts and counts.
func (r *Report) finish() {
	order := map[Fault]int{}
	r.Counts = map[Fault]int{}
	for i, f := range Faults() {
		order[f], r.Counts[f] = i, 0
	}
	slices.SortFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.Fault], order[b.Fault]), cmp.Compare(a.Account, b.Account), cmp.Compare(a.RequestID, b.RequestID),
			cmp.Compare(a.Detail, b.Detail))
	})
	for _, f := range r.Findings {
		r.Counts[f.Fault]++
	}
	r.Clean = len(r.Findings) == 0
}
