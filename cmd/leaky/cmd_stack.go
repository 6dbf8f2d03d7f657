package main

import (
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
)

// local is the stack of this user on this machine, as every command about it sees it.
type local struct {
	cfg        *config.Config
	configPath string // absolute; empty: the built-in one
	dir        string // state folder
}

func openLocal(c *cli) (local, error) {
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return local{}, err
	}
	path := c.Config
	if path != "" {
		if path, err = filepath.Abs(path); err != nil {
			return local{}, err
		}
	}
	return local{cfg: cfg, configPath: path, dir: config.StateDir(os.Getenv)}, nil
}

// plan reads where everything listens; with secrets it makes the passwords that are not there yet.
func (l local) plan(secrets bool) (*stack.Plan, error) {
	return stack.New(stack.Config{Leaky: l.cfg, StateDir: l.dir, Getenv: os.Getenv, Secrets: secrets})
}

// control talks to the running supervisor; it needs no configuration, so that a broken
// leaky.yaml does not keep anyone from stopping the stack.
func control() *supervisor.Client {
	return supervisor.NewClient(stack.RunDir(config.StateDir(os.Getenv)))
}
