package analytics

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Sums are exact sums over calls. Tokens are what was charged, costs are millionths of a currency.
type Sums struct {
	Events       int64            `json:"totalEvents"`
	Allowed      int64            `json:"allowedEvents"`
	Tokens       int64            `json:"totalTokens"`
	Consumed     int64            `json:"consumedTokens"` // of allowed calls
	Input        int64            `json:"inputTokens"`
	Output       int64            `json:"outputTokens"`
	Cached       int64            `json:"cachedTokens"`
	CacheWrite5m int64            `json:"cacheWrite5mTokens"`
	CacheWrite1h int64            `json:"cacheWrite1hTokens"`
	Reasoning    int64            `json:"reasoningTokens"`
	Audio        int64            `json:"audioTokens"`
	AudioOutput  int64            `json:"audioOutputTokens"`
	Estimated    int64            `json:"estimatedTokens"` // of Tokens: not by a provider's count
	Unpriced     int64            `json:"unpricedTokens"`  // of Consumed: no price is known
	Costs        map[string]int64 `json:"costMicros"`      // by currency
}

// aggregates are the columns of Sums in SQL over a relation, in the order of into. Rows of a repricing
// have a cost and no tokens, and are no events.
const aggregates = `sum(events), sumIf(events, allowed), sum(tokens) AS total_tokens,
	sumIf(tokens, allowed), sum(input_tokens), sum(output_tokens), sum(cached_tokens), sum(cache_write_5m_tokens), sum(cache_write_1h_tokens),
	sum(reasoning_tokens), sum(audio_tokens), sum(audio_output_tokens), sumIf(tokens, source IN ('estimated', 'expired', 'held')),
	sum(unpriced_tokens), sumMap(map(toString(currency), cost_micros))`

// into are the places for aggregates.
func (s *Sums) into() []any {
	return []any{&s.Events, &s.Allowed, &s.Tokens, &s.Consumed, &s.Input, &s.Output, &s.Cached, &s.CacheWrite5m, &s.CacheWrite1h,
		&s.Reasoning, &s.Audio, &s.AudioOutput, &s.Estimated, &s.Unpriced, &s.Costs}
}

// tidy leaves currencies without a name, which are those of unpriced calls, out.
func (s *Sums) tidy() {
	if s.Costs == nil {
		s.Costs = map[string]int64{}
	}
	delete(s.Costs, "")
}

// Group is what the calls of one combination of dimensions sum up to.
type Group struct {
	Key  []string // values of the dimensions, in the order asked
	Sums Sums
}

// Grouped is an answer by groups. The total is over all calls of the filter, however few groups are
// listed.
type Grouped struct {
	Total  Sums
	Groups []Group // by tokens, largest first, then by key
	Count  int64   // of groups in all
}

// Group sums up the filter as a whole and by expressions of SQL, which are ours and never a
// caller's; at most most groups are listed. It is one query, so that the sums and the list are of
// one moment. With byKey the groups are in the order of their keys.
func (s *Store) Group(ctx context.Context, f Filter, by []string, most int, byKey bool) (Grouped, error) {
	return s.group(ctx, f, by, nil, most, byKey)
}

// group is Group; with cuts the last key is the one of these moments that a call is at or after.
func (s *Store) group(ctx context.Context, f Filter, by []string, cuts []time.Time, most int, byKey bool) (Grouped, error) {
	if !s.ready.Load() {
		return Grouped{}, errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	names := make([]string, len(by))
	keys := make([]string, len(by))
	for i, expression := range by {
		names[i] = fmt.Sprintf("g%d", i)
		keys[i] = fmt.Sprintf("toString(%s) AS g%d", expression, i)
	}
	whole := "(%s)"
	if len(cuts) > 0 { // once for all parts of the relation: there may be thousands
		names, keys = append(names, "g_cut"), append(keys, "timestamp AS at")
		whole = "(SELECT *, toString(roundDown(toInt64(toUnixTimestamp(at)), CAST([" + seconds(cuts) + "], 'Array(Int64)'))) AS g_cut FROM (%s))"
	}
	list := strings.Join(names, ", ")
	order := "total_tokens DESC, " + list
	if byKey {
		order = list
	}
	from, args, err := s.relation(ctx, f, by, keys, cuts)
	if err != nil {
		return Grouped{}, err
	}
	found, err := s.conn.Query(ctx, `SELECT `+list+`, toInt64(uniqExact(tuple(`+list+`))), grouping(`+names[0]+`) AS is_total, `+aggregates+`
		FROM `+fmt.Sprintf(whole, from)+`
		GROUP BY GROUPING SETS ((`+list+`), ()) ORDER BY is_total DESC, `+order+fmt.Sprintf(" LIMIT %d", most+1)+settings, args...)
	if err != nil {
		return Grouped{}, fmt.Errorf("query groups: %w", err)
	}
	defer found.Close()
	answer := Grouped{Total: Sums{Costs: map[string]int64{}}}
	for found.Next() {
		g, count, isTotal := Group{Key: make([]string, len(names))}, int64(0), uint64(0)
		into := make([]any, 0, len(names)+2+len(g.Sums.into()))
		for i := range g.Key {
			into = append(into, &g.Key[i])
		}
		if err := found.Scan(append(append(into, &count, &isTotal), g.Sums.into()...)...); err != nil {
			return Grouped{}, fmt.Errorf("scan group: %w", err)
		}
		g.Sums.tidy()
		if isTotal == 1 {
			answer.Total, answer.Count = g.Sums, count
			continue
		}
		answer.Groups = append(answer.Groups, g)
	}
	if err := found.Err(); err != nil {
		return Grouped{}, fmt.Errorf("read groups: %w", err)
	}
	return answer, nil
}

// Buckets sums up [starts[i], starts[i+1]) for each i, as far as the filter reaches, and everything.
// The bounds are counted out here and not by the engine, so that both have one calendar.
func (s *Store) Buckets(ctx context.Context, f Filter, starts []time.Time) (total Sums, buckets []Sums, err error) {
	n := len(starts) - 1
	found, err := s.group(ctx, f, nil, starts[:n], n, true)
	if err != nil {
		return Sums{}, nil, err
	}
	buckets = make([]Sums, n)
	for i := range buckets {
		buckets[i].tidy()
	}
	for _, g := range found.Groups {
		unix, err := strconv.ParseInt(g.Key[0], 10, 64)
		if err != nil {
			return Sums{}, nil, fmt.Errorf("read bucket: %w", err)
		}
		if i := index(starts, unix); i >= 0 {
			buckets[i] = g.Sums
		}
	}
	return found.Total, buckets, nil
}
