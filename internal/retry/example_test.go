package retry_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

func ExamplePolicy_Do() {
	tries := 0
	err := retry.Policy{First: time.Millisecond, Most: 8 * time.Millisecond}.Do(context.Background(), func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("away")
		}
		return retry.Permanent(errors.New("wrong password"))
	}, nil)
	fmt.Println(tries, err)
	// Output: 3 wrong password
}

func ExamplePolicy_After() {
	p := retry.Policy{First: 100 * time.Millisecond, Most: time.Second}
	for failures := range 5 {
		fmt.Print(p.After(failures), " ")
	}
	fmt.Println()
	// Output: 100ms 200ms 400ms 800ms 1s
}
