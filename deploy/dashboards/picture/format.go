package main

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// scale is a prefix of a unit.
type scale struct {
	from   float64
	suffix string
}

// text writes a value in a unit of Grafana's.
func text(unit string, v float64, now time.Time) string {
	switch unit {
	case "percentunit":
		return digits(v*100) + " %"
	case "bytes":
		return scaled(v, scale{1 << 30, " GiB"}, scale{1 << 20, " MiB"}, scale{1 << 10, " KiB"}, scale{1, " B"})
	case "s":
		return scaled(v, scale{60, " min"}, scale{1, " s"}, scale{1e-3, " ms"}, scale{1e-6, " µs"})
	case "ms":
		return scaled(v, scale{1e3, " s"}, scale{1, " ms"}, scale{1e-3, " µs"})
	case "cpm":
		return scaled(v, scale{1e6, " M/min"}, scale{1e3, " k/min"}, scale{1, " /min"})
	case "dateTimeFromNow":
		return now.Sub(time.UnixMilli(int64(v))).Round(time.Minute).String() + " ago"
	}
	return scaled(v, scale{1e9, " G"}, scale{1e6, " M"}, scale{1e3, " k"}, scale{1, ""})
}

// scaled writes v by the first scale that it reaches, or by the last.
func scaled(v float64, scales ...scale) string {
	if v == 0 {
		return "0" + scaleOf(scales, 1).suffix
	}
	s := scaleOf(scales, math.Abs(v))
	return digits(v/s.from) + s.suffix
}

func scaleOf(scales []scale, v float64) scale {
	for _, s := range scales {
		if v >= s.from {
			return s
		}
	}
	return scales[len(scales)-1]
}

// digits are three of a number.
func digits(v float64) string {
	if math.Abs(v) >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	rounded, err := strconv.ParseFloat(fmt.Sprintf("%.3g", v), 64)
	if err != nil {
		return fmt.Sprint(v)
	}
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}

// Colours of thresholds, as Grafana names them, and of lines in their order.
func named(color string) string {
	switch color {
	case "red":
		return "#f2495c"
	case "yellow":
		return "#ff9830"
	}
	return "#73bf69"
}

func colour(i int) string {
	all := []string{"#5794f2", "#73bf69", "#ff9830", "#b877d9", "#f2495c", "#fade2a",
		"#8ab8ff", "#96d98d", "#ffb357", "#ca95e5", "#ff7383", "#ffee52"}
	return all[i%len(all)]
}

// shade is the colour of a value by its panel's thresholds.
func (p *panel) shade(v float64) string {
	color := "green"
	for _, s := range p.FieldConfig.Defaults.Thresholds.Steps {
		if s.Value == nil || v >= *s.Value {
			color = s.Color
		}
	}
	return named(color)
}
