package judge

import (
	"fmt"
	"strings"
	"time"
)

// How a call on an empty pool is refused.
const CodeDry, TypeDry = "credit_balance_exhausted", "insufficient_quota"

// Bought is one purchase as its buyer sees it.
type Bought struct {
	ID        string    `json:"sagaId"`
	Tokens    int64     `json:"tokens"`
	Amount    int64     `json:"amount"` // minor units
	Currency  string    `json:"currency"`
	Status    string    `json:"status"`
	Accepted  float64   `json:"acceptedMillis"`  // from the POST to its 202
	Completed float64   `json:"completedMillis"` // from the 202 to COMPLETED, as polled
	Posted    time.Time `json:"-"`               // when
}

// Dry is how a call was refused by an empty pool.
type Dry struct {
	Status   int    `json:"status"`
	Type     string `json:"type"`
	Code     string `json:"code"`
	Message  string `json:"message"`
	MayRetry bool   `json:"mayRetry"` // x-should-retry is not false
}

// Balance is the account's pool as Redis has it. All are tokens.
type Balance struct {
	Present bool  `json:"present"`
	Credits int64 `json:"credits"`
	Spent   int64 `json:"spent"`
	Held    int64 `json:"held"`
}

// Quota is the pool as the ledger's reader is told of it.
type Quota struct {
	Total     int64 `json:"totalTokens"`
	Remaining int64 `json:"remainingTokens"`
}

// Entry is one entry of the ledger.
type Entry struct {
	Kind      string    `json:"kind"`
	Tokens    int64     `json:"tokens"` // negative: spent
	Reference string    `json:"reference"`
	At        time.Time `json:"at"` // just before the commit
}

// What an entry is about.
const (
	KindPurchase = "purchase"
	KindUsage    = "usage"
	UsagePrefix  = "usage:" // before the request id, in the reference of what was spent
)

// SpentOn finds the request that an entry is for.
func (e *Entry) SpentOn() (request string, ok bool) {
	request, ok = strings.CutPrefix(e.Reference, UsagePrefix)
	return request, ok && e.Kind == KindUsage
}

// PurchaseEvidence is everything JudgePurchases looks at. Maps are by request id.
type PurchaseEvidence struct {
	Seed             uint64
	Account          Account
	Provider         string
	Price            int64 // minor units for a million tokens
	Purchases        []Bought
	Dry              Dry
	RefusedMeanwhile int       // calls between the second order and the first admitted one
	Admitted         time.Time // when that was answered
	Calls            []Call
	Served           map[string]Served
	Charges          map[string]Charge
	Events           map[string]Event
	Total            Total
	Balance          Balance
	Quota            Quota
	Entries          []Entry
	Ledger           LedgerProof
	Captured         *int64 // minor units; nil: nobody was asked
	Unread           []string
}

// LedgerProof is whether all entries of the whole ledger balance.
type LedgerProof struct {
	Balanced    bool     `json:"balanced"`
	Differences []string `json:"differences"`
}

// PurchaseVerdict is what the demo of purchases found; -o json prints it as it is.
type PurchaseVerdict struct {
	OK               bool           `json:"ok"`
	Seed             uint64         `json:"seed"`
	Account          Account        `json:"account"`
	Provider         string         `json:"provider"`
	Reasons          []string       `json:"reasons"` // why not OK
	Purchases        []Bought       `json:"purchases"`
	Dry              Dry            `json:"refusal"` // when the pool was spent
	Admitted         int            `json:"admitted"`
	Refused          int            `json:"refused"`
	RefusedMeanwhile int            `json:"refusedDuringTopUp"`
	OrderToAdmitted  float64        `json:"orderToAdmittedMillis"`  // from the second POST to the first call that passed
	CommitToAdmitted float64        `json:"commitToAdmittedMillis"` // from its credit in the ledger; Postgres' clock against ours
	Books            []BookLine     `json:"books"`
	Captured         *int64         `json:"captured,omitempty"` // minor units
	LedgerBalanced   bool           `json:"ledgerBalanced"`
	Disagreements    []PurchaseLine `json:"disagreements"` // at most maxShown of them
}

