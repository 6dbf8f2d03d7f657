package main

import (
	"context"
	"fmt"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/replay"
)

type limitsReplay struct {
	output
	File  string `arg:"" help:"Limits file to decide by." type:"path"`
	Since string `help:"Calls that began since: a time of RFC 3339, a day, or so long ago (36h, 7d)." default:"7d" placeholder:"TIME"`
	Until string `help:"Calls that began before; now when not given." placeholder:"TIME"`
}

// Help shows how it is used.
func (limitsReplay) Help() string {
	return `Decides the calls on the books anew, with the matcher and the buckets that decide real ones, and tells who would have been refused, when first, and how many tokens those calls were charged. Nothing that runs is asked or changed.

What is estimated is told apart: calls that were refused then, since the books do not know what they asked
for, and calls whose decision depends on the milliseconds in which holds were taken and settled. The file of
then decides every other call as then. Pools, requests that are no calls of models, and limits by end user,
session, tag or address are not replayed.

Examples:

    leaky limits replay new-limits.yaml
    leaky limits replay new-limits.yaml --since 24h -o json | jq '.refused[:10]'`
}

// Run prints what the file would have decided.
func (k limitsReplay) Run(ctx context.Context, c *cli) error {
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	set, err := limits.Load(k.File)
	if err != nil {
		return err
	}
	now := time.Now()
	from, err := moment(k.Since, now)
	if err != nil {
		return fmt.Errorf("--since: %w", err)
	}
	to := now
	if k.Until != "" {
		if to, err = moment(k.Until, now); err != nil {
			return fmt.Errorf("--until: %w", err)
		}
	}
	store, err := openEvents(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	policy := match.NewPolicy(match.Config{Limits: set, Tiers: l.cfg.Tiers, Providers: l.cfg.Providers, Models: l.cfg.Models}, &match.State{})
	r, err := replay.Run(policy.Rules, calls(ctx, store, from.Add(-replay.Warm(set)), to), from, to)
	if err != nil {
		return err
	}
	n := func(n int64) string { return strconv.FormatInt(n, 10) }
	rows := [][]string{}
	for _, one := range r.Refused {
		rows = append(rows, []string{one.Account, n(one.Calls), n(one.Tokens), one.First.UTC().Format(time.RFC3339),
			strings.Join(one.Rules, ", ")})
	}
	if k.Output == "json" || len(rows) > 0 {
		if err := k.print(os.Stdout, r, []string{"ACCOUNT", "REFUSED", "TOKENS", "FIRST", "BY"}, rows); err != nil {
			return err
		}
	}
	if k.Output != "json" {
		fmt.Printf("%d calls: %d decided as then, %d newly refused, %d newly admitted; %d of these are estimates\n", r.Calls, r.Agreed,
			r.NewlyRefused, r.NewlyAdmitted, r.Estimated)
		fmt.Printf("%d of %d certain ones decided as then\n", r.CertainAgreed, r.Certain)
	}
	return nil
}

// calls are those on the books, in the order in which they began.
func calls(ctx context.Context, store *analytics.Store, from, to time.Time) iter.Seq2[usage.Event, error] {
	return func(yield func(usage.Event, error) bool) {
		for row, err := range store.InOrder(ctx, analytics.Filter{From: from, To: to}) {
			if !yield(row.Event, err) || err != nil {
				return
			}
		}
	}
}
