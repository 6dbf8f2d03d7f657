package reconcile

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Billed is what a provider's bill says of one model on one day in UTC.
type Billed struct {
	Requests, Input, Output int64
	Micros                  int64 // millionths of Currency
	Currency                string
}

// BillKey is a line of a bill. Days are those of UTC, as 2026-11-29.
type BillKey struct{ Day, Model string }

// Bill is a provider's file. A column that the file has not is not compared.
type Bill struct {
	Lines                           map[BillKey]Billed
	HasRequests, HasTokens, HasCost bool
}

// Days is the span of the bill, half-open.
func (b Bill) Days() (from, to time.Time) {
	for key := range b.Lines {
		day, _ := time.Parse(time.DateOnly, key.Day) // as ParseBill wrote it
		if from.IsZero() || day.Before(from) {
			from = day
		}
		if next := day.AddDate(0, 0, 1); next.After(to) {
			to = next
		}
	}
	return from, to
}

// Bounds of a bill's file.
const (
	mostBillLines = 1_000_000
	mostBillName  = 256 // bytes of a model's name
	mostBillCount = 1 << 53
)

// billColumns are the names that providers give a column, the first that is there counts. Those of
// OpenAI's exports of usage and of costs come first.
func billColumns() map[string][]string {
	return map[string][]string{
		"day":      {"start_time_iso", "date", "day", "start_time"},
		"model":    {"model", "line_item"},
		"requests": {"num_model_requests", "requests"},
		"input":    {"input_tokens"},
		"output":   {"output_tokens"},
		"amount":   {"amount_value", "cost", "amount"},
		"currency": {"amount_currency", "currency"},
	}
}

// ParseBill reads a provider's CSV: a header, then lines of a day (a date, a time of RFC 3339 or
// seconds of Unix) and a model, with tokens, an amount, or both. Lines of one day and model are
// summed up; columns that are not known are passed over.
func ParseBill(name string, from io.Reader) (Bill, error) {
	lines := csv.NewReader(from)
	header, err := lines.Read()
	if err != nil {
		return Bill{}, fmt.Errorf("%s: no header: %w", name, err)
	}
	at := map[string]int{}
	for what, names := range billColumns() {
		at[what] = slices.IndexFunc(header, func(h string) bool { return slices.Contains(names, clean(h)) })
		for _, n := range slices.Backward(names) {
			if i := slices.IndexFunc(header, func(h string) bool { return clean(h) == n }); i >= 0 {
				at[what] = i
			}
		}
	}
	bill := Bill{Lines: map[BillKey]Billed{}, HasRequests: at["requests"] >= 0, HasTokens: at["input"] >= 0 && at["output"] >= 0,
		HasCost: at["amount"] >= 0}
	if at["day"] < 0 || at["model"] < 0 || !bill.HasTokens && !bill.HasCost {
		return Bill{}, fmt.Errorf("%s: the header needs a day (%s), a model (%s), and input_tokens with output_tokens or an amount (%s)", name,
			strings.Join(billColumns()["day"], ", "), strings.Join(billColumns()["model"], ", "), strings.Join(billColumns()["amount"], ", "))
	}
	for n := 0; ; n++ {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Bill{}, fmt.Errorf("%s: %w", name, err)
		}
		if n == mostBillLines {
			return Bill{}, fmt.Errorf("%s: more than %d lines", name, mostBillLines)
		}
		if err := bill.add(fields, at); err != nil {
			line, _ := lines.FieldPos(0)
			return Bill{}, fmt.Errorf("%s:%d: %w", name, line, err)
		}
	}
	if len(bill.Lines) == 0 {
		return Bill{}, fmt.Errorf("%s: no lines after the header", name)
	}
	return bill, nil
}

// clean takes a byte order mark, space and case off a column's name.
func clean(name string) string {
	return strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))
}

