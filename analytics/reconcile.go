package analytics

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
)

// Booked implements reconcile.EventStore.
func (s *Store) Booked(ctx context.Context, from, to time.Time) iter.Seq2[usage.Event, error] {
	return func(yield func(usage.Event, error) bool) {
		for row, err := range s.Export(ctx, Filter{From: from, To: to}) {
			if !yield(row.Event, err) || err != nil {
				return
			}
		}
	}
}

// UsedByDay sums up a provider's calls by day in UTC and model, for comparing with its bill. Prices
// that were corrected count as corrected.
func (s *Store) UsedByDay(ctx context.Context, provider string, from, to time.Time) (map[reconcile.BillKey]reconcile.Used, error) {
	if !s.ready.Load() {
		return nil, errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	where, args := Filter{Provider: provider, From: from, To: to}.where()
	const guessed = "entry = 'call' AND source IN ('estimated', 'held', 'expired', 'released')"
	found, err := s.conn.Query(ctx, `SELECT toString(toDate(timestamp)) AS day, `+model+` AS name, toInt64(countIf(entry = 'call' AND allowed)),
		sumIf(input_tokens, allowed), sumIf(output_tokens, allowed), sumMap(map(toString(currency), cost_micros)), sum(unpriced_tokens),
		toInt64(countIf(`+guessed+`)), sumIf(greatest(held_tokens, tokens), `+guessed+`), sumIf(attempts - 1, attempts > 1),
		sumIf(tokens * (attempts - 1), attempts > 1)
		FROM usage FINAL WHERE `+where+` GROUP BY day, name`+settings, args...)
	if err != nil {
		return nil, fmt.Errorf("query days: %w", err)
	}
	defer found.Close()
	days := map[reconcile.BillKey]reconcile.Used{}
	for found.Next() {
		var key reconcile.BillKey
		var u reconcile.Used
		if err := found.Scan(&key.Day, &key.Model, &u.Requests, &u.Input, &u.Output, &u.Costs, &u.Unpriced, &u.Guessed, &u.GuessedTokens,
			&u.Retries, &u.RetriedTokens); err != nil {
			return nil, fmt.Errorf("scan day: %w", err)
		}
		delete(u.Costs, "")
		days[key] = u
	}
	return days, found.Err()
}
