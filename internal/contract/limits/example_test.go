package limits_test

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

func ExampleSet_Match() {
	set, err := limits.Parse([]byte(example))
	if err != nil {
		fmt.Println(err)
		return
	}
	asked := []limits.Entry{{Key: "count", Value: "tokens"}, {Key: "user", Value: "ann"}, {Key: "model", Value: "gpt-4.1"}}
	rule, _ := set.Match(asked)
	fmt.Println(rule.Path)
	fmt.Printf("%s\n", set.AppendKey(nil, asked))
	// Output:
	// count_tokens.user.model_gpt-4*
	// leaky|count|tokens.user|ann.model|gpt-4%2e1
}
