package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"time"
)

// Sizes in pixels. Grafana's page is 24 columns wide, and a row of its grid 38 high.
const (
	pageWidth  = 1280
	columns    = 24
	gridHeight = 34
	panelEdges = 26 // of a panel beside its chart
	panelHead  = 36 // above it
	legendLine = 18
	mostNames  = 8  // of a legend
	mostRows   = 12 // of a table
)

//go:embed page.html
var pageText string

// tile is a panel as the page's template draws it.
type tile struct {
	*panel
	Chart *chart
	Rows  []entry
}

// entry is a series with its newest value: a number, a bar, a slice, a row or a line of a legend.
type entry struct {
	Name, Value, Color string
	Part               float64 // of the largest, or of the sum in a pie; 0 to 100
	From               float64 // where a slice begins, counted backwards as SVG does
}

// page draws a board that is filled as HTML.
func (b *board) page(now time.Time) ([]byte, error) {
	var tiles []tile
	for _, p := range b.Panels {
		tiles = append(tiles, p.tile(now))
	}
	parsed, err := template.New("page").Parse(pageText)
	if err != nil {
		return nil, fmt.Errorf("read page.html: %w", err)
	}
	var out bytes.Buffer
	err = parsed.Execute(&out, struct {
		*board
		Width, Grid int
		Now         string
		Tiles       []tile
	}{b, pageWidth, gridHeight, now.UTC().Format("2006-01-02 15:04 UTC"), tiles})
	if err != nil {
		return nil, fmt.Errorf("draw %s: %w", b.Title, err)
	}
	return out.Bytes(), nil
}

// Line and Column are where a panel begins, counted from 1 as CSS does.
func (p *panel) Line() int { return p.GridPos.Y + 1 }

// Column is the other one.
func (p *panel) Column() int { return p.GridPos.X + 1 }

func (p *panel) tile(now time.Time) tile {
	t := tile{panel: p}
	if len(p.series) == 0 {
		return t
	}
	most, sum := p.series[0].last(), 0.0
	for _, s := range p.series {
		most, sum = max(most, s.last()), sum+s.last()
	}
	from := 0.0
	for i, s := range p.series {
		e := entry{Name: s.name, Value: text(p.FieldConfig.Defaults.Unit, s.last(), now), Color: p.shade(s.last())}
		switch p.Type {
		case "timeseries":
			e.Color = colour(i)
		case "piechart":
			e.Color, e.Part = colour(i), percent(s.last(), sum)
			e.From, from = -from, from+e.Part
		case "gauge":
			e.Part = percent(s.last(), p.full())
		default:
			e.Part = percent(s.last(), most)
		}
		t.Rows = append(t.Rows, e)
	}
	if p.overTime() {
		height := p.GridPos.H*gridHeight - panelHead - legendLine
		c := newChart(p, p.GridPos.W*pageWidth/columns-panelEdges, height, now)
		t.Chart = &c
	}
	if p.Type == "heatmap" {
		t.Rows = nil
	}
	t.Rows = slices.Clip(t.Rows[:min(len(t.Rows), map[bool]int{true: mostRows, false: mostNames}[p.Type == "table"])])
	return t
}

// full is where a dial ends: at its last threshold and a bit.
func (p *panel) full() float64 {
	most := 1.0
	for _, s := range p.FieldConfig.Defaults.Thresholds.Steps {
		if s.Value != nil {
			most = max(most, *s.Value*1.25)
		}
	}
	return most
}

func percent(v, of float64) float64 {
	if of <= 0 {
		return 0
	}
	return max(0, min(100, 100*v/of))
}
