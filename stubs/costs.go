package stubs

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// costKey is a line of the bill: a day in UTC and a model.
type costKey struct {
	day   time.Time
	model string
}

type costSum struct {
	requests, input, output, micros int64
	currency                        string
}

// getCosts answers a bill as a provider's export has it, a line for each day (UTC) and model: what was
// served, also to readers who left, and what that costs where the stub has prices.
func (s *Server) getCosts(w http.ResponseWriter, _ *http.Request) error {
	sums := map[costKey]costSum{}
	for _, served := range s.recorder.list("", 0, s.recorder.keep) {
		if served.Input+served.Output == 0 {
			continue
		}
		key := costKey{served.Time.Truncate(24 * time.Hour), served.Model}
		sum := sums[key]
		sum.requests++
		sum.input += int64(served.Input)
		sum.output += int64(served.Output)
		event := usage.Event{Provider: string(s.cfg.Flavour), ModelServed: served.Model, ModelAsked: served.Model, Input: int64(served.Input),
			Output: int64(served.Output), Allowed: true, Timestamp: served.Time}
		if s.cfg.Prices.Freeze(&event); event.PriceVersion != "" {
			sum.micros += event.CostMicros
			sum.currency = event.Currency
		}
		sums[key] = sum
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	lines := csv.NewWriter(w)
	_ = lines.Write([]string{"start_time_iso", "end_time_iso", "model", "num_model_requests", "input_tokens", "output_tokens", "amount_value",
		"amount_currency"})
	n := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, key := range slices.SortedFunc(maps.Keys(sums), func(a, b costKey) int {
		return cmp.Or(a.day.Compare(b.day), cmp.Compare(a.model, b.model))
	}) {
		sum, amount := sums[key], ""
		if sum.currency != "" {
			amount = fmt.Sprintf("%d.%06d", sum.micros/1_000_000, sum.micros%1_000_000)
		}
		_ = lines.Write([]string{key.day.Format(time.RFC3339), key.day.AddDate(0, 0, 1).Format(time.RFC3339), key.model, n(sum.requests),
			n(sum.input), n(sum.output), amount, sum.currency})
	}
	lines.Flush() // an error means that the reader went away
	return nil
}
