package prices

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
)

// Rate is a price in micro-units of the currency for a million tokens, exact: 2.5 USD are
// 2 500 000. It is 0 to 10^12, a million of the currency for a million tokens.
type Rate int64

const mostRate Rate = 1e12

// decimal is how a rate is written: at most six digits after the point, no sign, no exponent.
var decimal = regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,6})?$`)

// parseRate reads a decimal, in units of the currency for a million tokens.
func parseRate(text string) (Rate, error) {
	if !decimal.MatchString(text) {
		return 0, fmt.Errorf("%.40q is no price: write a decimal of 0 to 1000000 with at most six places, such as 2.50", text)
	}
	value, _ := new(big.Rat).SetString(text)
	micros := value.Mul(value, big.NewRat(1_000_000, 1)).Num() // six places: the denominator is 1
	if !micros.IsInt64() || Rate(micros.Int64()) > mostRate {
		return 0, fmt.Errorf("%s is more than 1000000 for a million tokens", text)
	}
	return Rate(micros.Int64()), nil
}

// String is the rate in units of the currency for a million tokens: 2.50.
func (r Rate) String() string { return Money(int64(r)) }

// Money writes micro-units in units of the currency, with two places at least: 0.000075, 2.50.
func Money(micros int64) string {
	sign, whole := "", micros
	if micros < 0 {
		sign, whole = "-", -micros
	}
	text := fmt.Sprintf("%s%d.%06d", sign, whole/1_000_000, whole%1_000_000)
	places := strings.TrimRight(text[len(text)-4:], "0")
	return text[:len(text)-4] + places
}
