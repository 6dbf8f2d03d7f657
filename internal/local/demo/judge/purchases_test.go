package judge

import (
	"strings"
	"testing"
	"time"
)

// shopped is a demo of purchases on which all books agree: 100 tokens are bought, 80 of
// them spent, 100 more bought and 30 spent.
func shopped() PurchaseEvidence {
	start := time.Unix(1_800_000_000, 0)
	captured := int64(2)
	return PurchaseEvidence{
		Seed: 7, Account: Account{Name: "ann", User: "u-ann", Tier: "USER"}, Provider: "openai", Price: 1000,
		Purchases: []Bought{
			{ID: "p1", Tokens: 100, Amount: 1, Status: "COMPLETED", Posted: start},
			{ID: "p2", Tokens: 100, Amount: 1, Status: "COMPLETED", Posted: start.Add(time.Second)},
		},
		Dry:      Dry{Status: 429, Type: TypeDry, Code: CodeDry},
		Admitted: start.Add(1030 * time.Millisecond),
		Calls: []Call{
			{ID: id1, Outcome: Completed, Status: 200, Input: 20, Output: 60},
			{ID: id2, Outcome: Refused, Status: 429, Code: CodeDry, RetryAfter: -1},
			{ID: id3, Outcome: Completed, Status: 200, Input: 10, Output: 20},
		},
		Served:  map[string]Served{id1: {20, 60, 1}, id3: {10, 20, 1}},
		Charges: map[string]Charge{id1: {Settled, 120, 80}, id3: {Settled, 120, 30}},
		Events:  map[string]Event{id1: {Charged: 80, Times: 1}, id2: {Times: 1}, id3: {Charged: 30, Times: 1}},
		Total:   Total{Events: 3, Tokens: 110},
		Balance: Balance{Present: true, Credits: 200, Spent: 110},
		Quota:   Quota{Total: 200, Remaining: 90},
		Entries: []Entry{{KindUsage, -30, UsagePrefix + id3, start}, {KindPurchase, 100, "p2", start.Add(1010 * time.Millisecond)},
			{KindUsage, -80, UsagePrefix + id1, start}, {KindPurchase, 100, "p1", start}},
		Ledger:   LedgerProof{Balanced: true},
		Captured: &captured,
	}
}

func TestJudgePurchasesAgrees(t *testing.T) {
	t.Parallel()
	v := JudgePurchases(shopped())
	if !v.OK || v.Admitted != 2 || v.Refused != 1 || v.OrderToAdmitted != 30 || v.CommitToAdmitted != 20 {
		t.Errorf("got %+v", v)
	}
	var text strings.Builder
	if err := v.Print(&text); err != nil || !strings.Contains(text.String(), "first admitted call 20.0 ms") ||
		!strings.Contains(text.String(), "\nOK: ") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

func TestJudgePurchasesFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil  func(*PurchaseEvidence)
		reason string
	}{
		"Redis credits twice": {func(e *PurchaseEvidence) { e.Balance.Credits += 100 },
			"Redis says 300 tokens credited, and 200 is right"},
		"Redis forgets a charge": {func(e *PurchaseEvidence) { e.Balance.Spent -= 30 }, "Redis says 80 tokens spent"},
		"Redis knows no pool":    {func(e *PurchaseEvidence) { e.Balance = Balance{} }, "Redis knows no pool"},
		"a hold is left":         {func(e *PurchaseEvidence) { e.Balance.Held = 1 }, "1 token still held"},
		"the pool lost a purchase": {func(e *PurchaseEvidence) { e.Quota.Total, e.Quota.Remaining = 100, -10 },
			"ledger, pool says 100 tokens credited"},
		"an entry is lost": {func(e *PurchaseEvidence) { e.Entries = e.Entries[1:] }, "ledger, entries says 80 tokens spent"},
		"an entry is there twice": {func(e *PurchaseEvidence) { e.Entries = append(e.Entries, e.Entries[0]) },
			"the books differ on 1 request"},
		"a purchase is there twice": {func(e *PurchaseEvidence) { e.Entries = append(e.Entries, e.Entries[1]) },
			"ledger, entries says 300 tokens credited"},
		"ClickHouse lost a sum":    {func(e *PurchaseEvidence) { e.Total.Tokens = 80 }, "ClickHouse says 80 tokens spent"},
		"ClickHouse lost an event": {func(e *PurchaseEvidence) { delete(e.Events, id1) }, "the books differ on 1 request"},
		"an event is there twice": {func(e *PurchaseEvidence) { e.Events[id1] = Event{Charged: 80, Times: 2} },
			"the books differ on 1 request"},
		"the stub served more": {func(e *PurchaseEvidence) { e.Served[id1] = Served{20, 61, 1} }, "the books differ on 1 request"},
		"a charge differs":     {func(e *PurchaseEvidence) { e.Charges[id3] = Charge{Settled, 120, 29} }, "the books differ on 1 request"},
		"nothing was admitted": {func(e *PurchaseEvidence) { e.Calls = e.Calls[1:2] }, "nothing was admitted"},
		"told to try again":    {func(e *PurchaseEvidence) { e.Dry.MayRetry = true }, "x-should-retry true; want"},
		"another code": {func(e *PurchaseEvidence) { e.Dry.Code = "rate_limit_exceeded" },
			"want 429 insufficient_quota / credit_balance_exhausted"},
		"paid twice":              {func(e *PurchaseEvidence) { *e.Captured = 3 }, "captured 3 minor units, and the purchases cost 2"},
		"another price":           {func(e *PurchaseEvidence) { e.Price = 20_000 }, "purchase p1 cost 1 minor units, and 2 is right"},
		"the second has no entry": {func(e *PurchaseEvidence) { e.Entries[1].Reference = "p3" }, "no entry for purchase p2"},
		"the ledger does not balance": {func(e *PurchaseEvidence) { e.Ledger = LedgerProof{Differences: []string{"unit x"}} },
			"does not balance: [unit x]"},
		"a book is shut":    {func(e *PurchaseEvidence) { e.Unread = []string{"status 503"} }, "could not be read: status 503"},
		"one purchase only": {func(e *PurchaseEvidence) { e.Purchases = e.Purchases[:1] }, "want two purchases"},
		"more spent than bought": {func(e *PurchaseEvidence) {
			e.Purchases[0].Tokens, e.Purchases[1].Tokens = 50, 50
		}, "10 more tokens were spent than bought"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := shopped()
			test.spoil(&e)
			v := JudgePurchases(e)
			if got := strings.Join(v.Reasons, "\n"); v.OK || !strings.Contains(got, test.reason) {
				t.Errorf("want reason %q, got OK %v\n%s", test.reason, v.OK, got)
			}
			var text strings.Builder
			if err := v.Print(&text); err != nil || !strings.Contains(text.String(), "NOT OK") {
				t.Errorf("%v\n%s", err, text.String())
			}
		})
	}
}
