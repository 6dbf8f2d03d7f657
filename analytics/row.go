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
	Seq uint64 // sequence number in the JetStream stream, from 1
}

// mostTokens is the largest count an event may state: above it a JSON number is no
// longer exact, and a sum of many could overflow.
const mostTokens = 1 << 53

// newRow checks what the table cannot hold. A message that fails is poison: it would
// fail forever, and block everything behind it.
func newRow(e usage.Event, seq uint64) (Row, error) {
	e.Timestamp = e.Timestamp.UTC().Truncate(time.Millisecond)
	switch {
	case e.Timestamp.Year() < 2000 || e.Timestamp.Year() >= 2200:
		return Row{}, fmt.Errorf("%w: timestamp %s", usage.ErrMalformed, e.Timestamp)
	case max(e.Input, e.Output, e.Cached, e.Reasoning, e.Held, e.Charged) > mostTokens:
		return Row{}, fmt.Errorf("%w: more than 2^53 tokens", usage.ErrMalformed)
	case e.Status < 0 || e.Status > math.MaxInt32:
		return Row{}, fmt.Errorf("%w: status %d", usage.ErrMalformed, e.Status)
	}
	return Row{Event: e, Seq: seq}, nil
}

// column is one column of usage_events that an insert fills or a query reads.
type column struct {
	name, kind string
	value      func(*Row) any // for an insert
	into       func(*Row) any // for a scan; nil: not read back
}

// columns lists what is inserted, in order. Stating names and types spares a DESCRIBE
// TABLE before every batch.
func columns() []column {
	const text, low, count = "String", "LowCardinality(String)", "Int64"
	return []column{
		{"request_id", text, func(r *Row) any { return r.RequestID }, func(r *Row) any { return &r.RequestID }},
		{"user_id", text, func(r *Row) any { return r.UserID }, func(r *Row) any { return &r.UserID }},
		{"org_id", text, func(r *Row) any { return r.OrgID }, func(r *Row) any { return &r.OrgID }},
		{"key_id", text, func(r *Row) any { return r.KeyID }, func(r *Row) any { return &r.KeyID }},
		{"tier", low, func(r *Row) any { return r.Tier }, func(r *Row) any { return &r.Tier }},
		{"account", text, func(r *Row) any { return r.Account }, func(r *Row) any { return &r.Account }},
		{"route", low, func(r *Row) any { return r.Route }, func(r *Row) any { return &r.Route }},
		{"provider", low, func(r *Row) any { return r.Provider }, func(r *Row) any { return &r.Provider }},
		{"model_asked", low, func(r *Row) any { return r.ModelAsked }, func(r *Row) any { return &r.ModelAsked }},
		{"model_served", low, func(r *Row) any { return r.ModelServed }, func(r *Row) any { return &r.ModelServed }},
		{"input_tokens", count, func(r *Row) any { return r.Input }, func(r *Row) any { return &r.Input }},
		{"output_tokens", count, func(r *Row) any { return r.Output }, func(r *Row) any { return &r.Output }},
		{"cached_tokens", count, func(r *Row) any { return r.Cached }, func(r *Row) any { return &r.Cached }},
		{"reasoning_tokens", count, func(r *Row) any { return r.Reasoning }, func(r *Row) any { return &r.Reasoning }},
		{"held_tokens", count, func(r *Row) any { return r.Held }, func(r *Row) any { return &r.Held }},
		{"tokens", count, func(r *Row) any { return r.Charged }, func(r *Row) any { return &r.Charged }},
		{"source", low, func(r *Row) any { return string(r.Source) }, func(r *Row) any { return (*string)(&r.Source) }},
		{"allowed", "Bool", func(r *Row) any { return r.Allowed }, func(r *Row) any { return &r.Allowed }},
		{"stream", "Bool", func(r *Row) any { return r.Stream }, func(r *Row) any { return &r.Stream }},
		{"status", "Int32", func(r *Row) any { return int32(r.Status) }, nil},
		{"reason", text, func(r *Row) any { return r.Reason }, func(r *Row) any { return &r.Reason }},
		{"latency_ms", count, func(r *Row) any { return r.LatencyMS }, func(r *Row) any { return &r.LatencyMS }},
		{"first_byte_ms", count, func(r *Row) any { return r.FirstByteMS }, func(r *Row) any { return &r.FirstByteMS }},
		{"timestamp", "DateTime64(3, 'UTC')", func(r *Row) any { return r.Timestamp }, func(r *Row) any { return &r.Timestamp }},
		{"precedence", "UInt64", func(r *Row) any { return math.MaxUint64 - r.Seq }, nil},
	}
}

// columnTypes is columns as the driver takes them.
func columnTypes(of []column) []clickhouse.ColumnNameAndType {
	types := make([]clickhouse.ColumnNameAndType, len(of))
	for i, c := range of {
		types[i] = clickhouse.ColumnNameAndType{Name: c.name, Type: c.kind}
	}
	return types
}
