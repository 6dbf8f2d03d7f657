package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

type bootstrapCommand struct {
	File string `arg:"" optional:"" help:"Where to write it, with mode 0600; standard output when not given."`
}

// Help shows how a container uses it.
func (bootstrapCommand) Help() string {
	return `Envoy needs no more than this to ask xds for everything else. leaky up writes it by itself; in a container it is written before Envoy starts, into the state folder that both share, together with the folder of its spool.

Examples:

    leaky bootstrap | jq .node
    leaky bootstrap "$LEAKY_STATE_DIR/run/envoy.json" && envoy --config-path "$LEAKY_STATE_DIR/run/envoy.json"`
}

// Run writes the file.
func (b bootstrapCommand) Run(c *cli) error {
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return err
	}
	dir := config.StateDir(os.Getenv)
	text, err := stack.Bootstrap(cfg, dir)
	if err != nil {
		return err
	}
	if b.File == "" {
		_, err = os.Stdout.Write(append(text, '\n'))
		return err
	}
	for _, folder := range []string{filepath.Dir(b.File), stack.SpoolDir(cfg, dir)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	if err := secretfile.Replace(b.File, text); err != nil {
		return fmt.Errorf("write bootstrap: %w", err)
	}
	return nil
}
