package wording_test

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

func ExampleDidYouMean() {
	fmt.Println("unknown key \"brust\"" + wording.DidYouMean("brust", []string{"burst", "unit", "name"}))
	// Output: unknown key "brust"; did you mean "burst"?
}
