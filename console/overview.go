package console

import (
	"cmp"
	"context"
	"encoding/json"

	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// chart is what console.js draws: one value of each series at each time.
type chart struct {
	Title  string   `json:"title"`
	Times  []int64  `json:"times"` // Unix seconds
	Series []series `json:"series"`
}

type series struct {
	Label  string  `json:"label"`
	Values []int64 `json:"values"`
}

// JSON is the chart as an attribute carries it.
func (c chart) JSON() (string, error) {
	text, err := json.Marshal(c)
	return string(text), err
}

// trendChart draws tokens, and the calls that were refused.
func trendChart(title string, t api.UsageTrend) chart {
	c := chart{Title: title, Series: []series{{Label: "Input tokens"}, {Label: "Output tokens"}, {Label: "Refused calls"}}}
	for _, b := range t.Buckets {
		c.Times = append(c.Times, b.Start.Unix())
		for i, n := range []int64{b.Sums.InputTokens, b.Sums.OutputTokens, b.Sums.TotalEvents - b.Sums.AllowedEvents} {
			c.Series[i].Values = append(c.Series[i].Values, n)
		}
	}
	return c
}

// overviewData is the first page.
type overviewData struct {
	View  view
	Live  liveData
	Chart chart
	Top   []group
	TopBy string
	ByAPI []group // providers
}

func (s *site) overview(v *visit) error {
	ctx := v.r.Context()
	w, err := v.viewOf()
	if err != nil {
		return err
	}
	d := overviewData{View: w, TopBy: "model"}
	trend, err := s.trend(ctx, v, w)
	if err != nil {
		return err
	}
	if d.Live, err = s.liveOf(ctx, v, w, trend); err != nil {
		return err
	}
	d.Chart = trendChart("Tokens and refusals, "+w.Span.Label, trend)
	if w.params.Get("userId") == "" {
		d.TopBy = "user"
	}
	if d.Top, err = s.groups(ctx, v, w.params, d.TopBy); err != nil {
		return err
	}
	d.Top = d.Top[:min(len(d.Top), 8)]
	if d.TopBy == "user" {
		if err := s.name(ctx, v, w.of, d.Top); err != nil {
			return err
		}
	}
	sums, err := get[api.UsageGroups](ctx, v.api, "/api/v1/analytics/providers", w.params)
	if err != nil {
		return err
	}
	for _, g := range sums.Groups {
		d.ByAPI = append(d.ByAPI, group{Key: g.Key["provider"], Name: g.Key["provider"], Sums: g.Sums})
	}
	return s.show(v, "overview", "/", "Overview", d)
}

// name puts names beside the ids of groups.
func (s *site) name(ctx context.Context, v *visit, of string, groups []group) error {
	known, err := s.names(ctx, v, of)
	if err != nil && !tolerable(err) {
		return err
	}
	for i, g := range groups {
		groups[i].Name = cmp.Or(known[g.Key], g.Key)
	}
	return nil
}

func (s *site) trend(ctx context.Context, v *visit, w view) (api.UsageTrend, error) {
	return get[api.UsageTrend](ctx, v.api, "/api/v1/analytics/trends", with(w.params, "interval", w.Span.interval))
}
