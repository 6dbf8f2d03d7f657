package main

import (
	"os"

	"github.com/leaky-tokens/leaky-tokens/deploy"
)

type schemaCommand struct{}

// Help shows how an editor uses it.
func (schemaCommand) Help() string {
	return `With it an editor completes the keys of leaky.yaml, explains them and marks mistakes. Editors with the YAML language server take it from a comment in the file's first line:

    # yaml-language-server: $schema=leaky.schema.json

Examples:

    leaky schema > leaky.schema.json`
}

// Run prints it.
func (schemaCommand) Run() error {
	_, err := os.Stdout.Write(deploy.ConfigSchema)
	return err
}
