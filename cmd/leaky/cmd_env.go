package main

import (
	"fmt"
	"io"
	"os"

	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
)

type envCommand struct {
	Output string `short:"o" enum:"shell,json" default:"shell" help:"Format: ${enum}."`
}

// Help shows how it is used.
func (envCommand) Help() string {
	return `The stores' URLs hold their passwords: do not print this into a log.

Examples:

    eval "$(leaky env)"
    psql "$LEAKY_POSTGRES_URL"
    curl -s "$LEAKY_XDS_URL/v1/services"
    leaky env -o json | jq -r .LEAKY_GATEWAY_URL`
}

// Run prints the exports.
func (k envCommand) Run(c *cli) error {
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	plan, err := l.plan(false)
	if err != nil {
		return err
	}
	missing := 0
	if k.Output == "json" {
		values := map[string]string{}
		for _, e := range plan.Exports() {
			if e.Value == "" {
				missing++
				continue
			}
			values[e.Name] = e.Value
		}
		err = printJSON(os.Stdout, values)
	} else {
		missing = printExports(os.Stdout, plan.Exports())
	}
	if missing > 0 {
		fmt.Fprintf(os.Stderr, "leaky: %d URLs are left out: their passwords are made by the first `leaky up`\n", missing)
	}
	return err
}

// printExports writes one line per variable and counts those that have no value yet.
func printExports(out io.Writer, exports []stack.Export) (missing int) {
	for _, e := range exports {
		if e.Value == "" {
			missing++
			continue
		}
		fmt.Fprintf(out, "export %s=%s\n", e.Name, stack.ShellQuote(e.Value))
	}
	return missing
}
