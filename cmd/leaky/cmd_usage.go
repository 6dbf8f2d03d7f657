package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// usageCommand is `leaky usage`: exact sums of everybody's calls.
type usageCommand struct {
	output
	By    string        `default:"model" help:"Dimension: model, provider, user, org, team, key, account, tier, endUser, session, tag.NAME."`
	Org   string        `help:"Only calls for this organisation: name or id."`
	Since time.Duration `default:"24h" help:"How far back, at most 8760h."`
}

// Help shows how it is used.
func (usageCommand) Help() string {
	return `Examples:

    leaky usage
    leaky usage --org "Acme Corp" --by team --since 720h
    leaky usage --by tag.project -o json`
}

// usageRow is what one value of the dimension sums up to.
type usageRow struct {
	Key        string           `json:"key"`
	Requests   int64            `json:"requests"`
	Refused    int64            `json:"refused"`
	Tokens     int64            `json:"tokens"`
	CostMicros map[string]int64 `json:"costMicros"` // by currency
}

// Run sums up each provider by the dimension, and adds them.
func (c usageCommand) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	if c.Since <= 0 || c.Since > 8760*time.Hour {
		return fmt.Errorf("--since %s: it must be above 0 and at most 8760h", c.Since)
	}
	now := time.Now().UTC()
	query := url.Values{"from": {now.Add(-c.Since).Format(time.RFC3339)}, "to": {now.Add(time.Second).Format(time.RFC3339)}}
	if c.Org != "" {
		org, err := orgNamed(ctx, admin, c.Org)
		if err != nil {
			return err
		}
		query.Set("orgId", org.ID.String())
	}
	all, err := c.sum(ctx, admin, query)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, r := range all {
		rows[i] = []string{orDash(r.Key), strconv.FormatInt(r.Requests, 10), strconv.FormatInt(r.Refused, 10), strconv.FormatInt(r.Tokens, 10),
			spent(r.CostMicros)}
	}
	return c.print(os.Stdout, all, []string{strings.ToUpper(c.By), "REQUESTS", "REFUSED", "TOKENS", "COST"}, rows)
}

// sum adds up the reports of all providers that have calls, the most tokens first.
func (c usageCommand) sum(ctx context.Context, admin *client.Client, query url.Values) ([]usageRow, error) {
	var providers api.UsageGroups
	if err := admin.Call(ctx, http.MethodGet, "/api/v1/analytics/providers?"+query.Encode(), nil, &providers); err != nil {
		return nil, told(err)
	}
	sums := map[string]*usageRow{}
	for _, p := range providers.Groups {
		query.Set("provider", p.Key["provider"])
		query.Set("groupBy", c.By)
		var report api.UsageReport
		if err := admin.Call(ctx, http.MethodGet, "/api/v1/analytics/report?"+query.Encode(), nil, &report); err != nil {
			return nil, told(err)
		}
		for _, g := range report.Groups {
			key := g.Key[c.By]
			if sums[key] == nil {
				sums[key] = &usageRow{Key: key, CostMicros: map[string]int64{}}
			}
			sums[key].add(g.Sums)
		}
	}
	all := []usageRow{}
	for _, r := range sums {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b usageRow) int { return cmp.Or(cmp.Compare(b.Tokens, a.Tokens), cmp.Compare(a.Key, b.Key)) })
	return all, nil
}

func (r *usageRow) add(s api.UsageSums) {
	r.Requests += s.TotalEvents
	r.Refused += s.TotalEvents - s.AllowedEvents
	r.Tokens += s.TotalTokens
	for currency, micros := range s.CostMicros {
		r.CostMicros[currency] += micros
	}
}

// spent writes costs, to the millionth.
func spent(micros map[string]int64) string {
	var parts []string
	for _, currency := range slices.Sorted(maps.Keys(micros)) {
		parts = append(parts, fmt.Sprintf("%d.%06d %s", micros[currency]/1e6, micros[currency]%1e6, currency))
	}
	return orDash(strings.Join(parts, ", "))
}
