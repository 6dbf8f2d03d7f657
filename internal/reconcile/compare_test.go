package reconcile_test

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
)

func TestWhatIsNoFault(t *testing.T) {
	t.Parallel()
	call := reconcile.Call{Account: "user:a", Provider: "openai", Tokens: 10, Input: 4, Output: 6, Rows: 1, Allowed: true, Drawn: true}
	change := func(f func(*reconcile.Call)) map[string]reconcile.Call {
		c := call
		f(&c)
		return map[string]reconcile.Call{"r": c}
	}
	same := change(func(*reconcile.Call) {})
	corrected := change(func(c *reconcile.Call) { c.Version, c.Tokens = 1, 8 })
	for name, b := range map[string]reconcile.Books{
		"nothing at all":                {},
		"books that were not read":      {Events: same},
		"a call whose pool nobody knew": {Events: change(func(c *reconcile.Call) { c.Drawn = false }), Entries: map[string]reconcile.Entry{}},
		"a call that was corrected":     {Events: corrected, Calls: corrected, Entries: map[string]reconcile.Entry{"r": {Account: "user:a", Provider: "openai", Tokens: 8}}, Settled: map[string]reconcile.Settled{"r": {Charged: 8}}},
		"an entry from before costs": {Events: change(func(c *reconcile.Call) { c.CostMicros, c.PriceVersion, c.Currency = 5, "list-1", "USD" }),
			Entries: map[string]reconcile.Entry{"r": {Account: "user:a", Provider: "openai", Tokens: 10}}},
		"a free call that drew":           {Events: change(func(c *reconcile.Call) { c.Tokens = 0 }), Entries: map[string]reconcile.Entry{}},
		"a call that runs":                {Events: map[string]reconcile.Call{}, Holds: []reconcile.Hold{{RequestID: "r"}}, Served: map[string]reconcile.Served{"r": {Input: 1, Times: 1, Whole: true}}},
		"an answer that was cut":          {Events: change(func(c *reconcile.Call) { c.Told = true }), Served: map[string]reconcile.Served{"r": {Input: 4, Output: 9, Times: 1}}},
		"an estimate":                     {Events: same, Served: map[string]reconcile.Served{"r": {Input: 4, Output: 9, Times: 1, Whole: true}}},
		"a provider that was asked again": {Events: change(func(c *reconcile.Call) { c.Told = true }), Served: map[string]reconcile.Served{"r": {Input: 8, Output: 12, Times: 2, Whole: true}}},
		"a pool that Redis has not":       {Events: same, Pools: map[reconcile.PoolKey]reconcile.Pool{{Account: "user:a", Provider: "openai"}: {Ledger: 5, InLedger: true}}},
	} {
		if r := reconcile.Compare(b); !r.Clean {
			t.Errorf("%s: want nothing found, got %+v", name, r.Findings)
		}
	}
}

func TestFaultsOfBooksThatNoCallExplains(t *testing.T) {
	t.Parallel()
	call := reconcile.Call{Account: "user:a", Provider: "openai", Tokens: 10, Rows: 1, Allowed: true, Drawn: true}
	priced := call
	priced.CostMicros, priced.WantMicros, priced.PriceVersion, priced.Currency = 5, 5, "list-1", "USD"
	entryAt := func(micros int64, list string) map[string]reconcile.Entry {
		return map[string]reconcile.Entry{"r": {Account: "user:a", Provider: "openai", Tokens: 10, CostMicros: micros, PriceVersion: list,
			Currency: "USD", Costed: true}}
	}
	pool := map[reconcile.PoolKey]reconcile.Pool{{Account: "user:a", Provider: "openai"}: {Redis: 90, InRedis: true, Ledger: 100, InLedger: true}}
	for name, tc := range map[string]struct {
		books reconcile.Books
		fault reconcile.Fault
		id    string
	}{
		"a pool's drift that one call explains": {reconcile.Books{Events: map[string]reconcile.Call{"r": call}, Pools: pool}, reconcile.RedisDrift, "r"},
		"a pool's drift that two calls could":   {reconcile.Books{Events: map[string]reconcile.Call{"r": call, "s": call}, Pools: pool}, reconcile.RedisDrift, ""},
		"an entry of no call":                   {reconcile.Books{Events: map[string]reconcile.Call{}, Entries: map[string]reconcile.Entry{"r": {Account: "user:a", Tokens: 3}}}, reconcile.Lost, "r"},
		"a row of no event":                     {reconcile.Books{Events: map[string]reconcile.Call{}, Calls: map[string]reconcile.Call{"r": call}}, reconcile.Lost, "r"},
		"an answer of no call":                  {reconcile.Books{Events: map[string]reconcile.Call{}, Served: map[string]reconcile.Served{"r": {Input: 3, Times: 1}}}, reconcile.Lost, "r"},
		"a hold that outlived its end":          {reconcile.Books{Holds: []reconcile.Hold{{RequestID: "r", Overdue: 1}}}, reconcile.OrphanHold, "r"},
		"an entry on another account":           {reconcile.Books{Events: map[string]reconcile.Call{"r": call}, Entries: map[string]reconcile.Entry{"r": {Account: "user:b", Provider: "openai", Tokens: 10}}}, reconcile.WrongAccount, "r"},
		"an entry of another amount":            {reconcile.Books{Events: map[string]reconcile.Call{"r": call}, Entries: map[string]reconcile.Entry{"r": {Account: "user:a", Provider: "openai", Tokens: 9}}}, reconcile.LedgerGap, "r"},
		"an entry of another cost":              {reconcile.Books{Events: map[string]reconcile.Call{"r": priced}, Entries: entryAt(7, "list-1")}, reconcile.WrongPrice, "r"},
		"an entry of another list":              {reconcile.Books{Events: map[string]reconcile.Call{"r": priced}, Entries: entryAt(5, "list-0")}, reconcile.WrongPrice, "r"},
		"a cost that its own list makes other":  {reconcile.Books{Calls: map[string]reconcile.Call{"r": {Account: "user:a", CostMicros: 5, WantMicros: 6, PriceVersion: "7", Rows: 1}}}, reconcile.WrongPrice, "r"},
	} {
		r := reconcile.Compare(tc.books)
		if len(r.Findings) != 1 || r.Findings[0].Fault != tc.fault || r.Findings[0].RequestID != tc.id || r.Counts[tc.fault] != 1 || r.Clean {
			t.Errorf("%s: want %s of %q, got %+v", name, tc.fault, tc.id, r.Findings)
		}
	}
}
