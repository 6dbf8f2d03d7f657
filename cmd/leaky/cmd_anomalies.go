package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
)

type anomaliesCommand struct {
	output
	Since   string  `help:"Hours that began since: a time of RFC 3339, a day, or so long ago (36h); a week at most." default:"3h" placeholder:"TIME"`
	Score   float64 `help:"Modified z-score from which use is unusual, 1 to 1000." default:"6"`
	Support int     `help:"Weeks before, at least, that an hour is judged by, 2 to 8." default:"4"`
	Least   int64   `help:"Tokens: a smaller difference is none." default:"1000"`
}

// Help shows how it is used.
func (anomaliesCommand) Help() string {
	return `Judges each complete hour of every account, key and model by the median and the median absolute deviation of the same hour of the eight weeks before. Who has been there for fewer weeks than --support is not judged.

Examples:

    leaky anomalies
    leaky anomalies --since 24h --score 4
    leaky anomalies --since 24h -o json | jq '.[] | select(.dimension == "key")'`
}

// mostHours bounds how far back hours are judged.
const mostHours = 7 * 24

// Run prints them.
func (k anomaliesCommand) Run(ctx context.Context, c *cli) error {
	r := analytics.DefaultRobust()
	switch {
	case !(k.Score >= 1 && k.Score <= 1000):
		return errors.New("--score must be 1 to 1000")
	case k.Support < 2 || k.Support > r.Weeks:
		return fmt.Errorf("--support must be 2 to %d", r.Weeks)
	case k.Least < 1:
		return errors.New("--least must be 1 or more")
	}
	r.Score, r.Support, r.Least = k.Score, k.Support, k.Least
	now := time.Now().UTC()
	from, err := moment(k.Since, now)
	if err != nil {
		return fmt.Errorf("--since: %w", err)
	}
	first, end := from.UTC().Truncate(time.Hour), now.Truncate(time.Hour)
	if end.Sub(first) > mostHours*time.Hour {
		return errors.New("--since must be within a week")
	}
	store, err := openEvents(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	all, rows := []notice.Anomaly{}, [][]string{}
	for hour := first; hour.Before(end); hour = hour.Add(time.Hour) {
		found, err := store.Unusual(ctx, r, hour)
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	n := func(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
	for _, a := range all {
		rows = append(rows, []string{a.Hour.Format(time.RFC3339), a.Dimension, a.Name, strconv.FormatInt(a.Tokens, 10), n(a.Median), n(a.MAD),
			n(a.Score), strconv.Itoa(a.Support)})
	}
	return k.print(os.Stdout, all, []string{"HOUR", "OF", "NAME", "TOKENS", "MEDIAN", "MAD", "SCORE", "WEEKS"}, rows)
}
