package main

import (
	"testing"
	"time"
)

func TestMoment(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-01":                time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		"2026-11-01T08:00:00+02:00": time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC),
		"36h":                       time.Date(2026, 11, 19, 0, 0, 0, 0, time.UTC),
		"7d":                        time.Date(2026, 11, 13, 12, 0, 0, 0, time.UTC),
		"-1h":                       {}, "yesterday": {}, "": {}, "0s": {}, "0d": {}, "-1d": {}, "99999d": {},
	} {
		got, err := moment(text, now)
		if (err != nil) != want.IsZero() || !got.Equal(want) {
			t.Errorf("%q: want %v, got %v, %v", text, want, got, err)
		}
	}
}