// BookLine is one book's word on the account. -1 stands for "says nothing". Tokens.
type BookLine struct {
	Book     string `json:"book"`
	Credited int64  `json:"credited"`
	Spent    int64  `json:"spent"`
	Held     int64  `json:"held"`
	Left     int64  `json:"left"`
}

// PurchaseLine is one request on which the books differ. -1 stands for "says nothing".
type PurchaseLine struct {
	ID         string `json:"requestId"`
	Client     int64  `json:"client"`
	Stub       int64  `json:"stub"`
	Redis      int64  `json:"redis"`
	Ledger     int64  `json:"ledger"`
	ClickHouse int64  `json:"clickhouse"`
}

// JudgePurchases compares the books of an account that bought tokens and spent them.
func JudgePurchases(e PurchaseEvidence) PurchaseVerdict {
	j := &purchaseJudge{e: &e, v: PurchaseVerdict{Seed: e.Seed, Account: e.Account, Provider: e.Provider, Purchases: e.Purchases, Dry: e.Dry,
		RefusedMeanwhile: e.RefusedMeanwhile, Captured: e.Captured, LedgerBalanced: e.Ledger.Balanced, Reasons: []string{},
		Disagreements: []PurchaseLine{}}}
	j.calls()
	j.entries()
	j.compare()
	j.refusal()
	j.times()
	j.money()
	for _, what := range e.Unread {
		j.fail("a book could not be read: %s", what)
	}
	j.v.OK = len(j.v.Reasons) == 0
	return j.v
}

type purchaseJudge struct {
	e      *PurchaseEvidence
	v      PurchaseVerdict
	ledger BookLine
	spent  map[string]int64 // by request, of the ledger
	client int64            // tokens the clients were told
	served int64            // tokens the stub counted
}

func (j *purchaseJudge) fail(format string, args ...any) {
	j.v.Reasons = append(j.v.Reasons, fmt.Sprintf(format, args...))
}

// entries sums the ledger's.
func (j *purchaseJudge) entries() {
	j.ledger = BookLine{Book: "ledger, entries", Held: -1}
	for i := range j.e.Entries {
		entry := &j.e.Entries[i]
		j.ledger.Left += entry.Tokens
		if entry.Kind == KindUsage {
			j.ledger.Spent -= entry.Tokens
		} else {
			j.ledger.Credited += entry.Tokens
		}
	}
}

// calls compares the books request by request.
func (j *purchaseJudge) calls() {
	j.spent = map[string]int64{}
	for i := range j.e.Entries {
		if request, ok := j.e.Entries[i].SpentOn(); ok {
			j.spent[request] -= j.e.Entries[i].Tokens
		}
	}
	differing := 0
	for i := range j.e.Calls {
		c := &j.e.Calls[i]
		if c.Outcome == Refused {
			j.v.Refused++
		}
		if !c.Admitted() {
			continue
		}
		j.v.Admitted++
		line := j.line(c)
		j.client += max(0, line.Client)
		j.served += max(0, line.Stub)
		if want := line.Client; line.Stub == want && line.Redis == want && line.Ledger == want && line.ClickHouse == want {
			continue
		}
		if differing++; differing <= maxShown {
			j.v.Disagreements = append(j.v.Disagreements, line)
		}
	}
	if differing > 0 {
		j.fail("the books differ on %s", Count(differing, "request"))
	}
	if j.v.Admitted == 0 {
		j.fail("nothing was admitted")
	}
}

func (j *purchaseJudge) line(c *Call) PurchaseLine {
	l := PurchaseLine{ID: c.ID, Client: c.Input + c.Output, Stub: -1, Redis: -1, Ledger: -1, ClickHouse: -1}
	if c.Outcome != Completed {
		l.Client = -1
	}
	if s, ok := j.e.Served[c.ID]; ok {
		l.Stub = s.total()
	}
	if charge := j.e.Charges[c.ID]; charge.State == Settled {
		l.Redis = charge.Charged
	}
	if spent, ok := j.spent[c.ID]; ok {
		l.Ledger = spent
	}
	if event := j.e.Events[c.ID]; event.Times == 1 {
		l.ClickHouse = event.Charged
	}
	return l
}

