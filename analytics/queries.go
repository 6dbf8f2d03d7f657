package analytics

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Filter says which events a query covers. Empty members filter nothing.
type Filter struct {
	Provider   string
	UserID     string
	OrgID      string
	Team       string
	KeyID      string
	Account    string
	Tier       string
	Route      string
	Model      string // that answered, or was asked for where none did
	ModelAsked string
	EndUser    string
	Session    string
	RequestID  string
	TagName    string // with TagValue, which may be empty: calls without the tag
	TagValue   string
	From, To   time.Time // half-open [From, To), to the millisecond
}

// model is the SQL of the model that a call is counted under.
const model = "if(model_served != '', model_served, model_asked)"

// where is the filter as SQL; "true" when it filters nothing.
func (f Filter) where() (string, []any) {
	terms, args := []string{"true"}, []any{}
	for _, term := range []struct{ column, value string }{
		{"provider", f.Provider}, {"user_id", f.UserID}, {"org_id", f.OrgID}, {"team", f.Team}, {"key_id", f.KeyID}, {"account", f.Account},
		{"tier", f.Tier}, {"route", f.Route}, {"model_asked", f.ModelAsked}, {model, f.Model},
		{"end_user", f.EndUser}, {"session", f.Session}, {"request_id", f.RequestID},
	} {
		if term.value != "" {
			terms, args = append(terms, term.column+" = ?"), append(args, term.value)
		}
	}
	if f.TagName != "" {
		terms, args = append(terms, "tags[?] = ?"), append(args, f.TagName, f.TagValue)
	}
	// Milliseconds as integers: the driver writes a time.Time to the second only.
	if !f.From.IsZero() {
		terms, args = append(terms, "timestamp >= fromUnixTimestamp64Milli(?, 'UTC')"), append(args, f.From.UnixMilli())
	}
	if !f.To.IsZero() {
		terms, args = append(terms, "timestamp < fromUnixTimestamp64Milli(?, 'UTC')"), append(args, f.To.UnixMilli())
	}
	return strings.Join(terms, " AND "), args
}

// settings lets each day be merged by itself: the partition follows from the sorting
// key, so copies of one event are never in two of them.
const settings = " SETTINGS do_not_merge_across_partitions_select_final = 1"

// Latest are the newest events first, at most limit. Recent days are asked first, so
// that a page of a busy provider does not sort its whole history.
func (s *Store) Latest(ctx context.Context, f Filter, limit int, now time.Time) ([]Row, error) {
	if f.From.IsZero() && f.RequestID == "" {
		recent := f
		recent.From = now.Add(-24 * time.Hour)
		rows, err := s.latest(ctx, recent, limit)
		if err != nil || len(rows) == limit {
			return rows, err
		}
	}
	return s.latest(ctx, f, limit)
}

func (s *Store) latest(ctx context.Context, f Filter, limit int) ([]Row, error) {
	rows := make([]Row, 0, min(limit, 200))
	for row, err := range s.rows(ctx, f, fmt.Sprintf(" ORDER BY timestamp DESC, request_id DESC LIMIT %d", limit)) {
		if err != nil {
			return nil, fmt.Errorf("read latest events: %w", err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Export streams every event of the filter in the order of the table.
func (s *Store) Export(ctx context.Context, f Filter) iter.Seq2[Row, error] {
	return s.rows(ctx, f, "")
}

// InOrder streams every event of the filter in the order in which calls began.
func (s *Store) InOrder(ctx context.Context, f Filter) iter.Seq2[Row, error] {
	return s.rows(ctx, f, " ORDER BY timestamp, request_id")
}

func (s *Store) rows(ctx context.Context, f Filter, tail string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		ctx, cancel := context.WithTimeout(ctx, s.timeout)
		defer cancel()
		if !s.ready.Load() {
			yield(Row{}, errNotReady)
			return
		}
		var names []string
		for _, c := range s.columns {
			if c.into != nil {
				names = append(names, c.name)
			}
		}
		where, args := f.where()
		found, err := s.conn.Query(ctx, "SELECT "+strings.Join(names,
			", ")+", status, version, precedence FROM usage FINAL WHERE entry = 'call' AND "+where+tail+settings, args...)
		if err != nil {
			yield(Row{}, fmt.Errorf("query events: %w", err))
			return
		}
		defer found.Close()
		for found.Next() {
			row, err := s.scan(found)
			if !yield(row, err) || err != nil {
				return
			}
		}
		if err := found.Err(); err != nil {
			yield(Row{}, fmt.Errorf("read events: %w", err))
		}
	}
}

// scan reads one row: the columns that can be read in place, then those that cannot.
func (s *Store) scan(found interface{ Scan(...any) error }) (Row, error) {
	var (
		row        Row
		status     int32
		version    uint32
		precedence uint64
		into       = make([]any, 0, len(s.columns))
	)
	for _, c := range s.columns {
		if c.into != nil {
			into = append(into, c.into(&row))
		}
	}
	if err := found.Scan(append(into, &status, &version, &precedence)...); err != nil {
		return Row{}, fmt.Errorf("scan event: %w", err)
	}
	row.Status, row.Version, row.Seq = int(status), int64(version), mostSequence-precedence&mostSequence
	if len(row.Tags) == 0 {
		row.Tags = nil
	}
	return row, nil
}

// UserTotal is what one user used.
type UserTotal struct {
	UserID      string `json:"userId"`
	TotalTokens int64  `json:"totalTokens"`
	Events      int64  `json:"events"`
}

// Totals are exact sums over a filter, with who used most.
type Totals struct {
	Sums
	Users int64
	Top   []UserTotal // by tokens, largest first, then by id
}

// Totals sums the filter and names the top users.
func (s *Store) Totals(ctx context.Context, f Filter, top int) (Totals, error) {
	found, err := s.Group(ctx, f, []string{"user_id"}, top, false)
	if err != nil {
		return Totals{}, err
	}
	sum := Totals{Sums: found.Total, Users: found.Count}
	for _, g := range found.Groups {
		sum.Top = append(sum.Top, UserTotal{UserID: g.Key[0], TotalTokens: g.Sums.Tokens, Events: g.Sums.Events})
	}
	return sum, nil
}

// Windows sums the charged tokens of [split, f.To) and of [f.From, split).
func (s *Store) Windows(ctx context.Context, f Filter, split time.Time) (current, before int64, err error) {
	now, then := f, f
	now.From, then.To = split, split
	if current, err = s.tokens(ctx, now); err == nil {
		before, err = s.tokens(ctx, then)
	}
	return current, before, err
}

// tokens sums up the charged tokens of a filter.
func (s *Store) tokens(ctx context.Context, f Filter) (sum int64, err error) {
	if !s.ready.Load() {
		return 0, errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	from, args, err := s.relation(ctx, f, nil, nil, nil)
	if err != nil {
		return 0, err
	}
	if err := s.conn.QueryRow(ctx, "SELECT sum(tokens) FROM ("+from+")"+settings, args...).Scan(&sum); err != nil {
		return 0, fmt.Errorf("query tokens: %w", err)
	}
	return sum, nil
}