func (b Bill) add(fields []string, at map[string]int) error {
	field := func(what string) string {
		if at[what] < 0 {
			return ""
		}
		return strings.TrimSpace(fields[at[what]])
	}
	day, err := billDay(field("day"))
	if err != nil {
		return err
	}
	model, _, _ := strings.Cut(field("model"), ",") // line items are "gpt-4o, input"
	if model = strings.TrimSpace(model); model == "" || len(model) > mostBillName {
		return fmt.Errorf("column model: a name of 1 to %d bytes is needed", mostBillName)
	}
	key := BillKey{day, model}
	sum := b.Lines[key]
	for what, into := range map[string]*int64{"requests": &sum.Requests, "input": &sum.Input, "output": &sum.Output} {
		text := field(what)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || *into+n > mostBillCount {
			return fmt.Errorf("column %s: %.40q is no count of 0 to 2^53", what, text)
		}
		*into += n
	}
	if text := field("amount"); text != "" {
		micros, err := amount(text)
		if err != nil {
			return err
		}
		sum.Micros += micros
		currency := strings.ToUpper(field("currency"))
		if sum.Currency != "" && currency != "" && currency != sum.Currency {
			return fmt.Errorf("column currency: %.10q after %s for the same day and model", currency, sum.Currency)
		}
		sum.Currency = cmp.Or(currency, sum.Currency)
	}
	b.Lines[key] = sum
	return nil
}

var money = regexp.MustCompile(`^-?[0-9]{1,12}(\.[0-9]{1,30})?$`)

// amount is a decimal in micro-units, rounded.
func amount(text string) (int64, error) {
	if !money.MatchString(text) {
		return 0, fmt.Errorf("column amount: %.40q is no decimal such as 12.50", text)
	}
	value, _ := new(big.Rat).SetString(text)
	value.Mul(value, big.NewRat(1_000_000, 1))
	rounded, _ := new(big.Int).SetString(value.FloatString(0), 10)
	return rounded.Int64(), nil
}

var seconds = regexp.MustCompile(`^[0-9]{9,11}$`)

func billDay(text string) (string, error) {
	if seconds.MatchString(text) {
		n, _ := strconv.ParseInt(text, 10, 64)
		return time.Unix(n, 0).UTC().Format(time.DateOnly), nil
	}
	for _, form := range []string{time.RFC3339, time.DateOnly, time.DateTime} {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC().Format(time.DateOnly), nil
		}
	}
	return "", fmt.Errorf("column day: %.40q is no date; write 2026-11-29, a time of RFC 3339 or seconds of Unix", text)
}

// Used is what our books say of one model on one day.
type Used struct {
	Requests, Input, Output int64 // of allowed calls
	Costs                   map[string]int64
	Unpriced                int64 // tokens without a price
	Guessed                 int64 // calls that nobody told a count of: estimated, held, expired, released
	GuessedTokens           int64 // what those held, which is the most that the provider can have served
	Retries                 int64 // times that the provider was asked again
	RetriedTokens           int64 // of calls that it was asked again for
}

// BillLine is one day and model of a bill beside our books. Differences are the bill's less ours.
type BillLine struct {
	Day      string   `json:"day"`
	Model    string   `json:"model"`
	Requests int64    `json:"requestsDifference"`
	Input    int64    `json:"inputDifference"`
	Output   int64    `json:"outputDifference"`
	Micros   int64    `json:"microsDifference"`
	Currency string   `json:"currency,omitzero"`
	Verdict  string   `json:"verdict"` // equal, explained or off
	Why      []string `json:"why"`
}

// Verdicts of a line.
const (
	BillEqual     = "equal"
	BillExplained = "explained"
	BillOffLine   = "off"
)

// BillReport is a bill beside our books.
type BillReport struct {
	Provider string     `json:"provider"`
	From     time.Time  `json:"from"`
	To       time.Time  `json:"to"`
	Clean    bool       `json:"clean"` // no line is off
	Lines    []BillLine `json:"lines"`
}

// snapshot is the date that providers add to a model's name.
var snapshot = regexp.MustCompile(`-20[0-9]{2}-?[0-9]{2}-?[0-9]{2}$`)

// CompareBill holds a bill against our books, line by line. A model that only one of them names with
// a date is the same one where the names are equal without it.
func CompareBill(provider string, b Bill, used map[BillKey]Used) BillReport {
	r := BillReport{Provider: provider, Clean: true, Lines: []BillLine{}}
	r.From, r.To = b.Days()
	used = b.align(used)
	keys := map[BillKey]struct{}{}
	for key := range b.Lines {
		keys[key] = struct{}{}
	}
	for key, u := range used {
		if u.Requests > 0 || u.Guessed > 0 {
			keys[key] = struct{}{}
		}
	}
	for key := range keys {
		line := b.line(key, used[key])
		r.Clean = r.Clean && line.Verdict != BillOffLine
		r.Lines = append(r.Lines, line)
	}
	slices.SortFunc(r.Lines, func(x, y BillLine) int { return cmp.Or(cmp.Compare(x.Day, y.Day), cmp.Compare(x.Model, y.Model)) })
	return r
}

