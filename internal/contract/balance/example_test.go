package balance_test

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
)

// A pool of 100 tokens a day was overdrawn by 150: the first new day pays 100 of it, the
// second the rest.
func ExampleCarried() {
	for days := range int64(3) {
		fmt.Println(days, balance.Carried(250, 100, days))
	}
	// Output:
	// 0 250
	// 1 150
	// 2 50
}
