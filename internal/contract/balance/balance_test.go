package balance_test

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
)

func TestIndex(t *testing.T) {
	t.Parallel()
	anchor := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		window time.Duration
		at     time.Time
		want   int64
	}{
		"prepaid":            {0, anchor.Add(1000 * time.Hour), 0},
		"at the anchor":      {time.Hour, anchor, 0},
		"before the anchor":  {time.Hour, anchor.Add(-time.Minute), 0},
		"just within":        {time.Hour, anchor.Add(time.Hour - time.Nanosecond), 0},
		"on the border":      {time.Hour, anchor.Add(time.Hour), 1},
		"in another century": {24 * time.Hour, anchor.Add(100 * 365 * 24 * time.Hour), 36500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := (balance.State{Window: tc.window, Anchor: anchor}).Index(tc.at); got != tc.want {
				t.Errorf("want window %d, got %d", tc.want, got)
			}
		})
	}
}

func TestDecodeRefusesNonsense(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no json":                  `{`,
		"no account":               `{"provider":"openai"}`,
		"an address":               `{"account":"ip:10.0.0.1","provider":"openai"}`,
		"no provider":              `{"account":"user:u"}`,
		"a provider with a dot":    `{"account":"user:u","provider":"a.b"}`,
		"negative credits":         `{"account":"user:u","provider":"openai","credits":-1}`,
		"credits over int64":       `{"account":"user:u","provider":"openai","credits":9223372036854775808}`,
		"a window without anchor":  `{"account":"user:u","provider":"openai","window":1}`,
		"a fraction of a token":    `{"account":"user:u","provider":"openai","spent":0.5}`,
		"a version that is a text": `{"account":"user:u","provider":"openai","version":"1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if s, err := balance.Decode([]byte(text)); !errors.Is(err, balance.ErrMalformed) {
				t.Errorf("want ErrMalformed, got %+v, %v", s, err)
			}
		})
	}
}

// FuzzDecode: whatever is taken passes the check and reads the same when written again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"account":"user:u","provider":"openai","present":true,"version":3,"credits":100,"spent":7,"window":86400000000000,"anchor":"2026-11-01T00:00:00Z","at":"2026-11-22T00:00:00Z"}`))
	f.Add([]byte(`{"account":"org:o","provider":"gemini"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := balance.Decode(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			return // a time with a year that RFC 3339 has no room for
		}
		if back, err := balance.Decode(again); err != nil || back.Version != s.Version || back.Index(s.At) != s.Index(s.At) || s.Index(s.At) < 0 {
			t.Errorf("%s: want %+v, got %+v, %v", again, s, back, err)
		}
	})
}

func TestWhatIsOverdrawnIsCarriedOverWindows(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ spent, credits, windows, want int64 }{
		"the same window":    {7000, 5000, 0, 7000},
		"an earlier one":     {7000, 5000, -1, 7000},
		"all of it spent":    {5000, 5000, 1, 0},
		"overdrawn":          {48606, 5000, 1, 43606},
		"three windows":      {48606, 5000, 3, 33606},
		"paid":               {48606, 5000, 10, 0},
		"more than a number": {1 << 52, 1 << 52, math.MaxInt64, 0},
		"gives nothing":      {100, 0, 1000, 100},
	} {
		if got := balance.Carried(c.spent, c.credits, c.windows); got != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, got)
		}
	}
}
