package errorbody_test

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
)

func ExampleBody() {
	body, contentType := errorbody.Body(attributes.FamilyOpenAI, errorbody.Refusal{Status: 429, Type: "requests", Code: "rate_limit_exceeded",
		Message: "Too many tokens. Try again in 2 s."})
	fmt.Printf("%s\n%s\n", contentType, body)
	// Output:
	// application/json
	// {"error":{"message":"Too many tokens. Try again in 2 s.","type":"requests","param":null,"code":"rate_limit_exceeded"}}
}
