package reconcile

import (
	"fmt"
	"maps"
	"slices"
)

// Compare finds what differs.
func Compare(b Books) Report {
	r := Report{Findings: []Finding{}, Unread: []string{}}
	ids := map[string]struct{}{}
	for _, book := range []map[string]Call{b.Events, b.Calls} {
		for id := range book {
			ids[id] = struct{}{}
		}
	}
	r.Calls = len(ids)
	for id := range ids {
		b.call(&r, id)
	}
	b.strangers(&r, ids)
	b.holds(&r)
	b.pools(&r)
	r.Accounts = b.sums()
	r.finish()
	return r
}

// call compares what is said of one call.
func (b *Books) call(r *Report, id string) {
	event, published := b.Events[id]
	row, booked := b.Calls[id]
	said := event
	if !published {
		said = row
	}
	switch {
	case b.Calls != nil && !booked:
		r.add(Lost, id, event, fmt.Sprintf("published with %d tokens, and ClickHouse has no such call", event.Tokens))
	case b.Events != nil && !published:
		r.add(Lost, id, row, "ClickHouse has the call, and the stream has no event of it")
	case published && booked:
		b.rows(r, id, event, row)
	}
	if booked && row.Rows > 1 {
		r.add(Doubled, id, row, fmt.Sprintf("ClickHouse counts the call %d times", row.Rows))
	}
	if booked && row.CostMicros != row.WantMicros {
		r.add(WrongPrice, id, row, fmt.Sprintf("booked at %d micros; list %s makes it %d", row.CostMicros, row.PriceVersion, row.WantMicros))
	}
	b.entry(r, id, said)
	b.settled(r, id, said)
	b.served(r, id, said)
}

// rows compares the event of a call with its row.
func (b *Books) rows(r *Report, id string, event, row Call) {
	if event.Account != row.Account {
		r.add(WrongAccount, id, event, "ClickHouse has it on account "+row.Account)
	}
	if event.PriceVersion != row.PriceVersion || event.CostMicros != row.CostMicros || event.Currency != row.Currency {
		r.add(WrongPrice, id, event, fmt.Sprintf("published as %s, ClickHouse has %s", cost(event), cost(row)))
	}
	if event.Tokens != row.Tokens || event.Input != row.Input || event.Output != row.Output || event.Allowed != row.Allowed {
		r.add(WrongCharge, id, event, fmt.Sprintf("published with %s, ClickHouse has %s", tokens(event), tokens(row)))
	}
}

func cost(c Call) string {
	if c.PriceVersion == "" {
		return "unpriced"
	}
	return fmt.Sprintf("%d micros of %s by list %s", c.CostMicros, c.Currency, c.PriceVersion)
}

func tokens(c Call) string {
	text := fmt.Sprintf("%d tokens (%d in, %d out)", c.Tokens, c.Input, c.Output)
	if !c.Allowed {
		text += ", refused"
	}
	return text
}

// entry compares a call with the ledger. A call whose hold nobody knew may draw on a pool or not;
// the ledger decides, so only its amount can be wrong.
func (b *Books) entry(r *Report, id string, c Call) {
	if b.Entries == nil {
		return
	}
	entry, there := b.Entries[id]
	switch {
	case !there && c.Drawn && c.Tokens > 0:
		r.add(LedgerGap, id, c, fmt.Sprintf("drew %d tokens on its pool, and the ledger has no entry", c.Tokens))
	case !there:
	case entry.Account != c.Account || entry.Provider != c.Provider:
		r.add(WrongAccount, id, c, fmt.Sprintf("the ledger has it on %s of %s", entry.Provider, entry.Account))
	case entry.Tokens != c.Tokens:
		r.add(LedgerGap, id, c, fmt.Sprintf("charged %d tokens, and the ledger has %d", c.Tokens, entry.Tokens))
	case entry.Costed && (entry.PriceVersion != c.PriceVersion || entry.CostMicros != c.CostMicros || entry.Currency != c.Currency):
		r.add(WrongPrice, id, c, fmt.Sprintf("published as %s, the ledger has %s", cost(c),
			cost(Call{CostMicros: entry.CostMicros, PriceVersion: entry.PriceVersion, Currency: entry.Currency})))
	}
}

// settled compares a call with what Redis remembers of its hold.
func (b *Books) settled(r *Report, id string, c Call) {
	if one, known := b.Settled[id]; known && one.Charged != c.Tokens {
		r.add(RedisDrift, id, c, fmt.Sprintf("charged %d tokens, and Redis settled it at %d", c.Tokens, one.Charged))
	}
}

