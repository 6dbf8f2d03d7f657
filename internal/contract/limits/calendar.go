package limits

import (
	"strings"
	"time"
	_ "time/tzdata" // a machine without zones of its own reads the same files

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// wordCalendar is the window of a rule that counts by the calendar.
const wordCalendar = "calendar"

// window reads "window: calendar" and the time zone that goes with it.
func (p *reader) window(m map[string]field, r *Rule) bool {
	zone, zoned := m["time_zone"]
	f, ok := m["window"]
	if !ok {
		if zoned {
			p.fail(zone.at(), "time_zone goes with window: calendar")
		}
		return !zoned
	}
	switch name := p.text(f); {
	case name != wordCalendar:
		p.fail(f.at(), "unknown window %q%s; only calendar, else windows count from 1970 in UTC", name, wording.DidYouMean(name, []string{wordCalendar}))
		return false
	case r.Unlimited:
		p.fail(f.at(), "an unlimited rule has no window")
		return false
	case r.Algorithm != FixedWindow:
		p.fail(f.at(), "a %s has no windows; leave window out, or algorithm", r.Algorithm)
		return false
	case r.Period < 24*time.Hour:
		p.fail(f.at(), "windows of the calendar are those of a day, week, month or year; the unit is %s", PeriodName(r.Period))
		return false
	}
	r.Calendar = time.UTC
	if !zoned {
		return true
	}
	name := p.text(zone)
	loaded, err := time.LoadLocation(name)
	if err != nil || name == "" || strings.EqualFold(name, "local") { // whose clock that is depends on the machine
		p.fail(zone.at(), "unknown time_zone %q; write a name of the IANA database, as Europe/Berlin, or UTC", name)
		return false
	}
	r.Calendar = loaded
	return true
}

// Window is the window of the rule's period that a time is in: begin is in it, end in the next one.
// Without a Calendar they count from the epoch; weeks of a calendar begin on Monday (ISO 8601).
func (r *Rule) Window(at time.Time) (begin, end time.Time) {
	if r.Calendar == nil {
		begin = time.UnixMicro(at.UnixMicro() - at.UnixMicro()%r.Period.Microseconds()).UTC()
		return begin, begin.Add(r.Period)
	}
	year, month, day := at.In(r.Calendar).Date()
	midnight := func(year int, month time.Month, day int) time.Time { return Midnight(year, month, day, r.Calendar) }
	switch r.Period {
	case period("week"):
		day -= (int(at.In(r.Calendar).Weekday()) + 6) % 7
		return midnight(year, month, day), midnight(year, month, day+7)
	case period("month"):
		return midnight(year, month, 1), midnight(year, month+1, 1)
	case period("year"):
		return midnight(year, time.January, 1), midnight(year+1, time.January, 1)
	}
	return midnight(year, month, day), midnight(year, month, day+1)
}

// clockStep is that by which clocks are set, or a whole part of it.
const clockStep = 15 * time.Minute

// Midnight is when a day begins in a zone; months and days that are too large count on, as those of
// time.Date do. Where clocks are set at midnight, that is not always at 0:00, and 0:00 may come twice
// (time.Date takes either of them then, or a time of the day before). A day that a zone left out, as
// Samoa did when it crossed the date line, begins with the next.
func Midnight(year int, month time.Month, day int, zone *time.Location) time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	noon := time.Date(year, month, day, 12, 0, 0, 0, zone)
	before := func(t time.Time) bool { return t.YearDay() != noon.YearDay() || t.Year() != noon.Year() }
	for range 25 * time.Hour / clockStep { // a day that is left out, and an hour
		if !before(t) {
			break
		}
		t = t.Add(clockStep)
	}
	for range 3 * time.Hour / clockStep {
		if before(t.Add(-clockStep)) {
			break
		}
		t = t.Add(-clockStep)
	}
	return t
}
