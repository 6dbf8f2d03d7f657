package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// exportTimeout bounds one export of one account.
const exportTimeout = 30 * time.Second

// maxLine is the longest line of an export, in bytes.
const maxLine = 1 << 20

// eventBook reads what analytics knows, as each account's own key may read it.
type eventBook struct {
	gateway  *client.Client
	accounts []judge.Account
	targets  []judge.Target
	since    time.Time
}

// read exports the events of every account.
func (b *eventBook) read(ctx context.Context) (map[string]judge.Event, error) {
	events := map[string]judge.Event{}
	for _, a := range b.accounts {
		if err := b.export(ctx, a, events); err != nil {
			return nil, fmt.Errorf("export the events of %s: %w", a.Name, err)
		}
	}
	return events, nil
}

func (b *eventBook) export(ctx context.Context, a judge.Account, into map[string]judge.Event) error {
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	resp, err := b.gateway.As(client.Bearer(a.Key)).ExportUsage(ctx, &api.ExportUsageParams{From: new(b.since.UTC().Truncate(time.Second))})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var row struct {
			RequestID string `json:"requestId"`
			User      string `json:"userId"`
			Provider  string `json:"provider"`
			Tokens    int64  `json:"tokens"`
			Input     int64  `json:"inputTokens"`
			Output    int64  `json:"outputTokens"`
			Source    string `json:"source"`
			Allowed   bool   `json:"allowed"`
		}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return fmt.Errorf("parse line: %w", err)
		}
		into[row.RequestID] = judge.Event{User: row.User, Provider: row.Provider, Input: row.Input, Output: row.Output, Charged: row.Tokens,
			Source: row.Source, Allowed: row.Allowed, Times: into[row.RequestID].Times + 1}
	}
	return lines.Err()
}

// totals asks for the sums, which are made apart from the events themselves.
func (b *eventBook) totals(ctx context.Context) (map[judge.Pair]judge.Total, error) {
	totals := map[judge.Pair]judge.Total{}
	minutes := int(time.Since(b.since).Minutes()) + 2
	for i, a := range b.accounts {
		for _, t := range b.targets {
			query := url.Values{"provider": {t.Provider}, "windowMinutes": {strconv.Itoa(minutes)}}
			var total judge.Total
			if err := b.gateway.As(client.Bearer(a.Key)).Call(ctx, http.MethodGet, "/api/v1/analytics/report?"+query.Encode(), nil,
				&total); err != nil {
				return nil, fmt.Errorf("report on %s: %w", a.Name, err)
			}
			totals[judge.Pair{Account: i, Provider: t.Provider}] = total
		}
	}
	return totals, nil
}
