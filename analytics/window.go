package analytics

import (
	"net/http"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// span puts the time of a query into a filter, half-open: from and to as they are given, else the
// last so many minutes, to the millisecond.
func (p params) span(f *Filter, byDefault time.Duration, now time.Time) (err error) {
	if f.From, err = p.moment("from"); err != nil {
		return err
	}
	if f.To, err = p.moment("to"); err != nil {
		return err
	}
	if f.To.IsZero() {
		f.To = now.UTC().Truncate(time.Millisecond)
	}
	if f.From.IsZero() {
		f.From = f.To.Add(-byDefault)
	}
	if !f.From.Before(f.To) {
		return bad("from must be before to")
	}
	return nil
}

// window is span for the queries that count minutes: windowMinutes, or from and to, and not both.
func (p params) window(f *Filter, now time.Time) error {
	minutes, err := p.positive("windowMinutes", reportMinutes, reportMinutesMost)
	if err != nil {
		return err
	}
	if p.values.Has("windowMinutes") && p.values.Has("from") {
		return bad("windowMinutes and from say both where the window begins; leave one out")
	}
	return p.span(f, time.Duration(minutes)*time.Minute, now)
}

// Intervals of trends.
const (
	perMinute = "minute"
	perHour   = "hour"
	perDay    = "day"
	perWeek   = "week" // from Monday, ISO 8601
	perMonth  = "month"
)

// mostBuckets is how many buckets a trend may have.
const mostBuckets = 5000

// calendar cuts time into buckets of a named zone. Days, weeks and months begin at midnight there, as
// the windows of limits do, also on the days that have 23 or 25 hours and on those that begin at one
// o'clock; hours and minutes are as long as the clock's.
type calendar struct {
	interval string
	zone     *time.Location
}

// calendar reads interval and zone.
func (p params) calendar(span time.Duration) (calendar, error) {
	interval, err := p.text("interval")
	if err != nil {
		return calendar{}, err
	}
	switch interval {
	case perMinute, perHour, perDay, perWeek, perMonth:
	case "":
		if interval = perHour; span > 48*time.Hour {
			interval = perDay
		}
	default:
		return calendar{}, bad("interval must be one of minute, hour, day, week, month")
	}
	name, err := p.text("zone")
	if err != nil {
		return calendar{}, err
	}
	zone, err := time.LoadLocation(name) // UTC for an empty name
	if err != nil || name == "Local" {
		return calendar{}, bad("zone must be a name of the time zone database, such as Europe/Berlin")
	}
	return calendar{interval, zone}, nil
}

// start is the beginning of the bucket that a moment is in.
func (c calendar) start(at time.Time) time.Time {
	local := at.In(c.zone)
	year, month, day := local.Date()
	switch c.interval {
	case perDay:
		return limits.Midnight(year, month, day, c.zone)
	case perWeek:
		return limits.Midnight(year, month, day-(int(local.Weekday())+6)%7, c.zone)
	case perMonth:
		return limits.Midnight(year, month, 1, c.zone)
	}
	size := int64(time.Minute / time.Second)
	if c.interval == perHour {
		size = int64(time.Hour / time.Second)
	}
	_, offset := local.Zone()
	into := (at.Unix() + int64(offset)) % size
	return time.Unix(at.Unix()-into, 0).In(c.zone)
}

// after is the beginning of the next bucket.
func (c calendar) after(start time.Time) time.Time {
	year, month, day := start.Date()
	switch c.interval {
	case perDay:
		return limits.Midnight(year, month, day+1, c.zone)
	case perWeek:
		return limits.Midnight(year, month, day+7, c.zone)
	case perMonth:
		return limits.Midnight(year, month+1, 1, c.zone)
	case perHour:
		return start.Add(time.Hour)
	}
	return start.Add(time.Minute)
}

// buckets are the beginnings of all buckets of [from, to), and the end of the last.
func (c calendar) buckets(from, to time.Time) ([]time.Time, error) {
	starts := []time.Time{c.start(from)}
	for {
		next := c.after(starts[len(starts)-1])
		starts = append(starts, next)
		if !next.Before(to) {
			return starts, nil
		}
		if len(starts) > mostBuckets {
			return nil, httpapi.Fail(http.StatusBadRequest, "more than %d buckets; ask for a shorter time or a longer interval", mostBuckets)
		}
	}
}
