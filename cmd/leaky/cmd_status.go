package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

type statusCommand struct {
	Output string `short:"o" enum:"text,json" default:"text" help:"Format: ${enum}."`
}

// Help shows how it is used.
func (statusCommand) Help() string {
	return `Exit code 0: every part serves and follows the files as they are, and every Envoy has taken them. Else 1, and each reason in a line. Which configuration is live, and what became of the last push, is told in either case.

Examples:

    leaky status
    leaky status || leaky ps
    leaky status -o json | jq -r '.reasons[]'`
}

// Run says that all is well, or why it is not.
func (k statusCommand) Run(ctx context.Context, c *cli) error {
	o, err := control().Status(ctx)
	if err != nil {
		return err
	}
	var reasons []error
	for _, p := range o.Parts {
		if !p.Up() {
			reasons = append(reasons, fmt.Errorf("%s is %s: %s", p.Name, p.State, strings.TrimSpace(p.Message)))
		}
	}
	var config configState
	var problem error
	if slices.ContainsFunc(o.Parts, func(p supervisor.Status) bool { return p.Name == topology.XDS }) {
		config, problem = configuration(ctx, c)
	}
	err = errors.Join(append(reasons, warned(o.Parts), problem)...)
	if k.Output == "json" {
		told := map[string]any{"ready": err == nil, "parts": len(o.Parts), "reasons": []string{}, "configuration": config}
		if err != nil {
			told["reasons"] = strings.Split(err.Error(), "\n")
		}
		return errors.Join(printJSON(os.Stdout, told), err)
	}
	config.print(os.Stdout)
	if err != nil {
		return err
	}
	fmt.Printf("All %d parts are ready.\n", len(o.Parts))
	return nil
}

// warned is what parts say though they serve, each thing once with who says it.
func warned(parts []supervisor.Status) error {
	var order []string
	who := map[string][]string{}
	for _, p := range parts {
		if p.Message == "" || !p.Up() {
			continue
		}
		if who[p.Message] == nil {
			order = append(order, p.Message)
		}
		who[p.Message] = append(who[p.Message], p.Name)
	}
	var all []error
	for _, message := range order {
		all = append(all, fmt.Errorf("%s: %s", strings.Join(who[message], ", "), message))
	}
	return errors.Join(all...)
}

type acceptCommand struct{}

// Help says when it is needed.
func (acceptCommand) Help() string {
	return `A leaky.yaml or limits file that drops a provider, a section or most rules, moves the listener or ends early is held: it looks like one that was cut. This says that it is meant. So does a start with leaky up.

Examples:

    leaky check && leaky accept`
}

// Run accepts the files as they are.
func (acceptCommand) Run(c *cli) error {
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	gone, err := l.files(supervisorLog(os.Stderr)).Accept()
	if err != nil {
		return err
	}
	for _, what := range gone {
		fmt.Println(what)
	}
	fmt.Println("Accepted; the parts follow it within seconds.")
	return nil
}
