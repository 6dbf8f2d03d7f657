package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/spoolfolder"
)

type bootstrapCommand struct {
	Envoy    bootstrapEnvoy    `cmd:"" default:"withargs" help:"Write the bootstrap file of an Envoy; what bootstrap alone does."`
	Lua      bootstrapLua      `cmd:"" name:"lua" help:"Write the scripts for an Envoy of your own, which does not ask xds."`
	Postgres bootstrapPostgres `cmd:"" help:"Give each part a user of its own in a Postgres that runs elsewhere."`
	NATS     bootstrapNATS     `cmd:"" name:"nats" help:"Print the parts' users for the configuration of a NATS server that runs elsewhere."`
}

// Help shows what is done most.
func (bootstrapCommand) Help() string { return "Examples:\n\n    leaky bootstrap" }

type bootstrapEnvoy struct {
	File string `arg:"" optional:"" help:"Where to write it, with mode 0600; standard output when not given."`
	Copy string `placeholder:"FILE" help:"Copy this program there too, for the hook (FILE drain) of an Envoy whose image has none."`
}

// Help shows how a container uses it.
func (bootstrapEnvoy) Help() string {
	return `Envoy needs no more than this to ask xds for everything else. leaky up writes it by itself; in a container it is written before Envoy starts, into the state folder that both share, together with the folder of its spool.

Examples:

    leaky bootstrap | jq .node
    leaky bootstrap "$LEAKY_STATE_DIR/run/envoy.json" && envoy --config-path "$LEAKY_STATE_DIR/run/envoy.json"
    leaky bootstrap "$LEAKY_STATE_DIR/run/envoy.json" --copy "$LEAKY_STATE_DIR/run/leaky"`
}

// Run writes the file.
func (b bootstrapEnvoy) Run(c *cli) error {
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return err
	}
	dir := config.StateDir(os.Getenv)
	text, err := stack.Bootstrap(cfg, dir)
	if err != nil {
		return err
	}
	if b.File == "" && b.Copy != "" {
		return errors.New("--copy goes with a FILE")
	}
	spool, mine := stack.SpoolDir(cfg, dir), spoolfolder.Of(dir)
	if b.File == "" {
		if err := spoolfolder.Check(spool, mine); err != nil {
			return err
		}
		_, err = os.Stdout.Write(append(text, '\n'))
		return err
	}
	if err := spoolfolder.Vacant(spool, mine); err != nil {
		return err
	}
	for _, folder := range []string{filepath.Dir(b.File), spool} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	if err := secretfile.Replace(b.File, text); err != nil {
		return fmt.Errorf("write bootstrap: %w", err)
	}
	if b.Copy == "" {
		return nil
	}
	return copyProgram(b.Copy)
}

// copyProgram puts the running program into a file, in one step.
func copyProgram(to string) error {
	own, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	from, err := os.Open(own)
	if err != nil {
		return fmt.Errorf("read this program: %w", err)
	}
	defer from.Close()
	f, err := os.CreateTemp(filepath.Dir(to), ".new-*")
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, from)
	if err = errors.Join(err, f.Chmod(0o500), f.Close()); err == nil {
		err = os.Rename(f.Name(), to)
	}
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	return nil
}

type bootstrapLua struct {
	Dir string `arg:"" help:"Folder to write them into."`
}

// Help says what for.
func (bootstrapLua) Help() string {
	return `An Envoy that your own control plane configures runs these in its Lua filters: guard.lua reads what a call asks for, splice.lua writes what ratelimit decided into its body, usage.lua reads what the answer used. deploy/examples/own-envoy shows where they stand. They are those of this version; write them again after an upgrade.

Examples:

    leaky bootstrap lua /etc/leaky/lua`
}

// Run writes the scripts.
func (b bootstrapLua) Run() error {
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	for name, text := range map[string]string{"guard.lua": envoy.GuardLua(), "splice.lua": envoy.SpliceLua, "usage.lua": envoy.UsageLua()} {
		if err := os.WriteFile(filepath.Join(b.Dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write a script: %w", err)
		}
	}
	return nil
}
