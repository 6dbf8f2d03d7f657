package analytics

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// FOCUS 1.2 (FinOps Open Cost and Usage Specification, https://focus.finops.org) is a bill that every
// tool for cloud costs reads: a line for each day, account, team, key, provider and model. What has no
// price is left out, since the format has no way to say so: a header tells how many tokens that are.

// HeaderUnpriced tells on an export in FOCUS how many tokens have no price and so no line.
const HeaderUnpriced = "X-Leaky-Unpriced-Tokens"

const (
	// mostFocus is how many lines a file has.
	mostFocus = 200_000
	// mostFocusDays is how long a time it can be of.
	mostFocusDays = 366
)

// focusColumns are the mandatory columns, and those that say something here.
func focusColumns() []string {
	return []string{"BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd",
		"BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart",
		"ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost",
		"PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ResourceId", "ResourceType",
		"ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SubAccountId", "SubAccountName", "SubAccountType", "Tags"}
}

// focusBy are the dimensions of a line, the day after them.
func focusBy() []string {
	d := dimensions()
	return []string{d["account"], d["team"], d["key"], d["provider"], d["model"]}
}

// focusTime is as the specification writes times: UTC, to the second.
func focusTime(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05Z") }

// focus sums up the days of a filter. Each is one that the filter has whole, or as far as it goes.
func (s *Store) focus(ctx context.Context, f Filter) (Grouped, error) {
	starts := []time.Time{f.From.UTC().Truncate(day)}
	for at := starts[0].Add(day); at.Before(f.To); at = at.Add(day) {
		starts = append(starts, at)
	}
	if len(starts) > mostFocusDays {
		return Grouped{}, bad("%d days, and a file of FOCUS has %d at most; ask for a shorter time", len(starts), mostFocusDays)
	}
	found, err := s.group(ctx, f, focusBy(), starts, mostFocus, true)
	if err == nil && found.Count > mostFocus {
		err = bad("%d lines, and a file of FOCUS has %d at most; ask for a shorter time", found.Count, mostFocus)
	}
	return found, err
}

// writeFocus writes the file. Costs are in units of the currency.
func writeFocus(w io.Writer, found Grouped) error {
	lines := csv.NewWriter(w)
	_ = lines.Write(focusColumns())
	for _, g := range found.Groups {
		account, team, key, provider, model := g.Key[0], g.Key[1], g.Key[2], g.Key[3], g.Key[4]
		unix, err := strconv.ParseInt(g.Key[5], 10, 64)
		if err != nil {
			return fmt.Errorf("read day: %w", err)
		}
		start := time.Unix(unix, 0).UTC()
		month := time.Date(start.Year(), start.Month(), 1, 0, 0, 0, 0, time.UTC)
		tags := map[string]string{}
		if team != "" {
			tags["team"] = team
		}
		tagged, err := json.Marshal(tags)
		if err != nil {
			return fmt.Errorf("encode tags: %w", err)
		}
		for currency, micros := range g.Sums.Costs {
			cost, tokens := decimal(micros), strconv.FormatInt(g.Sums.Consumed-g.Sums.Unpriced, 10)+".0" // a decimal, says the specification
			kind, resource := "", ""
			if key != "" {
				kind, resource = "API key", key
			}
			_ = lines.Write([]string{cost, provider, provider, "Provider", currency, focusTime(month.AddDate(0, 1, 0)), focusTime(month),
				"Usage", "",
				cell("Tokens of " + model + " at " + provider), "Usage-Based", focusTime(start.Add(day)), focusTime(start), tokens, "Tokens", cost, cost, "", provider,
				cost, "Standard", tokens, "Tokens", provider, provider, resource, kind, "AI and Machine Learning",
				provider + " models", "Generative AI", cell(model), account, account, "Account", string(tagged)})
		}
	}
	lines.Flush()
	return lines.Error()
}

// decimal is micro-units in units, exact.
func decimal(micros int64) string {
	sign := ""
	if micros < 0 {
		sign, micros = "-", -micros
	}
	return fmt.Sprintf("%s%d.%06d", sign, micros/1_000_000, micros%1_000_000)
}

// asFocus answers an export in FOCUS.
func (a *API) asFocus(w http.ResponseWriter, r *http.Request, f Filter) error {
	if f.To.IsZero() {
		f.To = time.Now().UTC()
	}
	if !f.From.Before(f.To) {
		return bad("from must be before to")
	}
	found, err := a.cfg.Store.focus(r.Context(), f)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	w.Header().Set(HeaderUnpriced, strconv.FormatInt(found.Total.Unpriced, 10))
	w.WriteHeader(http.StatusOK)
	if writeFocus(w, found) != nil {
		panic(http.ErrAbortHandler) // the reader is gone
	}
	return nil
}

// asParquet answers an export in Parquet.
func (a *API) asParquet(w http.ResponseWriter, r *http.Request, f Filter) error {
	file, err := a.cfg.Store.Parquet(r.Context(), f)
	if err != nil {
		return err
	}
	defer file.Close()
	w.Header().Set("Content-Type", "application/vnd.apache.parquet")
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, file); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}
