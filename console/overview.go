package console

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"time"

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

// liveData is the part of it that refreshes itself.
type liveData struct {
	Address string // of this part
	Sums    api.UsageSums
	Refused int64
	Pending *int64
	Limits  []api.Limit // the fullest
	First   *firstCall  // until a call was seen
}

// firstCall shows somebody how to begin, and that it worked.
type firstCall struct {
	Gateway, Model string
	Seen           bool
	Tokens         int64
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

// live is the part of the overview that refreshes itself.
func (s *site) live(v *visit) error {
	w, err := v.viewOf()
	if err != nil {
		return err
	}
	trend, err := s.trend(v.r.Context(), v, w)
	if err != nil {
		return err
	}
	d, err := s.liveOf(v.r.Context(), v, w, trend)
	if err != nil {
		return err
	}
	return s.part(v, "live", d)
}

// mostLevels is how many limits the overview shows.
const mostLevels = 4

func (s *site) liveOf(ctx context.Context, v *visit, w view, trend api.UsageTrend) (liveData, error) {
	d := liveData{Sums: trend.Total, Refused: trend.Total.TotalEvents - trend.Total.AllowedEvents, Pending: trend.PendingEvents}
	address := url.Values{"of": {w.of}, "range": {w.Span.Name}}
	if v.me.Limits != nil {
		d.Limits = slices.DeleteFunc(slices.Clone(*v.me.Limits), func(l api.Limit) bool { return l.Capacity <= 0 })
		slices.SortStableFunc(d.Limits, func(a, b api.Limit) int { return cmp.Compare(b.Level/b.Capacity, a.Level/a.Capacity) })
		d.Limits = d.Limits[:min(len(d.Limits), mostLevels)]
	}
	waiting := v.r.URL.Query().Get("first") == "1"
	if trend.Total.TotalEvents == 0 || waiting {
		first, err := s.firstOf(ctx, v, waiting)
		if err != nil {
			return d, err
		}
		if d.First = first; first != nil {
			address.Set("first", "1")
		}
	}
	d.Address = path + "/live?" + address.Encode()
	return d, nil
}

// firstOf is for who never called; waiting says that their page has seen none.
func (s *site) firstOf(ctx context.Context, v *visit, waiting bool) (*firstCall, error) {
	since := time.Now().Add(-spans()[len(spans())-1].length)
	own, err := get[api.UsageGroups](ctx, v.api, "/api/v1/me/usage", url.Values{"from": {since.UTC().Format(time.RFC3339)}})
	if err != nil {
		return nil, fmt.Errorf("look for calls: %w", err)
	}
	if own.Total.TotalEvents > 0 && !waiting || s.cfg.Model == "" {
		return nil, nil
	}
	return &firstCall{Gateway: s.cfg.PublicURL, Model: s.cfg.Model, Seen: own.Total.TotalEvents > 0, Tokens: own.Total.TotalTokens}, nil
}
