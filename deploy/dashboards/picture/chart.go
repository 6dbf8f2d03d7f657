package main

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// Room around a chart for the texts of its axes, in pixels.
const (
	leftRoom   = 70
	rightRoom  = 10
	topRoom    = 8
	bottomRoom = 20
)

// chart is what the page's template draws as SVG.
type chart struct {
	Width, Height int
	Ticks         []tick // of the value axis, from below
	Times         []tick
	Lines         []line
	Cells         []cell
}

type tick struct {
	At   float64 // pixels from the left or the top
	Text string
}

type line struct{ Color, Points string }

// cell is a rectangle of a heatmap.
type cell struct{ X, Y, W, H, Opacity float64 }

// axis maps values to pixels.
type axis struct{ low, high, from, to float64 }

func (a axis) at(v float64) float64 {
	if a.high == a.low {
		return a.from
	}
	return a.from + (v-a.low)/(a.high-a.low)*(a.to-a.from)
}

// newChart draws a panel's lines, or a heatmap of its buckets.
func newChart(p *panel, width, height int, now time.Time) chart {
	c := chart{Width: width, Height: height}
	first, last, most := spanOf(p.series)
	times := axis{float64(first), float64(max(last, first+1)), leftRoom, float64(width - rightRoom)}
	for i := range 4 {
		at := times.low + (times.high-times.low)*(0.06+float64(i)*0.29)
		c.Times = append(c.Times, tick{times.at(at), time.UnixMilli(int64(at)).UTC().Format("15:04")})
	}
	if p.Type == "heatmap" {
		c.heat(p, times)
		return c
	}
	unit := 1.0
	if p.FieldConfig.Defaults.Unit == "bytes" {
		for unit*1024 < most {
			unit *= 1024
		}
	}
	each := nice(most/4/unit) * unit
	values := axis{0, each * math.Max(1, math.Ceil(most/each)), float64(height - bottomRoom), topRoom}
	for v := 0.0; v <= values.high+each/2; v += each {
		c.Ticks = append(c.Ticks, tick{values.at(v), text(p.FieldConfig.Defaults.Unit, v, now)})
	}
	for i, s := range p.series {
		var b strings.Builder
		for _, point := range s.points {
			b.WriteString(pixel(times.at(float64(point.Timestamp))) + "," + pixel(values.at(float64(point.Value))) + " ")
		}
		c.Lines = append(c.Lines, line{colour(i), b.String()})
	}
	return c
}

func pixel(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// spanOf is when the series begin and end, and their largest value.
func spanOf(all []series) (first, last model.Time, most float64) {
	first = model.Latest
	for _, s := range all {
		first, last = min(first, s.points[0].Timestamp), max(last, s.points[len(s.points)-1].Timestamp)
		for _, p := range s.points {
			most = math.Max(most, float64(p.Value))
		}
	}
	return first, last, most
}

// nice is the next of 1, 2, 5, 10, ... that is not smaller.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	base := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if f*base >= v {
			return f * base
		}
	}
	return 10 * base
}

// heat draws cumulative buckets: a row for each bound, the darker the more fell between it and the
// bound below.
func (c *chart) heat(p *panel, times axis) {
	type bucket struct {
		bound float64
		at    map[model.Time]float64
	}
	var buckets []bucket
	for _, s := range p.series {
		bound, err := strconv.ParseFloat(string(s.labels["le"]), 64)
		if err != nil {
			continue // no bucket
		}
		b := bucket{bound, map[model.Time]float64{}}
		for _, point := range s.points {
			b.at[point.Timestamp] = float64(point.Value)
		}
		buckets = append(buckets, b)
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return compare(a.bound, b.bound) })
	rows := axis{0, float64(len(buckets)), float64(c.Height - bottomRoom), topRoom}
	high, width, most := (rows.from-rows.to)/rows.high, (times.to-times.from)/points, 0.0
	for i, b := range buckets {
		for at, count := range b.at {
			if i > 0 {
				count -= buckets[i-1].at[at]
			}
			if count > 0.5 { // less is what increase() makes of the edges of its window
				most = math.Max(most, count)
				c.Cells = append(c.Cells, cell{times.at(float64(at)), rows.at(float64(i + 1)), width, high, count})
			}
		}
		if i%3 == 0 {
			c.Ticks = append(c.Ticks, tick{rows.at(float64(i) + 0.5), text(p.FieldConfig.Defaults.Unit, b.bound, time.Time{})})
		}
	}
	for i := range c.Cells {
		c.Cells[i].Opacity = 0.15 + 0.85*math.Sqrt(c.Cells[i].Opacity/most)
	}
	slices.SortFunc(c.Cells, func(a, b cell) int { return compare(a.Y*1e6+a.X, b.Y*1e6+b.X) })
}
