package judge

// Verdict is what the demo found; -o json prints it as it is. Token counts are tokens.
type Verdict struct {
	OK            bool             `json:"ok"`
	Seed          uint64           `json:"seed"`
	Seconds       float64          `json:"seconds"` // first request to last answer
	Requests      int              `json:"requests"`
	Reasons       []string         `json:"reasons"` // why not OK
	Notes         []string         `json:"notes"`   // worth knowing, no fault of the books
	Over          int64            `json:"tokensOverLimit"`
	OpenOver      int64            `json:"openTokensOverLimit,omitempty"` // beside those, where an outage of Redis admitted everything
	Accounts      []AccountVerdict `json:"accounts"`
	Books         Books            `json:"books"`
	Estimates     Estimates        `json:"estimates"`
	Manners       []MannerVerdict  `json:"manners,omitempty"` // of a rude demo
	Disagreements []Disagreement   `json:"disagreements"`     // at most maxShown of them
	Restarts      map[string]int   `json:"restarts,omitempty"`
	Outages       []OutageVerdict  `json:"outages,omitempty"`
	Adopted       map[string]int   `json:"adopted,omitempty"` // calls of outages, by how they were written down afterwards: lease, forced, known, failed
}

// AccountVerdict is one account.
type AccountVerdict struct {
	Account
	Providers []Line `json:"providers"`
}

// Line is one account at one provider.
type Line struct {
	Provider  string  `json:"provider"`
	Admitted  int     `json:"admitted"` // completed, aborted and broken ones
	Refused   int     `json:"refused"`
	Aborted   int     `json:"aborted"`
	Declined  int     `json:"declined,omitempty"` // the provider refused or failed, as it was told to
	Failed    int     `json:"failed"`             // no answer, 5xx, or broken off; counted, no fault of the books
	Held      int64   `json:"heldTokens"`
	Settled   int64   `json:"settledTokens"` // charged for settled holds
	Estimated int     `json:"estimated"`     // calls charged by estimate
	EstTokens int64   `json:"estimatedTokens"`
	Expired   int     `json:"expired"`
	ExpTokens int64   `json:"expiredTokens"`
	Served    int64   `json:"servedTokens"` // what the stub really served, aborted streams included
	Limit     Limit   `json:"limit"`
	Allowed   float64 `json:"allowedTokens"` // capacity + leak * elapsed
	Over      int64   `json:"tokensOverLimit"`
}

// Books counts how the three books compare.
type Books struct {
	Compared  int `json:"compared"`      // calls whose charge must be exact, and so were compared
	Agreed    int `json:"agreed"`        // of those, equal at the stub, in Redis and in ClickHouse
	Differing int `json:"disagreements"` // of any kind
	Expected  int `json:"eventsExpected"`
	Found     int `json:"eventsFound"` // of the expected ones
	Missing   int `json:"eventsMissing"`
	Skipped   int `json:"eventsSkipped"` // of refusals, beyond those that get an event each second
	Double    int `json:"eventsDouble"`
	Unclaimed int `json:"eventsUnclaimed"` // of requests whose answer no client ever saw
	Open      int `json:"openHolds"`
}

// Estimates is how far the charges of aborted streams are from what the stub served.
type Estimates struct {
	Count   int     `json:"count"`
	Charged int64   `json:"chargedTokens"`
	Served  int64   `json:"servedTokens"`
	Mean    float64 `json:"meanError"`  // mean of |charged-served|/served
	Worst   float64 `json:"worstError"` // largest of them
	WorstID string  `json:"worstRequestId,omitzero"`
	Bias    float64 `json:"bias"` // (sum charged - sum served) / sum served
}

// Disagreement is one request on which the books differ. -1 stands for "says nothing".
type Disagreement struct {
	ID         string `json:"requestId"`
	Account    string `json:"account"`
	Provider   string `json:"provider"`
	Why        string `json:"why"`
	Stub       int64  `json:"stub"`
	Redis      int64  `json:"redis"`
	ClickHouse int64  `json:"clickhouse"`
}

const maxShown = 10

// OutageVerdict is one part that was killed.
type OutageVerdict struct {
	Part  string        `json:"part"`
	At    float64       `json:"killedAfterSeconds"`
	Down  float64       `json:"downSeconds"`     // until it was ready again
	Modes []ModeVerdict `json:"modes,omitempty"` // of Redis only
}

// ModeVerdict is what the routes of one outage mode did while Redis was away.
type ModeVerdict struct {
	Mode        string   `json:"mode"` // closed, lease, open
	Providers   []string `json:"providers"`
	Calls       int      `json:"calls"` // that overlapped the outage, or were admitted without Redis just after it
	Unavailable int      `json:"unavailable"`
	Admitted    int      `json:"admitted"`        // without Redis
	Tokens      int64    `json:"admittedTokens"`  // held for them
	Bound       *int64   `json:"bound,omitempty"` // most tokens that could be; absent: none, or it could not be asked
}
