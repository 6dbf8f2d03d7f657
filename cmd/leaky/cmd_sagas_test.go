package main

import (
	"math"
	"testing"
)

func TestMoneyIsInTheCurrencysOwnUnit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		minor    int64
		currency string
		want     string
	}{
		{3, "usd", "0.03 USD"}, {100, "eur", "1.00 EUR"}, {123456, "USD", "1234.56 USD"}, {0, "usd", "0.00 USD"}, {-7, "usd", "-0.07 USD"},
		{3, "jpy", "3 JPY"}, {1234, "kwd", "1.234 KWD"}, {math.MinInt64, "usd", "-92233720368547758.08 USD"},
		{3, "tokens", `3 minor units of "tokens"`}, {3, "", `3 minor units of ""`},
	} {
		if got := money(c.minor, c.currency); got != c.want {
			t.Errorf("%d of %s: want %q, got %q", c.minor, c.currency, c.want, got)
		}
	}
}
