package analytics

import (
	"fmt"
	"math"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Row is a usage event as it is stored, with its place in the stream.
type Row struct {
	usage.Event
	Seq   uint64 // sequence number in the JetStream stream, from 1
	Entry string // what the row is; empty: a call
	// Repriced are the tokens of a call that was unpriced before a repricing, on its row.
	Repriced int64
}

// What a row is.
const (
	entryCall    = "call"
	entryReprice = "reprice" // moves the cost of a call, see reprice.go
)

const (
	mostVersion  = 1<<16 - 1 // precedence has sixteen bits for it
	mostSequence = 1<<48 - 1
	earliestYear = 2000
	latestAhead  = 24 * time.Hour // of our clock; a call from further ahead never began
)

// newRow checks what the table cannot hold. A message that fails is poison: it would
// fail forever, and block everything behind it.
func newRow(e usage.Event, seq uint64, now time.Time) (Row, error) {
	e.Timestamp = e.Timestamp.UTC().Truncate(time.Millisecond)
	switch {
	case e.Timestamp.Year() < earliestYear || e.Timestamp.After(now.Add(latestAhead)):
		return Row{}, fmt.Errorf("%w: timestamp %s", usage.ErrMalformed, e.Timestamp)
	case e.Status < 0 || e.Status > math.MaxInt32:
		return Row{}, fmt.Errorf("%w: status %d", usage.ErrMalformed, e.Status)
	case e.Version > mostVersion:
		return Row{}, fmt.Errorf("%w: version %d, at most %d", usage.ErrMalformed, e.Version, mostVersion)
	}
	return Row{Event: e, Seq: seq}, nil
}

// precedence says which row of a call stands: the highest version, and of one version the
// earliest in the stream, as in the ledger.
func (r *Row) precedence() uint64 {
	return uint64(r.Version)<<48 | (mostSequence - min(r.Seq, mostSequence))
}

// unpriced are the tokens whose cost nobody knows.
func (r *Row) unpriced() int64 {
	switch {
	case r.entry() == entryReprice:
		return -r.Repriced
	case r.Allowed && r.PriceVersion == "":
		return r.Charged
	}
	return 0
}

// entry is what the row is.
func (r *Row) entry() string {
	if r.Entry == "" {
		return entryCall
	}
	return r.Entry
}

// column is one column of the table that an insert fills or a query reads.
type column struct {
	name, kind string
	value      func(*Row) any // for an insert
	into       func(*Row) any // for a scan; nil: not read back
}

// columns lists what is inserted, in order. Stating names and types spares a DESCRIBE
// TABLE before every batch.
func columns() []column {
	text := func(name, kind string, at func(*Row) *string) column {
		return column{name, kind, func(r *Row) any { return *at(r) }, func(r *Row) any { return at(r) }}
	}
	count := func(name string, at func(*Row) *int64) column {
		return column{name, "Int64", func(r *Row) any { return *at(r) }, func(r *Row) any { return at(r) }}
	}
	const plain, low = "String", "LowCardinality(String)"
	all := []column{
		text("request_id", plain, func(r *Row) *string { return &r.RequestID }),
		{"entry", low, func(r *Row) any { return r.entry() }, func(r *Row) any { return &r.Entry }},
		text("user_id", plain, func(r *Row) *string { return &r.UserID }),
		text("org_id", plain, func(r *Row) *string { return &r.OrgID }),
		text("team", plain, func(r *Row) *string { return &r.Team }),
		text("key_id", plain, func(r *Row) *string { return &r.KeyID }),
		text("tier", low, func(r *Row) *string { return &r.Tier }),
		text("account", plain, func(r *Row) *string { return &r.Account }),
		text("end_user", plain, func(r *Row) *string { return &r.EndUser }),
		text("session", plain, func(r *Row) *string { return &r.Session }),
		{"tags", "Map(LowCardinality(String), String)", func(r *Row) any { return tagsValue(r.Tags) }, func(r *Row) any { return &r.Tags }},
		text("route", low, func(r *Row) *string { return &r.Route }),
		text("provider", low, func(r *Row) *string { return &r.Provider }),
		text("model_asked", low, func(r *Row) *string { return &r.ModelAsked }),
		text("model_served", low, func(r *Row) *string { return &r.ModelServed }),
	}
	return append(all,
		count("input_tokens", func(r *Row) *int64 { return &r.Input }),
		count("output_tokens", func(r *Row) *int64 { return &r.Output }),
		count("cached_tokens", func(r *Row) *int64 { return &r.Cached }),
		count("cache_write_5m_tokens", func(r *Row) *int64 { return &r.CacheWrite5m }),
		count("cache_write_1h_tokens", func(r *Row) *int64 { return &r.CacheWrite1h }),
		count("tool_input_tokens", func(r *Row) *int64 { return &r.ToolInput }),
		count("reasoning_tokens", func(r *Row) *int64 { return &r.Reasoning }),
		count("audio_tokens", func(r *Row) *int64 { return &r.Audio }),
		count("audio_output_tokens", func(r *Row) *int64 { return &r.AudioOutput }),
		count("held_tokens", func(r *Row) *int64 { return &r.Held }),
		count("tokens", func(r *Row) *int64 { return &r.Charged }),
		text("price_version", low, func(r *Row) *string { return &r.PriceVersion }),
		count("cost_micros", func(r *Row) *int64 { return &r.CostMicros }),
		text("currency", low, func(r *Row) *string { return &r.Currency }),
		column{"unpriced_tokens", "Int64", func(r *Row) any { return r.unpriced() }, nil},
		text("source", low, func(r *Row) *string { return (*string)(&r.Source) }),
		text("pool", low, func(r *Row) *string { return (*string)(&r.Pool) }),
		column{"allowed", "Bool", func(r *Row) any { return r.Allowed }, func(r *Row) any { return &r.Allowed }},
		column{"stream", "Bool", func(r *Row) any { return r.Stream }, func(r *Row) any { return &r.Stream }},
		column{"status", "Int32", func(r *Row) any { return int32(r.Status) }, nil},
		text("reason", plain, func(r *Row) *string { return &r.Reason }),
		count("skipped", func(r *Row) *int64 { return &r.Skipped }),
		count("attempts", func(r *Row) *int64 { return &r.Attempts }),
		count("latency_ms", func(r *Row) *int64 { return &r.LatencyMS }),
		count("first_byte_ms", func(r *Row) *int64 { return &r.FirstByteMS }),
		column{"timestamp", "DateTime64(3, 'UTC')", func(r *Row) any { return r.Timestamp }, func(r *Row) any { return &r.Timestamp }},
		column{"version", "UInt32", func(r *Row) any { return uint32(r.Version) }, nil},
		column{"precedence", "UInt64", func(r *Row) any { return r.precedence() }, nil},
	)
}

// tagsValue is what the driver takes for no tags, too.
func tagsValue(tags map[string]string) map[string]string {
	if tags == nil {
		return map[string]string{}
	}
	return tags
}

// columnTypes is columns as the driver takes them.
func columnTypes(of []column) []clickhouse.ColumnNameAndType {
	types := make([]clickhouse.ColumnNameAndType, len(of))
	for i, c := range of {
		types[i] = clickhouse.ColumnNameAndType{Name: c.name, Type: c.kind}
	}
	return types
}