// served compares a call with what a stub gave it, where the stub told it all.
func (b *Books) served(r *Report, id string, c Call) {
	one, known := b.Served[id]
	if !known || !c.Told || !one.Whole || one.Times != 1 || c.Version > 0 {
		return
	}
	if one.Stream && one.Input == c.Input && one.Output > c.Output {
		return // its reader left: it costs what was told until then, and the rest was on its way
	}
	if one.Input != c.Input || one.Output != c.Output {
		r.add(BillOff, id, c, fmt.Sprintf("charged by the provider's count with %d in and %d out, and the stub served %d and %d",
			c.Input, c.Output, one.Input, one.Output))
	}
}

// strangers are calls that no book of events knows.
func (b *Books) strangers(r *Report, known map[string]struct{}) {
	for id, e := range b.Entries {
		if _, ok := known[id]; !ok {
			r.add(Lost, id, Call{Account: e.Account, Provider: e.Provider}, fmt.Sprintf("the ledger charged %d tokens, and no event is of it",
				e.Tokens))
		}
	}
	running := map[string]bool{}
	for _, h := range b.Holds {
		running[h.RequestID] = true
	}
	for id, s := range b.Served {
		if _, ok := known[id]; !ok && !running[id] {
			r.add(Lost, id, Call{Provider: s.Provider}, fmt.Sprintf("the stub served %d tokens, and no event is of it", s.Input+s.Output))
		}
	}
}

// holds finds those that should have ended.
func (b *Books) holds(r *Report) {
	for _, h := range b.Holds {
		c := Call{Account: h.Account, Provider: h.Provider}
		_, published := b.Events[h.RequestID]
		_, booked := b.Calls[h.RequestID]
		switch {
		case published || booked:
			r.add(OrphanHold, h.RequestID, c, fmt.Sprintf("%d tokens are held, and the call is booked", h.Tokens))
		case h.Overdue > b.Grace:
			r.add(OrphanHold, h.RequestID, c, fmt.Sprintf("%d tokens are held %s longer than a hold lives", h.Tokens, h.Overdue))
		}
	}
}

// pools compares balances. Where one call explains the difference, it is named.
func (b *Books) pools(r *Report) {
	for key, p := range b.Pools {
		if !p.InRedis || !p.InLedger || p.Redis == p.Ledger {
			continue
		}
		off := p.Redis - p.Ledger
		id := ""
		for request, c := range b.Events {
			if c.Account == key.Account && c.Provider == key.Provider && c.Drawn && (c.Tokens == off || c.Tokens == -off) {
				if id != "" { // more than one could
					id = ""
					break
				}
				id = request
			}
		}
		r.add(RedisDrift, id, Call{Account: key.Account, Provider: key.Provider},
			fmt.Sprintf("Redis has %d tokens left and the ledger %d", p.Redis, p.Ledger))
	}
}

// sums are those of every account.
func (b *Books) sums() []Sums {
	all := map[string]*Sums{}
	of := func(account string) *Sums {
		if all[account] == nil {
			all[account] = &Sums{Account: account, EventCosts: map[string]int64{}, CallCosts: map[string]int64{},
				DrawnCosts: map[string]int64{}, LedgerCosts: map[string]int64{}}
		}
		return all[account]
	}
	priced := func(costs map[string]int64, currency string, micros int64) {
		if currency != "" {
			costs[currency] += micros
		}
	}
	for id, c := range b.Events {
		s := of(c.Account)
		s.Events++
		s.EventTokens += c.Tokens
		priced(s.EventCosts, c.Currency, c.CostMicros)
		entry, entered := b.Entries[id]
		if c.Drawn || entered {
			s.Drawn += c.Tokens
		}
		if entered && entry.Costed || !entered && c.Drawn && c.Tokens > 0 {
			priced(s.DrawnCosts, c.Currency, c.CostMicros)
		}
	}
	for _, c := range b.Calls {
		s := of(c.Account)
		s.Calls += int64(max(c.Rows, 1))
		s.CallTokens += c.Tokens * int64(max(c.Rows, 1))
		priced(s.CallCosts, c.Currency, c.CostMicros)
	}
	for _, e := range b.Entries {
		s := of(e.Account)
		s.Ledger += e.Tokens
		if e.Costed {
			priced(s.LedgerCosts, e.Currency, e.CostMicros)
		}
	}
	sums := make([]Sums, 0, len(all))
	for _, account := range slices.Sorted(maps.Keys(all)) {
		s := all[account]
		s.Differs = b.Events != nil && b.Calls != nil && (s.Events != s.Calls || s.EventTokens != s.CallTokens ||
			!maps.Equal(s.EventCosts, s.CallCosts)) || b.Events != nil && b.Entries != nil &&
			(s.Drawn != s.Ledger || !maps.Equal(s.DrawnCosts, s.LedgerCosts))
		sums = append(sums, *s)
	}
	return sums
}
