package judge

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Table aligns columns: the first to the left, the others to the right.
type Table struct{ rows [][]string }

// Add adds a row.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *Table) String() string {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		if len(row) == 1 {
			b.WriteString(row[0] + "\n")
			continue
		}
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch {
			case i == 0:
				b.WriteString(cell + pad)
			default:
				b.WriteString("  " + pad + cell)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Thousands writes 1204567 as 1,204,567.
func Thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	start := 0
	if n < 0 {
		start = 1
	}
	for at := len(text) - 3; at > start; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// Short writes 1204567 as 1.2M.
func Short(f float64) string {
	switch {
	case f >= 999_950_000:
		return fmt.Sprintf("%.1fG", f/1e9)
	case f >= 999_500:
		return fmt.Sprintf("%.1fM", f/1e6)
	case f >= 999.5:
		return fmt.Sprintf("%.0fk", f/1e3)
	}
	return strconv.Itoa(int(math.Round(f)))
}

func percent(f float64) string { return fmt.Sprintf("%.1f%%", 100*f) }

// Print writes the verdict for people.
func (v Verdict) Print(to io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s requests in %.1f s, seed %d\n\n", Thousands(int64(v.Requests)), v.Seconds, v.Seed)
	v.printAccounts(&b)
	v.printOutages(&b)
	v.printManners(&b)
	v.printBooks(&b)
	for _, d := range v.Disagreements {
		fmt.Fprintf(&b, "  %s %s at %s: %s (stub %s, Redis %s, ClickHouse %s)\n", d.ID, d.Account, d.Provider, d.Why, told(d.Stub),
			told(d.Redis), told(d.ClickHouse))
	}
	for _, note := range v.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	switch {
	case v.OK && v.OpenOver > 0:
		b.WriteString("\nOK: no bound was exceeded, and the books agree.\n")
	case v.OK:
		b.WriteString("\nOK: nothing went over a limit, and the books agree.\n")
	default:
		b.WriteString("\nNOT OK:\n")
		for _, reason := range v.Reasons {
			fmt.Fprintf(&b, "  - %s\n", reason)
		}
	}
	_, err := io.WriteString(to, b.String())
	return err
}

func (v Verdict) printAccounts(b *strings.Builder) {
	var t Table
	t.Add("account / provider", "admitted", "refused", "aborted", "failed", "held", "settled", "estimated", "expired", "served", "allowed",
		"over")
	for _, a := range v.Accounts {
		t.Add(a.Name + " (" + a.Tier + ")")
		for _, l := range a.Providers {
			t.Add("  "+l.Provider, Thousands(int64(l.Admitted)), Thousands(int64(l.Refused)), Thousands(int64(l.Aborted)),
				Thousands(int64(l.Failed)),
				Thousands(l.Held), Thousands(l.Settled), fmt.Sprintf("%s (%s)", Thousands(l.EstTokens), Thousands(int64(l.Estimated))),
				fmt.Sprintf("%s (%s)", Thousands(l.ExpTokens), Thousands(int64(l.Expired))),
				Thousands(l.Served), Thousands(int64(l.Allowed)), Thousands(l.Over))
		}
	}
	b.WriteString(t.String())
	b.WriteString("Columns from held on are tokens, with the number of calls in brackets; served is the stub's own count with aborted\n" +
		"streams, allowed is capacity + leak * time.\n\n")
}

func (v Verdict) printManners(b *strings.Builder) {
	if len(v.Manners) == 0 {
		return
	}
	var t Table
	t.Add("manner", "calls", "refused", "told", "estimated", "free", "charged", "served")
	for _, m := range v.Manners {
		t.Add(m.Manner, Thousands(int64(m.Calls)), Thousands(int64(m.Refused)), Thousands(int64(m.Told)), Thousands(int64(m.Estimated)),
			Thousands(int64(m.Free)), Thousands(m.Charged), Thousands(m.Served))
	}
	b.WriteString(t.String())
	b.WriteString("Told are calls charged by the provider's count, free those that cost nothing. Who left before the first byte has no\n" +
		"id to look for; the books know them.\n\n")
}

func (v Verdict) printBooks(b *strings.Builder) {
	fmt.Fprintf(b, "tokens over the limit: %s", Thousands(v.Over))
	if v.OpenOver > 0 {
		fmt.Fprintf(b, ", and %s where the outage admitted everything", Thousands(v.OpenOver))
	}
	b.WriteString("\n")
	k := v.Books
	fmt.Fprintf(b, "books: %s of %s calls with a provider's count are equal at the stub, in Redis and in ClickHouse; %s\n",
		Thousands(int64(k.Agreed)), Thousands(int64(k.Compared)), Count(k.Differing, "disagreement"))
	fmt.Fprintf(b, "events: %s of %s found, %s missing, %s double, %s of refusals in one; %s of calls no client saw answered; %s open\n",
		Thousands(int64(k.Found)), Thousands(int64(k.Expected)),
		Thousands(int64(k.Missing)), Thousands(int64(k.Double)), Thousands(int64(k.Skipped)),
		Thousands(int64(k.Unclaimed)), Count(k.Open, "hold"))
	if e := v.Estimates; e.Count > 0 {
		fmt.Fprintf(b, "estimates: %s (charged %s, served %s tokens): error mean %s, worst %s (%s), bias %+.1f%%\n",
			Count(e.Count, "aborted or broken call"), Thousands(e.Charged), Thousands(e.Served), percent(e.Mean), percent(e.Worst),
			cmp.Or(e.WorstID, "none"), 100*e.Bias)
	}
}

// told writes a count of a book, "-" when the book says nothing.
func told(n int64) string {
	if n < 0 {
		return "-"
	}
	return Thousands(n)
}