// align gives what we used the model's names of the bill. Where one line of it stands for all that has
// its name but for the date, it stands for their sum.
func (b Bill) align(used map[BillKey]Used) map[BillKey]Used {
	theirs := map[BillKey][]BillKey{} // lines that we have nothing for, by the name without a date
	for key := range b.Lines {
		if _, same := used[key]; !same {
			base := BillKey{key.Day, snapshot.ReplaceAllString(key.Model, "")}
			theirs[base] = append(theirs[base], key)
		}
	}
	aligned := map[BillKey]Used{}
	for key, u := range used {
		if _, same := b.Lines[key]; !same {
			if lines := theirs[BillKey{key.Day, snapshot.ReplaceAllString(key.Model, "")}]; len(lines) == 1 {
				key = lines[0]
			}
		}
		aligned[key] = aligned[key].plus(u)
	}
	return aligned
}

func (u Used) plus(more Used) Used {
	costs := maps.Clone(more.Costs)
	if costs == nil {
		costs = map[string]int64{}
	}
	for currency, micros := range u.Costs {
		costs[currency] += micros
	}
	return Used{Requests: u.Requests + more.Requests, Input: u.Input + more.Input, Output: u.Output + more.Output, Costs: costs,
		Unpriced: u.Unpriced + more.Unpriced, Guessed: u.Guessed + more.Guessed, GuessedTokens: u.GuessedTokens + more.GuessedTokens,
		Retries: u.Retries + more.Retries, RetriedTokens: u.RetriedTokens + more.RetriedTokens}
}

// line compares one day and model. What calls without a count held, and what those cost that the
// provider was asked for again, bounds how much they can explain.
func (b Bill) line(key BillKey, u Used) BillLine {
	billed, there := b.Lines[key]
	l := BillLine{Day: key.Day, Model: key.Model, Verdict: BillEqual, Why: []string{}}
	if b.HasRequests {
		l.Requests = billed.Requests - u.Requests
	}
	if b.HasTokens {
		l.Input, l.Output = billed.Input-u.Input, billed.Output-u.Output
	}
	if b.HasCost {
		l.Currency = billed.Currency
		if l.Currency == "" && len(u.Costs) == 1 {
			l.Currency = slices.Collect(maps.Keys(u.Costs))[0]
		}
		l.Micros = billed.Micros - u.Costs[l.Currency]
	}
	off := abs(l.Input) + abs(l.Output)
	cents := abs(l.Micros) > u.Requests // each call's cost is rounded to a micro-unit
	if off == 0 && !cents && l.Requests == 0 {
		return l
	}
	l.Verdict = BillOffLine
	if !there {
		l.Why = append(l.Why, "the bill has no such line: another key or another project of the provider, or the day is not over there")
	}
	if there && u.Requests == 0 {
		l.Why = append(l.Why, "our books have no such calls: the provider's key is used beside the gateway")
	}
	if u.Guessed > 0 {
		l.Why = append(l.Why, fmt.Sprintf("%d calls without a count of the provider's (%d tokens at most)", u.Guessed, u.GuessedTokens))
	}
	if u.Retries > 0 {
		l.Why = append(l.Why, fmt.Sprintf("the provider was asked again %d times (%d tokens)", u.Retries, u.RetriedTokens))
	}
	if u.Unpriced > 0 && cents {
		l.Why = append(l.Why, fmt.Sprintf("%d tokens have no price here: leaky prices, leaky reprice", u.Unpriced))
	}
	if off == 0 && cents && u.Unpriced == 0 {
		l.Why = append(l.Why, "tokens are equal and the amount is not: the price list differs from the provider's")
	}
	if there && u.Guessed+u.Retries > 0 && off <= u.GuessedTokens+u.RetriedTokens && (off > 0 || !cents) {
		l.Verdict = BillExplained
	}
	return l
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}
