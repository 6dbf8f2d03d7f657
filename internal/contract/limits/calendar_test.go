package limits_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// ofCalendar is the rule of a file that counts by the calendar.
func ofCalendar(tb testing.TB, unit, zone string) *limits.Rule {
	tb.Helper()
	set, err := limits.ParseWith([]byte("domain: d\ndescriptors: [{key: k, rate_limit: {unit: "+unit+
		", requests_per_unit: 1}, metadata: {rate_limit_policy: {window: calendar, time_zone: "+zone+"}}}]\n"), limits.Options{AnyKeys: true})
	if err != nil {
		tb.Fatal(err)
	}
	return set.Rules()[0]
}

func TestWindowsOfTheCalendar(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ unit, zone, at, begin, end string }{
		"a month":                         {"month", "UTC", "2027-02-14T12:00:00Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"},
		"a month of a leap year":          {"month", "UTC", "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		"the first moment":                {"month", "UTC", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"},
		"the last moment":                 {"month", "UTC", "2026-12-31T23:59:59.999999Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		"a month elsewhere":               {"month", "Europe/Berlin", "2026-10-31T23:30:00Z", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"},
		"a year":                          {"year", "America/New_York", "2027-01-01T04:59:59Z", "2026-01-01T05:00:00Z", "2027-01-01T05:00:00Z"},
		"a week begins on Monday":         {"week", "UTC", "2026-11-29T22:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"},
		"a Monday":                        {"week", "UTC", "2026-11-30T00:00:00Z", "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"},
		"a week over a new year":          {"week", "Asia/Kathmandu", "2027-01-01T00:00:00Z", "2026-12-27T18:15:00Z", "2027-01-03T18:15:00Z"},
		"a day of 23 hours":               {"day", "Europe/Berlin", "2027-03-28T12:00:00Z", "2027-03-27T23:00:00Z", "2027-03-28T22:00:00Z"},
		"a day of 25 hours":               {"day", "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
		"a day that begins at 1 o'clock":  {"day", "Asia/Beirut", "2024-03-31T09:00:00Z", "2024-03-30T22:00:00Z", "2024-03-31T21:00:00Z"},
		"the day before such a day":       {"day", "Asia/Beirut", "2024-03-30T21:30:00Z", "2024-03-29T22:00:00Z", "2024-03-30T22:00:00Z"},
		"a day without a midnight":        {"day", "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		"the day before it":               {"day", "America/Sao_Paulo", "2018-11-04T02:59:59Z", "2018-11-03T03:00:00Z", "2018-11-04T03:00:00Z"},
		"a month from such a day":         {"month", "America/Asuncion", "2023-10-01T12:00:00Z", "2023-10-01T04:00:00Z", "2023-11-01T03:00:00Z"},
		"no 29th in 2100":                 {"month", "UTC", "2100-02-28T23:59:59Z", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z"},
		"a year of 366 days":              {"year", "Asia/Tokyo", "2027-12-31T15:00:00Z", "2027-12-31T15:00:00Z", "2028-12-31T15:00:00Z"},
		"the day before one left out":     {"day", "Pacific/Apia", "2011-12-30T09:00:00Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
		"the day after one left out":      {"day", "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		"a day whose midnight comes back": {"day", "Atlantic/Azores", "2026-10-25T12:00:00Z", "2026-10-25T00:00:00Z", "2026-10-26T01:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse(time.RFC3339, tc.at)
			if err != nil {
				t.Fatal(err)
			}
			begin, end := ofCalendar(t, tc.unit, tc.zone).Window(at)
			if b, e := begin.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339); b != tc.begin || e != tc.end {
				t.Errorf("want %s to %s, got %s to %s", tc.begin, tc.end, b, e)
			}
		})
	}
}

// TestWindowsCoverTime: in every zone each moment is in one window, which the next one follows.
func TestWindowsCoverTime(t *testing.T) {
	t.Parallel()
	rules := map[string]*limits.Rule{}
	for _, unit := range []string{"day", "week", "month", "year"} {
		for _, zone := range []string{"UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Beirut", "Atlantic/Azores", "Australia/Lord_Howe",
			"America/Havana", "Asia/Gaza", "Pacific/Chatham", "Pacific/Apia"} {
			rules[unit+" in "+zone] = ofCalendar(t, unit, zone)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		at := time.UnixMicro(rapid.Int64Range(1_000_000_000_000_000, 2_500_000_000_000_000).Draw(t, "at"))
		for name, r := range rules {
			begin, end := r.Window(at)
			if at.Before(begin) || !at.Before(end) {
				t.Fatalf("a %s: %s is not in %s to %s", name, at, begin, end)
			}
			if next, _ := r.Window(end); !next.Equal(end) {
				t.Fatalf("a %s: after %s comes %s", name, end, next)
			}
			if same, _ := r.Window(end.Add(-time.Microsecond)); !same.Equal(begin) {
				t.Fatalf("a %s: its last moment is in a window from %s, its first from %s", name, same, begin)
			}
			if near := end.Sub(begin) - r.Period; max(near, -near) > r.Period/10 {
				t.Fatalf("a %s from %s to %s", name, begin, end)
			}
		}
	})
}

func TestWindowsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]string{
		"{window: kalendar}":                                   `2:133: unknown window "kalendar"; did you mean "calendar"?`,
		"{time_zone: Europe/Berlin}":                           "2:136: time_zone goes with window: calendar",
		"{window: calendar, time_zone: Europe/Berln}":          `2:154: unknown time_zone "Europe/Berln"; write a name of the IANA database`,
		"{window: calendar, time_zone: Local}":                 `unknown time_zone "Local"`,
		`{window: calendar, time_zone: ""}`:                    `unknown time_zone ""`,
		"{window: calendar, time_zone: ../../etc/passwd}":      "unknown time_zone",
		"{window: calendar, algorithm: leaky_bucket}":          "a leaky_bucket has no windows",
		"{window: calendar, time_zone: [Europe/Berlin]}":       "time_zone must be text",
		"{window: calendar, burst: 9}":                         "a fixed_window has no burst",
		"{window: calendar, zone: UTC}":                        `unknown key "zone" in rate_limit_policy`,
		"{window: calendar, time_zone: UTC}, unit_is_an: hour": "windows of the calendar are those of a day, week, month or year; the unit is hour",
	} {
		unit := "month"
		if p, ok := strings.CutSuffix(policy, ", unit_is_an: hour"); ok {
			policy, unit = p, "hour"
		}
		_, err := limits.Parse([]byte("domain: leaky\ndescriptors: [{key: count, value: requests, rate_limit: {unit: " + unit +
			", requests_per_unit: 1}, metadata: {rate_limit_policy: " + policy + "}}]\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", policy, want, err)
		}
	}
}
