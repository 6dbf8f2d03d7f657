package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
)

type pricesCommand struct {
	List  pricesList  `cmd:"" help:"List what models cost, for a million tokens of each kind."`
	Check pricesCheck `cmd:"" help:"Validate a price list, and name configured models that have no price."`
}

// priceLine is a price as it is printed; rates are units of the currency for a million tokens.
type priceLine struct {
	Provider   string            `json:"provider"`
	Model      string            `json:"model"`
	From       string            `json:"from"`
	To         string            `json:"to,omitzero"`
	PerMillion map[string]string `json:"perMillion"`
	Source     string            `json:"source,omitzero"`
}

func newPriceLine(e prices.Entry) priceLine {
	line := priceLine{Provider: e.Provider, Model: e.Model, From: day(e.From), To: day(e.To), PerMillion: map[string]string{},
		Source: e.Source}
	for kind, rate := range e.Rates {
		line.PerMillion[string(kind)] = rate.String()
	}
	return line
}

// day is a date, or the whole time where it does not begin one; empty for none.
func day(at time.Time) string {
	switch {
	case at.IsZero():
		return ""
	case at.Equal(at.Truncate(24 * time.Hour)):
		return at.Format(time.DateOnly)
	}
	return at.Format(time.RFC3339)
}

type pricesList struct {
	output
	Model string `help:"Only what this model costs." placeholder:"MODEL"`
	At    string `help:"Only what holds on this day; all that ever did or will when not given." placeholder:"YYYY-MM-DD"`
}

// Help shows how it is used.
func (pricesList) Help() string {
	return `The list is that of prices.file in leaky.yaml, or the built-in one. Kinds that an entry leaves out cost what input or output does.

Examples:

    leaky prices list
    leaky prices list --model gpt-4o --at 2026-11-15
    leaky prices list -o json | jq '.prices[] | select(.provider == "qwen")'`
}

// Run prints the list.
func (l pricesList) Run(c *cli) error {
	table, err := openPrices(c)
	if err != nil {
		return err
	}
	var at time.Time
	if l.At != "" {
		if at, err = time.Parse(time.DateOnly, l.At); err != nil {
			return fmt.Errorf("--at %s is no day; write 2026-11-15", l.At)
		}
	}
	lines, rows := []priceLine{}, [][]string{}
	for _, e := range table.Entries {
		if l.Model != "" && !strings.EqualFold(l.Model, e.Model) ||
			!at.IsZero() && (at.Before(e.From) || !e.To.IsZero() && !at.Before(e.To)) {
			continue
		}
		line := newPriceLine(e)
		lines = append(lines, line)
		var rates []string
		for _, kind := range prices.Kinds() {
			if rate, stated := line.PerMillion[string(kind)]; stated {
				rates = append(rates, string(kind)+" "+rate)
			}
		}
		rows = append(rows, []string{line.Provider, line.Model, line.From, line.To, strings.Join(rates, ", "), line.Source})
	}
	page := struct {
		Version  string      `json:"version"`
		Currency string      `json:"currency"`
		Prices   []priceLine `json:"prices"`
	}{table.Version, table.Currency, lines}
	if l.Output != "json" {
		fmt.Printf("List %s, %s for a million tokens\n\n", table.Version, table.Currency)
	}
	return l.print(os.Stdout, page, []string{"PROVIDER", "MODEL", "FROM", "UNTIL", "PRICES", "SOURCE"}, rows)
}

type pricesCheck struct {
	File   string `arg:"" optional:"" help:"prices.yaml to check; that of leaky.yaml or the built-in one when not given."`
	Output string `short:"o" enum:"text,json" default:"text" help:"Format of what is said of a valid list: ${enum}."`
}

// Help shows how it is used.
func (pricesCheck) Help() string {
	return `Prints every mistake with its line. Exit code 1 if there is one. Gaps between prices of one model and configured models without a price are warnings: their calls are unpriced.

Examples:

    leaky prices check
    leaky prices check prices.yaml -o json`
}

// Run validates the list.
func (k pricesCheck) Run(c *cli) error {
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	path := k.File
	if path == "" {
		path = l.besideConfig(l.cfg.Prices.File)
	}
	table, err := prices.Load(path)
	if err != nil {
		return err
	}
	warnings := []string{}
	for _, gap := range table.Gaps() {
		warnings = append(warnings, fmt.Sprintf("%s of %s has no price from %s until %s", gap.Model, gap.Provider, day(gap.From), day(gap.To)))
	}
	now := time.Now()
	for _, m := range l.cfg.Models {
		if table.Find(m.Provider, m.Name, now) == nil {
			warnings = append(warnings, fmt.Sprintf("model %s of %s has no price now; its calls are unpriced", m.Name, m.Provider))
		}
	}
	if k.Output == "json" {
		return printJSON(os.Stdout, map[string]any{"file": path, "version": table.Version, "currency": table.Currency,
			"prices":   len(table.Entries),
			"warnings": warnings})
	}
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	fmt.Printf("list %s is valid: %d prices in %s\n", table.Version, len(table.Entries), table.Currency)
	return nil
}

// openPrices reads the list that leaky.yaml names.
func openPrices(c *cli) (*prices.Table, error) {
	l, err := openLocal(c)
	if err != nil {
		return nil, err
	}
	return prices.Load(l.besideConfig(l.cfg.Prices.File))
}
