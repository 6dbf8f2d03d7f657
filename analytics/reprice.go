package analytics

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
)

// repriceBatch is how many corrections are booked at once.
const repriceBatch = 5000

// Repriced is what a list changes for the calls of one model.
type Repriced struct {
	Provider string `json:"provider"`
	Model    string `json:"model"`
	Calls    int64  `json:"calls"`
	Micros   int64  `json:"differenceMicros"`
	Unpriced int64  `json:"unpricedTokens"` // that get a price by it
}

// Reprice finds what the calls of a filter would have cost by a list, and books the differences to
// what the books say now, unless dry. No row of a call changes: a correction is a row of its own,
// with a cost and no tokens, the list and who booked it. Booked twice it is the same, since the
// second time there is no difference. Calls that the list has no price for stay as they are.
func (s *Store) Reprice(ctx context.Context, f Filter, list *prices.Table, by string, dry bool) ([]Repriced, error) {
	booked, err := s.corrections(ctx, f)
	if err != nil {
		return nil, err
	}
	sums := map[[2]string]*Repriced{}
	var rows []Row
	book := func() error {
		if dry || len(rows) == 0 {
			return nil
		}
		err := s.Insert(ctx, token("reprice", rows), rows)
		rows = rows[:0]
		return err
	}
	for call, err := range s.Export(ctx, f) {
		if err != nil {
			return nil, fmt.Errorf("read calls to reprice: %w", err)
		}
		row, changed, err := correction(call, booked[call.RequestID], list, by)
		if err != nil {
			return nil, err
		}
		if !changed {
			continue
		}
		name := [2]string{call.Provider, call.ModelAsked}
		if sums[name] == nil {
			sums[name] = &Repriced{Provider: call.Provider, Model: call.ModelAsked}
		}
		sums[name].Calls++
		sums[name].Micros += row.CostMicros
		sums[name].Unpriced += row.Repriced
		if rows = append(rows, row); len(rows) == repriceBatch {
			if err := book(); err != nil {
				return nil, err
			}
		}
	}
	if err := book(); err != nil {
		return nil, err
	}
	answer := []Repriced{}
	for _, one := range sums {
		answer = append(answer, *one)
	}
	slices.SortFunc(answer, func(a, b Repriced) int { return strings.Compare(a.Provider+"/"+a.Model, b.Provider+"/"+b.Model) })
	return answer, nil
}

// corrected is what earlier repricings booked for one call.
type corrected struct {
	micros int64
	times  int64
}

// repriceMark stands between the id of a call and the number of the correction.
const repriceMark = "~reprice~"

// correction is the row that moves a call's cost to what a list says.
func correction(call Row, before corrected, list *prices.Table, by string) (row Row, changed bool, err error) {
	priced := call.Event
	if list.Freeze(&priced); priced.PriceVersion == "" {
		return Row{}, false, nil
	}
	if call.Currency != "" && call.Currency != priced.Currency {
		return Row{}, false, fmt.Errorf("call %s is booked in %s and the list is in %s; costs are not converted", call.RequestID, call.Currency,
			priced.Currency)
	}
	first := call.PriceVersion == "" && before.times == 0 // it was unpriced
	difference := priced.CostMicros - call.CostMicros - before.micros
	if difference == 0 && !first {
		return Row{}, false, nil
	}
	row = call
	row.Entry, row.Version, row.Seq = entryReprice, 0, 0
	row.RequestID = fmt.Sprintf("%s%s%d", call.RequestID, repriceMark, before.times+1)
	row.PriceVersion, row.CostMicros, row.Currency = priced.PriceVersion, difference, priced.Currency
	row.Reason, row.Source, row.Pool = "repriced by "+by, "", ""
	row.Input, row.Output, row.Cached, row.CacheWrite5m, row.CacheWrite1h, row.ToolInput = 0, 0, 0, 0, 0, 0
	row.Reasoning, row.Audio, row.AudioOutput, row.Held, row.Charged, row.Skipped = 0, 0, 0, 0, 0, 0
	if first && call.Allowed {
		row.Repriced = call.Charged
	}
	return row, true, nil
}

// corrections are what is booked for the calls of a filter beside their own rows.
func (s *Store) corrections(ctx context.Context, f Filter) (map[string]corrected, error) {
	if !s.ready.Load() {
		return nil, errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	where, args := f.where()
	found, err := s.conn.Query(ctx, `SELECT splitByString('`+repriceMark+`', request_id)[1] AS call, sum(cost_micros), toInt64(count())
		FROM usage FINAL WHERE entry = '`+entryReprice+`' AND `+where+` GROUP BY call`+settings, args...)
	if err != nil {
		return nil, fmt.Errorf("query corrections: %w", err)
	}
	defer found.Close()
	booked := map[string]corrected{}
	for found.Next() {
		var id string
		var c corrected
		if err := found.Scan(&id, &c.micros, &c.times); err != nil {
			return nil, fmt.Errorf("scan correction: %w", err)
		}
		booked[id] = c
	}
	return booked, found.Err()
}