// compare holds the sums of each book against those of the others.
func (j *purchaseJudge) compare() {
	bought := int64(0)
	for _, p := range j.e.Purchases {
		bought += p.Tokens
	}
	b, q := j.e.Balance, j.e.Quota
	j.v.Books = []BookLine{
		{"bought, and told to the clients", bought, j.client, -1, bought - j.client},
		{"stub", -1, j.served, -1, -1},
		{"Redis", b.Credits, b.Spent, b.Held, b.Credits - b.Spent - b.Held},
		{"ledger, pool", q.Total, q.Total - q.Remaining, -1, q.Remaining},
		j.ledger,
		{"ClickHouse", -1, j.e.Total.Tokens, -1, -1},
	}
	want := j.v.Books[0]
	for _, got := range j.v.Books[1:] {
		for _, pair := range []struct {
			what      string
			got, want int64
		}{{"credited", got.Credited, want.Credited}, {"spent", got.Spent, want.Spent}, {"left", got.Left, want.Left}} {
			if pair.got != pair.want && got.says(pair.what) {
				j.fail("%s: %s says %s tokens %s, and %s is right", j.e.Account.Name, got.Book, Thousands(pair.got), pair.what, Thousands(pair.want))
			}
		}
	}
	switch {
	case !b.Present:
		j.fail("Redis knows no pool")
	case b.Held != 0:
		j.fail("%s still held in Redis", Count(int(b.Held), "token"))
	}
	if want.Left < 0 {
		j.fail("%s were spent than bought", Count(int(-want.Left), "more token"))
	}
	if !j.e.Ledger.Balanced {
		j.fail("the ledger does not balance: %v", j.e.Ledger.Differences)
	}
}

// says tells whether a book keeps a number at all; stub and ClickHouse know only what is spent.
func (b *BookLine) says(what string) bool {
	return what == "spent" || b.Book != "stub" && b.Book != "ClickHouse"
}

// refusal must be the one that SDKs know as "buy something", not as "try again".
func (j *purchaseJudge) refusal() {
	if d := j.e.Dry; d.Status != 429 || d.Type != TypeDry || d.Code != CodeDry || d.MayRetry {
		j.fail("a spent pool was answered with %d %s / %s, x-should-retry %t; want 429 %s / %s, false", d.Status, d.Type, d.Code, d.MayRetry,
			TypeDry, CodeDry)
	}
}

// times takes the second purchase's, whose buyer was asking all the time.
func (j *purchaseJudge) times() {
	if len(j.e.Purchases) < 2 {
		j.fail("want two purchases, got %d", len(j.e.Purchases))
		return
	}
	second := j.e.Purchases[1]
	j.v.OrderToAdmitted = Millis(j.e.Admitted.Sub(second.Posted))
	for i := range j.e.Entries {
		if entry := &j.e.Entries[i]; entry.Kind == KindPurchase && entry.Reference == second.ID {
			j.v.CommitToAdmitted = Millis(j.e.Admitted.Sub(entry.At))
			return
		}
	}
	j.fail("the ledger has no entry for purchase %s", second.ID)
}

// money: what was captured is what the purchases cost, and that is tokens times price.
func (j *purchaseJudge) money() {
	sum := int64(0)
	for _, p := range j.e.Purchases {
		sum += p.Amount
		if want := (p.Tokens*j.e.Price + 999_999) / 1_000_000; p.Amount != want {
			j.fail("purchase %s cost %d minor units, and %d is right", p.ID, p.Amount, want)
		}
	}
	if j.e.Captured != nil && *j.e.Captured != sum {
		j.fail("the payment captured %d minor units, and the purchases cost %d", *j.e.Captured, sum)
	}
}

// Millis are the milliseconds of a duration, for JSON.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
