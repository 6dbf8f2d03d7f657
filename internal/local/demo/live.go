package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

const (
	pollEvery   = 500 * time.Millisecond
	redrawEvery = 500 * time.Millisecond
	lineEvery   = 5 * time.Second // when Progress is no terminal
	tellEvery   = 2 * time.Second
)

// view is what the live table shows at one moment.
type view struct {
	Elapsed, For time.Duration
	Down         []string // parts that were killed and are not back
	Providers    []string
	Rows         []viewRow
}

type viewRow struct {
	Name   string
	Tally  tally
	Rate   float64       // settled tokens per second, lately
	Limits []judge.Limit // in the order of Providers
}

// show polls the books and draws until done is closed.
func (d *Demo) show(ctx context.Context, done <-chan struct{}, start time.Time, accounts []judge.Account, b *book, w *watcher,
	down func() []string) {
	p := newPainter(d.cfg.Progress, d.cfg.Width)
	v := view{For: d.cfg.For, Rows: make([]viewRow, len(accounts))}
	for _, t := range d.cfg.Targets {
		v.Providers = append(v.Providers, t.Provider)
	}
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	last := start
	for {
		select {
		case <-done:
			v.fill(time.Since(start), time.Since(last), accounts, b.snapshot(), w.limits)
			v.Down = down()
			p.paint(v, true)
			return
		case <-ticker.C:
		}
		_ = w.tick(ctx) // a part that is down now is read in the drain, which tells
		v.fill(time.Since(start), time.Since(last), accounts, b.snapshot(), w.limits)
		v.Down = down()
		last = time.Now()
		p.paint(v, false)
	}
}

// fill brings the view up to date; since is how long ago that was done before.
func (v *view) fill(elapsed, since time.Duration, accounts []judge.Account, tallies []tally, limits map[judge.Pair]judge.Limit) {
	v.Elapsed = elapsed
	for i, a := range accounts {
		row := &v.Rows[i]
		if since > 0 {
			now := float64(tallies[i].Settled-row.Tally.Settled) / since.Seconds()
			row.Rate += (now - row.Rate) * 0.3 // smooth: settles come in batches
		}
		row.Name, row.Tally, row.Limits = a.Name, tallies[i], row.Limits[:0]
		for _, provider := range v.Providers {
			row.Limits = append(row.Limits, limits[judge.Pair{Account: i, Provider: provider}])
		}
	}
}

// render is the live table.
func (v *view) render() string {
	var t judge.Table
	head := []string{"account", "admitted", "refused", "aborted", "failed", "settled tokens", "tokens/s"}
	for _, provider := range v.Providers {
		head = append(head, provider+" level")
	}
	t.Add(head...)
	for _, r := range v.Rows {
		cells := []string{r.Name, judge.Thousands(int64(r.Tally.Admitted)), judge.Thousands(int64(r.Tally.Refused)),
			judge.Thousands(int64(r.Tally.Aborted)), judge.Thousands(int64(r.Tally.Failed)), judge.Thousands(r.Tally.Settled),
			judge.Thousands(int64(r.Rate))}
		for _, l := range r.Limits {
			cells = append(cells, judge.Short(l.Level)+"/"+judge.Short(l.Capacity))
		}
		t.Add(cells...)
	}
	left := max(0, v.For-v.Elapsed)
	return fmt.Sprintf("leaky demo: %s gone, %s left%s\n%s", v.Elapsed.Round(time.Second), left.Round(time.Second), v.away(", "), t.String())
}

// away says after a separator what is down, nothing when nothing is.
func (v *view) away(separator string) string {
	if len(v.Down) == 0 {
		return ""
	}
	return separator + strings.Join(v.Down, " and ") + " DOWN"
}

// line is the live table as one line for a log.
func (v *view) line() string {
	parts := []string{v.Elapsed.Round(time.Second).String() + v.away(" ")}
	for _, r := range v.Rows {
		parts = append(parts, fmt.Sprintf("%s: %s admitted, %s refused, %s aborted, %s tokens settled", r.Name,
			judge.Thousands(int64(r.Tally.Admitted)),
			judge.Thousands(int64(r.Tally.Refused)), judge.Thousands(int64(r.Tally.Aborted)), judge.Thousands(r.Tally.Settled)))
	}
	return strings.Join(parts, " | ")
}

// painter draws over its last picture on a terminal, and writes a line now and then elsewhere.
type painter struct {
	to    io.Writer
	width func() int
	lines int // of the last picture
	last  time.Duration
}

func newPainter(to io.Writer, width func() int) *painter { return &painter{to: to, width: width} }

func (p *painter) paint(v view, final bool) {
	if p.width == nil {
		if final || v.Elapsed-p.last >= lineEvery {
			p.last = v.Elapsed
			fmt.Fprintln(p.to, v.line())
		}
		return
	}
	if !final && v.Elapsed-p.last < redrawEvery/2 {
		return
	}
	p.last = v.Elapsed
	picture := clip(v.render(), p.width())
	if p.lines > 0 {
		fmt.Fprintf(p.to, "\x1b[%dA\x1b[J", p.lines)
	}
	fmt.Fprint(p.to, picture)
	p.lines = strings.Count(picture, "\n")
}

// clip cuts lines to the terminal's width: a wrapped line would break the redraw.
func clip(text string, width int) string {
	if width <= 0 {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if runes := []rune(line); len(runes) > width {
			lines[i] = string(runes[:width])
		}
	}
	return strings.Join(lines, "\n")
}

// newTeller says what the drain waits for, now and then.
func newTeller(to io.Writer) func(string) {
	var last time.Time
	said := ""
	return func(what string) {
		if what == said || time.Since(last) < tellEvery {
			return
		}
		last, said = time.Now(), what
		fmt.Fprintln(to, what)
	}
}
