package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

type repriceCommand struct {
	output
	Since  string `required:"" help:"Calls that began since: a time of RFC 3339, a day, or so long ago (36h)." placeholder:"TIME"`
	DryRun bool   `help:"Print the differences and book nothing."`
}

// Help shows how it is used.
func (repriceCommand) Help() string {
	return `Compares what calls are booked at with what they cost by the price list of now, and books the differences as corrections: rows of their own, with the list and who booked them. No call's row changes, and calls that the list has no price for stay unpriced. It writes into ClickHouse (LEAKY_CLICKHOUSE_URL, else that of the stack).

Examples:

    leaky reprice --since 2026-11-01 --dry-run
    leaky reprice --since 36h -o json`
}

// repriceTimeout bounds one question to ClickHouse.
const repriceTimeout = 5 * time.Minute

// Run books the differences, or prints them alone.
func (r repriceCommand) Run(ctx context.Context, c *cli) error {
	since, err := moment(r.Since, time.Now())
	if err != nil {
		return fmt.Errorf("--since: %w", err)
	}
	list, err := openPrices(c)
	if err != nil {
		return err
	}
	store, err := openEvents(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	who, err := user.Current()
	if err != nil {
		return fmt.Errorf("say who reprices: %w", err)
	}
	changed, err := store.Reprice(ctx, analytics.Filter{From: since}, list, who.Username, r.DryRun)
	if err != nil {
		return err
	}
	rows, sum := [][]string{}, int64(0)
	for _, one := range changed {
		sum += one.Micros
		rows = append(rows, []string{one.Provider, one.Model, strconv.FormatInt(one.Calls, 10), prices.Money(one.Micros),
			strconv.FormatInt(one.Unpriced, 10)})
	}
	page := struct {
		Version  string               `json:"priceVersion"`
		Currency string               `json:"currency"`
		DryRun   bool                 `json:"dryRun"`
		Micros   int64                `json:"differenceMicros"`
		Models   []analytics.Repriced `json:"models"`
	}{list.Version, list.Currency, r.DryRun, sum, changed}
	if err := r.print(os.Stdout, page, []string{"PROVIDER", "MODEL", "CALLS", "DIFFERENCE", "UNPRICED TOKENS PRICED"}, rows); err != nil {
		return err
	}
	if r.Output != "json" {
		done := "booked"
		if r.DryRun {
			done = "not booked (--dry-run)"
		}
		fmt.Printf("\n%s %s by list %s, %s\n", prices.Money(sum), list.Currency, list.Version, done)
	}
	return nil
}

// moment is a time, the beginning of a day in UTC, or a duration or days before now.
func moment(text string, now time.Time) (time.Time, error) {
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(form, text); err == nil {
			return at, nil
		}
	}
	if days, is := strings.CutSuffix(text, "d"); is {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time; write 2026-11-15, 2026-11-15T08:00:00Z, 36h or 7d", text)
}

// openEvents opens the books of calls.
func openEvents(ctx context.Context, c *cli) (*analytics.Store, error) {
	l, err := openLocal(c)
	if err != nil {
		return nil, err
	}
	url, err := l.storeURL(topology.ClickHouse)
	if err != nil {
		return nil, err
	}
	store, err := analytics.NewStore(analytics.StoreConfig{URL: url, Timeout: repriceTimeout, KeepDays: l.cfg.Analytics.KeepDays,
		RollupDays: l.cfg.Analytics.RollupDays, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if err := store.Migrate(ctx); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}
