package bucket_test

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// A call of 700 tokens at most is held, uses 300, and what it used drains.
func Example() {
	const second = 1_000_000 // in microseconds
	p := bucket.Params{Capacity: 1000, Rate: 100.0 / second}
	s := bucket.State{}

	fmt.Println("700 fit:", p.Fits(s, 700))
	s = s.Hold(700)
	fmt.Println("400 more fit:", p.Fits(s, 400))

	s = p.Drain(s, 2*second)
	fmt.Println("held after two seconds:", s.Held)

	s = s.Settle(700, 300)
	fmt.Println("level after it used 300:", s.Level())
	s = p.Drain(s, 3*second)
	fmt.Println("a second later:", s.Level())
	fmt.Println("900 fit in:", p.Wait(s, 900, 3*second, 0)/second, "s")
	// Output:
	// 700 fit: true
	// 400 more fit: false
	// held after two seconds: 700
	// level after it used 300: 300
	// a second later: 200
	// 900 fit in: 1 s
}

// Of a call that states no maximum, a bucket with little left grants a part of the fill.
func ExampleParams_Grant() {
	p := bucket.Params{Capacity: 1000}
	for _, level := range []float64{0, 900, 990} {
		granted, ok := p.Grant(bucket.State{Settled: level}, 0, 256)
		fmt.Println(granted, ok)
	}
	// Output:
	// 250 true
	// 100 true
	// 0 false
}
