package spool_test

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
)

func ExampleParseAnswer() {
	a := spool.ParseAnswer("events=82,after=0,bytes=27950,whole=1,in=12,out=80,total=92,model=gpt-4o")
	fmt.Println(a.Whole, a.In, a.Out, a.Model)
	// Output: true 12 80 gpt-4o
}
