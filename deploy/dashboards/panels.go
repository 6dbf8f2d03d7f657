package dashboards

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

// Kinds of panels, as Grafana names them.
const (
	number  = "stat"
	lines   = "timeseries"
	bars    = "bargauge"
	dial    = "gauge"
	pie     = "piechart"
	rows    = "table"
	heatmap = "heatmap"
)

// Units, as Grafana names them.
const (
	perMinute = "cpm"
	seconds   = "s"
	millis    = "ms"
	share     = "percentunit"
	memory    = "bytes"
	plain     = "short"
	since     = "dateTimeFromNow"
)

// Grafana's page is 24 columns wide.
const (
	pageWidth   = 24
	smallHeight = 4
	largeHeight = 8
)

// query is one of a panel. Its legend may name labels: {{provider}}.
type query struct{ expr, legend string }

// panel answers a part of its row's question.
type panel struct {
	kind, title string
	about       string // what is read off it, and what to do about it
	unit        string
	warn, bad   float64 // where it turns yellow and red; both zero: never. bad < warn: low is bad
	queries     []query
}

// row is one question.
type row struct {
	question string
	panels   []panel
}

// page is a dashboard.
type page struct {
	uid, title, about string
	variables         []variable
	rows              []row
}

// variable is a choice at the top of a dashboard; all by default.
type variable struct{ name, metric, label string }

// one is a panel's single query.
func one(expr string) []query { return []query{{expr: expr}} }

// JSON is the dashboard as Grafana reads it from a file.
func (p page) JSON() ([]byte, error) {
	b := dashboard.NewDashboardBuilder(p.title).Uid(p.uid).Description(p.about).Tags([]string{"leaky-tokens"}).Refresh("10s").
		Time("now-30m", "now").Timezone("browser").Tooltip(dashboard.DashboardCursorSyncCrosshair).Readonly()
	for _, v := range p.variables {
		b.WithVariable(dashboard.NewQueryVariableBuilder(v.name).Label(v.name).Multi(true).IncludeAll(true).AllValue(".*").
			Query(dashboard.StringOrMap{String: cog.ToPtr(fmt.Sprintf("label_values(%s, %s)", v.metric, v.label))}).
			Refresh(dashboard.VariableRefreshOnTimeRangeChanged))
	}
	id, y := uint32(0), uint32(0)
	next := func() *uint32 { id++; return cog.ToPtr(id) }
	for _, r := range p.rows {
		b.WithPanel(built(dashboard.Panel{Id: next(), Type: "row", Title: &r.question, GridPos: &dashboard.GridPos{W: pageWidth, H: 1, Y: y}}))
		y++
		width, x, height := pageWidth/uint32(len(r.panels)), uint32(0), uint32(smallHeight)
		for _, one := range r.panels {
			if one.kind != number {
				height = largeHeight
			}
		}
		for _, one := range r.panels {
			b.WithPanel(built(one.panel(next(), dashboard.GridPos{X: x, Y: y, W: width, H: height})))
			x += width
		}
		y += height
	}
	made, err := b.Build()
	if err != nil {
		return nil, fmt.Errorf("make dashboard %s: %w", p.uid, err)
	}
	text, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write dashboard %s: %w", p.uid, err)
	}
	return append(text, '\n'), nil
}

// builder gives what is built already.
type builder[T any] struct{ value T }

func (b builder[T]) Build() (T, error) { return b.value, nil }

func built(p dashboard.Panel) cog.Builder[dashboard.Panel] { return builder[dashboard.Panel]{p} }

func (p panel) panel(id *uint32, at dashboard.GridPos) dashboard.Panel {
	out := dashboard.NewPanel()
	out.Id, out.Type, out.Title, out.Description, out.GridPos = id, p.kind, &p.title, &p.about, &at
	out.Datasource = &common.DataSourceRef{Type: cog.ToPtr("prometheus")}
	for i, q := range p.queries {
		target := prometheus.NewDataqueryBuilder().Expr(q.expr).RefId(string(rune('A' + i)))
		if q.legend != "" {
			target.LegendFormat(q.legend)
		}
		switch p.kind {
		case rows:
			target.Instant().Format(prometheus.PromQueryFormatTable)
		case number, bars, dial, pie:
			target.Instant()
		case heatmap:
			target.Format(prometheus.PromQueryFormatHeatmap)
		}
		made, err := target.Build()
		if err != nil {
			panic(err) // the query above is complete whatever its text says
		}
		out.Targets = append(out.Targets, made)
	}
	field := dashboard.NewFieldConfig()
	field.Unit, field.NoValue = &p.unit, cog.ToPtr("none")
	field.Thresholds = p.thresholds()
	if p.kind == number || p.kind == bars || p.kind == dial {
		field.Color = &dashboard.FieldColor{Mode: dashboard.FieldColorModeIdThresholds}
	}
	if p.unit == share {
		field.Min, field.Max = cog.ToPtr(0.0), cog.ToPtr(1.0)
	}
	out.FieldConfig = &dashboard.FieldConfigSource{Defaults: *field, Overrides: []dashboard.DashboardFieldConfigSourceOverrides{}}
	return *out
}

func (p panel) thresholds() *dashboard.ThresholdsConfig {
	step := func(color string, from *float64) dashboard.Threshold {
		return dashboard.Threshold{Color: color, Value: from}
	}
	steps := []dashboard.Threshold{step("green", nil)}
	switch {
	case p.bad < p.warn:
		steps = []dashboard.Threshold{step("red", nil), step("yellow", &p.bad), step("green", &p.warn)}
	case p.bad > 0:
		steps = append(steps, step("yellow", &p.warn), step("red", &p.bad))
	}
	return &dashboard.ThresholdsConfig{Mode: dashboard.ThresholdsModeAbsolute, Steps: steps}
}

// PlainQuery is a query as Prometheus takes it, with what Grafana puts in: every choice at All, and the
// time that is shown.
func PlainQuery(expr string, span time.Duration) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$__range", fmt.Sprintf("%ds", int(span.Seconds())), "$provider", ".*",
		"$service", ".*").Replace(expr)
}
