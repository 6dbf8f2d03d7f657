package console

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// usageData is who used what.
type usageData struct {
	View    view
	Filters []filter
	By      []choice
	ByName  string // the dimension, for people
	Tag     string
	Total   api.UsageSums
	Chart   chart
	Days    []dayRow
	Groups  []group
	Export  string // address of the calls as CSV
	Pending *int64
}

type dayRow struct {
	Start time.Time
	Sums  api.UsageSums
}

// dimensions are what usage can be broken down by.
func dimensions() []choice {
	return []choice{{"model", "Model", false}, {"provider", "Provider", false}, {"user", "User", false}, {"team", "Team", false},
		{"org", "Organisation", false}, {"account", "Account", false}, {"key", "Key", false}, {"tier", "Tier", false},
		{"endUser", "End user", false}, {"session", "Session", false}, {"reason", "Refused because", false}, {"tag", "Tag", false}}
}

func (s *site) usage(v *visit) error {
	ctx := v.r.Context()
	w, err := v.viewOf()
	if err != nil {
		return err
	}
	d := usageData{View: w, Filters: s.filtered(v, &w, "provider", "model", "team", "keyId", "account", "endUser", "tag"), By: dimensions(),
		Tag: v.r.URL.Query().Get("tagName")}
	by, err := d.choose(v.r.URL.Query().Get("by"))
	if err != nil {
		return err
	}
	trend, err := s.trend(ctx, v, w)
	if err != nil {
		return err
	}
	d.Total, d.Pending, d.Chart = trend.Total, trend.PendingEvents, trendChart("Tokens and refusals, "+w.Span.Label, trend)
	for _, b := range trend.Buckets {
		if b.Sums.TotalEvents > 0 {
			d.Days = append(d.Days, dayRow{b.Start, b.Sums})
		}
	}
	slices.Reverse(d.Days)
	if d.Groups, err = s.groups(ctx, v, w.params, by); err != nil {
		return err
	}
	if slices.Contains([]string{"user", "org", "account", "key"}, by) {
		if err := s.name(ctx, v, w.of, d.Groups); err != nil {
			return err
		}
	}
	d.Export = path + "/usage.csv?" + v.r.URL.Query().Encode()
	return s.show(v, "usage", "/usage", "Usage", d)
}

// choose reads the dimension that the address names.
func (d *usageData) choose(name string) (string, error) {
	if name == "" {
		name = "model"
	}
	at := slices.IndexFunc(d.By, func(c choice) bool { return c.Value == name })
	if at < 0 {
		return "", &shown{status: http.StatusBadRequest, title: "Malformed", text: "Usage cannot be broken down by that."}
	}
	d.By[at].Chosen, d.ByName = true, d.By[at].Label
	if name != "tag" {
		return name, nil
	}
	if !usage.TagName.MatchString(d.Tag) {
		return "", &shown{status: http.StatusBadRequest, title: "Which tag?", text: "Write the name of the tag beside “Tag”, as leaky.yaml has it."}
	}
	d.ByName = "Tag " + d.Tag
	return "tag." + d.Tag, nil
}

// export passes on the calls of a view as CSV, as they come.
func (s *site) export(v *visit) error {
	w, err := v.viewOf()
	if err != nil {
		return err
	}
	s.filtered(v, &w, "provider", "model", "team", "keyId", "account", "endUser", "tag")
	q := url.Values{}
	for name, values := range with(w.params, "format", "csv") {
		q[name] = values
	}
	req, err := v.api.Request(v.r.Context(), http.MethodGet, "/api/v1/analytics/export?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := v.api.Do(req)
	if err != nil {
		return fmt.Errorf("export calls: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &client.Error{Method: req.Method, Path: req.URL.Path, Status: resp.StatusCode, Header: resp.Header}
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="leaky-usage-`+w.Span.Name+`.csv"`)
	h.Set("Cache-Control", "no-store")
	if _, err := io.Copy(v.w, resp.Body); err != nil && v.r.Context().Err() == nil {
		panic(http.ErrAbortHandler) // half a file must not look like a whole one
	}
	return nil
}
