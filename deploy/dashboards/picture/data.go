package main

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/leaky-tokens/leaky-tokens/deploy/dashboards"
)

// points is how many a line has at most.
const points = 120

// series is one line, bar, slice or row.
type series struct {
	name   string
	labels model.Metric
	points []model.SamplePair // without those that are no number; of an instant query one
}

// last is the newest value.
func (s series) last() float64 { return float64(s.points[len(s.points)-1].Value) }

// asker asks Prometheus for the numbers of a board.
type asker struct {
	api  promv1.API
	now  time.Time
	span time.Duration
}

// fill runs the queries of all panels, and names those that have no number.
func (a asker) fill(ctx context.Context, b *board) (missing []string, err error) {
	for _, p := range b.Panels {
		for _, t := range p.Targets {
			found, err := a.ask(ctx, p, dashboards.PlainQuery(t.Expr, a.span))
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", b.Title, p.Title, err)
			}
			for _, s := range found {
				s.name = legend(t.LegendFormat, s.labels)
				p.series = append(p.series, s)
			}
		}
		if p.Type != "row" && len(p.series) == 0 {
			missing = append(missing, p.Title)
		}
		if !p.overTime() { // the largest first; lines keep the order of their queries
			slices.SortStableFunc(p.series, func(a, b series) int { return -compare(a.last(), b.last()) })
		}
	}
	return missing, nil
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// overTime reports whether a panel shows a span and not a moment.
func (p *panel) overTime() bool { return p.Type == "timeseries" || p.Type == "heatmap" }

func (a asker) ask(ctx context.Context, p *panel, query string) ([]series, error) {
	if p.overTime() {
		value, _, _, err := a.api.QueryRange(ctx, query, promv1.Range{Start: a.now.Add(-a.span), End: a.now,
			Step: max(a.span/points, time.Second)})
		if err != nil {
			return nil, fmt.Errorf("ask prometheus %s: %w", query, err)
		}
		matrix, ok := value.(model.Matrix)
		if !ok {
			return nil, fmt.Errorf("ask prometheus %s: want a matrix, got a %s", query, value.Type())
		}
		var all []series
		for _, s := range matrix {
			all = numbers(all, s.Metric, s.Values)
		}
		return all, nil
	}
	value, _, _, err := a.api.Query(ctx, query, a.now)
	if err != nil {
		return nil, fmt.Errorf("ask prometheus %s: %w", query, err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("ask prometheus %s: want a vector, got a %s", query, value.Type())
	}
	var all []series
	for _, s := range vector {
		all = numbers(all, s.Metric, []model.SamplePair{{Timestamp: s.Timestamp, Value: s.Value}})
	}
	return all, nil
}

// numbers appends a series without what is no number; one that has none is left out.
func numbers(all []series, labels model.Metric, values []model.SamplePair) []series {
	values = slices.DeleteFunc(slices.Clone(values), func(v model.SamplePair) bool {
		return math.IsNaN(float64(v.Value)) || math.IsInf(float64(v.Value), 0)
	})
	if len(values) == 0 {
		return all
	}
	return append(all, series{labels: labels, points: values})
}

var placeholder = regexp.MustCompile(`\{\{ *([a-zA-Z_][a-zA-Z0-9_]*) *\}\}`)

// legend is the name of a series: its labels put into a format, or all of them.
func legend(format string, labels model.Metric) string {
	if format == "" {
		var all []string
		for name, value := range labels {
			if name != model.MetricNameLabel {
				all = append(all, string(value))
			}
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	return placeholder.ReplaceAllStringFunc(format, func(found string) string {
		return string(labels[model.LabelName(placeholder.FindStringSubmatch(found)[1])])
	})
}
