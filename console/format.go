package console

import (
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// formats are what templates write values with.
func formats() template.FuncMap {
	return template.FuncMap{
		"count": count, "short": short, "money": money, "cents": cents, "when": when, "ago": ago, "percent": percent, "width": width,
		"wait": wait, "lower": strings.ToLower, "brief": brief, "place": place, "join": strings.Join,
		"float": func(n int64) float64 { return float64(n) },
		"whole": func(f float64) string { return count(int64(f)) },
		"some":  func(n *int64) bool { return n != nil && *n > 0 },
		"minus": func(a, b int64) int64 { return a - b },
		"fewer": func(a, b int) int { return min(a, b) },
		"cost":  func(currency string, micros *int64) map[string]int64 { return map[string]int64{currency: *micros} },
		"part":  func(data any) page { return page{Data: data} },
	}
}

// count writes a whole number in groups of three, with thin spaces that do not break.
func count(n int64) string {
	text := strconv.FormatInt(n, 10)
	sign := ""
	if text[0] == '-' {
		sign, text = "−", text[1:]
	}
	var groups []string
	for len(text) > 3 {
		groups = append([]string{text[len(text)-3:]}, groups...)
		text = text[:len(text)-3]
	}
	return sign + strings.Join(append([]string{text}, groups...), "\u202f")
}

// short writes a number as a person says it: 12.3k, 4.56M.
func short(n int64) string {
	f := float64(n)
	for _, unit := range []struct {
		size float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		size := unit.size
		if unit.name == "k" {
			size = 1e3
		}
		if f >= unit.size {
			return strconv.FormatFloat(f/size, 'g', 3, 64) + unit.name
		}
	}
	return count(n)
}

// money writes sums in millionths, by currency; nothing at all is a dash.
func money(sums map[string]int64) string {
	var parts []string
	for _, currency := range slices.Sorted(maps.Keys(sums)) {
		parts = append(parts, amount(float64(sums[currency])/1e6, currency))
	}
	if len(parts) == 0 {
		return "–"
	}
	return strings.Join(parts, " + ")
}

// cents writes an amount in minor units, with two of them.
func cents(n int64, currency string) string {
	return symbol(currency) + strconv.FormatFloat(float64(n)/100, 'f', 2, 64)
}

// amount shows as many digits as a small amount needs to be told from nothing.
func amount(f float64, currency string) string {
	digits := 2
	switch {
	case f != 0 && f < 0.01:
		digits = 6
	case f < 1:
		digits = 4
	}
	return symbol(currency) + strconv.FormatFloat(f, 'f', digits, 64)
}

func symbol(currency string) string {
	switch strings.ToUpper(currency) {
	case "USD":
		return "$"
	case "EUR":
		return "€"
	case "GBP":
		return "£"
	}
	return strings.ToUpper(currency) + " "
}

// when is a moment in UTC, as the reports have it.
func when(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// ago is how long a moment is past.
func ago(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// wait is a time in seconds as a person says it.
func wait(seconds float64) string {
	switch {
	case seconds < 1:
		return "now"
	case seconds < 120:
		return fmt.Sprintf("in %.0f s", seconds)
	case seconds < 7200:
		return fmt.Sprintf("in %.0f min", seconds/60)
	case seconds < 48*3600:
		return fmt.Sprintf("in %.0f h", seconds/3600)
	}
	return fmt.Sprintf("in %.0f days", seconds/86400)
}

// percent of a part, 0 of nothing.
func percent(part, all int64) string {
	if all == 0 {
		return "0 %"
	}
	p := 100 * float64(part) / float64(all)
	if p > 0 && p < 0.1 {
		return "< 0.1 %"
	}
	return strconv.FormatFloat(p, 'f', 1, 64) + " %"
}

// width is the part of a bar that is 100 wide, between 0 and 100.
func width(part, all float64) string {
	if all <= 0 {
		return "0"
	}
	return strconv.FormatFloat(min(max(100*part/all, 0), 100), 'f', 2, 64)
}

// place is an address as people tell one from another: of a Unix socket its file's name.
func place(address string) string {
	if file, ok := strings.CutPrefix(address, "unix:"); ok {
		return file[strings.LastIndexByte(file, '/')+1:]
	}
	return address
}
