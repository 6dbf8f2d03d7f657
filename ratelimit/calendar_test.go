package ratelimit_test

import (
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

const calendar = `
domain: shop
descriptors:
  - {key: month, rate_limit: {unit: month, requests_per_unit: 5}, metadata: {rate_limit_policy: {window: calendar, time_zone: Europe/Berlin}}}
  - {key: day, rate_limit: {unit: day, requests_per_unit: 5}, metadata: {rate_limit_policy: {window: calendar, time_zone: Europe/Berlin}}}
  - {key: year, rate_limit: {unit: year, requests_per_unit: 5}, metadata: {rate_limit_policy: {window: calendar}}}
`

// TestWindowsOfTheCalendar uses a limit up and comes back a second before and at the moment when the
// next window begins.
func TestWindowsOfTheCalendar(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ key, from, until string }{
		"a month":           {"month", "2026-11-14T12:00:00Z", "2026-11-30T23:00:00Z"},
		"the shortest":      {"month", "2027-02-14T12:00:00Z", "2027-02-28T23:00:00Z"},
		"clocks are set":    {"month", "2027-03-14T12:00:00Z", "2027-03-31T22:00:00Z"},
		"a day of 25 hours": {"day", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
		"a year":            {"year", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, now := foreignEnv(t, calendar)
			at := func(text string) int64 {
				when, err := time.Parse(time.RFC3339, text)
				if err != nil {
					t.Fatal(err)
				}
				return when.UnixMicro()
			}
			now.Store(at(tc.from))
			r := e.asked(t, of(tc.key, "x", 5))
			if reset := r.GetStatuses()[0].GetDurationUntilReset().GetSeconds(); over(r) || reset != (at(tc.until)-at(tc.from))/1e6 {
				t.Errorf("the first five: want them admitted and a reset at %s, got %v", tc.until, r)
			}
			now.Store(at(tc.until) - 1e6)
			if r := e.asked(t, of(tc.key, "x", 1)); !over(r) || r.GetStatuses()[0].GetDurationUntilReset().GetSeconds() != 1 {
				t.Errorf("a second before the end: want it refused for a second, got %v", r)
			}
			now.Store(at(tc.until))
			if r := e.asked(t, of(tc.key, "x", 5)); over(r) || r.GetStatuses()[0].GetLimitRemaining() != 0 {
				t.Errorf("in the next window: want five admitted, got %v", r)
			}
		})
	}
}

// TestLimitsThatChange gives a limit another unit, algorithm, window or zone while it is used, and back:
// what was used stays.
func TestLimitsThatChange(t *testing.T) {
	t.Parallel()
	file := func(unit, policy string) string {
		return "domain: shop\ndescriptors: [{key: k, rate_limit: {unit: " + unit + ", requests_per_unit: 10}, metadata: {rate_limit_policy: {" +
			policy + "}}}]\n"
	}
	e, _ := foreignEnv(t, file("hour", ""))
	own, err := limits.Load("")
	if err != nil {
		t.Fatal(err)
	}
	if r := e.asked(t, of("k", "x", 7)); r.GetStatuses()[0].GetLimitRemaining() != 3 {
		t.Fatalf("seven of ten: got %v", r)
	}
	const berlin = "window: calendar, time_zone: Europe/Berlin"
	for _, step := range []struct{ unit, policy string }{{"day", ""}, {"minute", ""}, {"month", berlin}, {"hour", "algorithm: leaky_bucket"},
		{"day", "window: calendar, time_zone: Asia/Tokyo"}, {"year", "algorithm: token_bucket, burst: 10"}, {"day", berlin}, {"hour", ""}} {
		set, err := limits.ParseWith([]byte(file(step.unit, step.policy)), limits.Options{AnyKeys: true})
		if err != nil {
			t.Fatal(err)
		}
		e.service.SetPolicy(ratelimit.Policy{Limits: own, Domains: []*limits.Set{set}})
		if r := e.asked(t, of("k", "x", 0)); over(r) || r.GetStatuses()[0].GetLimitRemaining() != 3 {
			t.Errorf("by the %s, %s: want 3 left, got %v", step.unit, step.policy, r)
		}
	}
	if r := e.asked(t, of("k", "x", 3)); r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Errorf("the last three: %v", r)
	}
	if r := e.asked(t, of("k", "x", 1)); !over(r) {
		t.Errorf("one more: %v", r)
	}
}
