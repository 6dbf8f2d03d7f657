package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// local is the stack of this user on this machine, as every command about it sees it.
type local struct {
	cfg        *config.Config
	configPath string // absolute; empty: the built-in one
	dir        string // state folder
}

func openLocal(c *cli) (local, error) {
	l, err := whereLocal(c)
	if err == nil {
		l.cfg, err = config.Load(c.Config, os.Getenv)
	}
	return l, err
}

// whereLocal is where its files are.
func whereLocal(c *cli) (local, error) {
	l := local{dir: config.StateDir(os.Getenv)}
	if c.Config == "" {
		return l, nil
	}
	var err error
	l.configPath, err = filepath.Abs(c.Config)
	return l, err
}

// files is where the stack's parts have their settings from.
func (l local) files(log *slog.Logger) *settings.Source {
	return settings.New(l.configPath, l.dir, os.Getenv, log)
}

// openLastGood is openLocal for the stack itself: nobody may be there to mend a file that is wrong,
// so that it starts from the last good content, and says so in the log.
func openLastGood(c *cli, log *slog.Logger) (local, error) {
	l, err := whereLocal(c)
	if err != nil {
		return l, err
	}
	return l.lastGood(log)
}

// lastGood is the stack as its files have it now, or had it last.
func (l local) lastGood(log *slog.Logger) (local, error) {
	files := l.files(log)
	now, err := files.Open()
	if err != nil {
		return l, err
	}
	if because := files.Problem(); because != nil {
		log.Error("starting from the last good configuration", slog.Any("because", because))
	}
	l.cfg = now.Config
	return l, nil
}

// besideConfig is a file that leaky.yaml names, which stands relative to it; empty: the built-in one.
func (l local) besideConfig(file string) string {
	return l.files(slog.New(slog.DiscardHandler)).Beside(file)
}

// limitSets are the rules of every domain, our own first.
func (l local) limitSets() ([]*limits.Set, error) {
	now, err := settings.Load(l.configPath, os.Getenv)
	if err != nil {
		return nil, err
	}
	return now.Sets(), nil
}

// plan reads where everything listens; with secrets it makes the passwords that are not there yet.
func (l local) plan(secrets bool) (*stack.Plan, error) {
	return stack.New(stack.Config{Leaky: l.cfg, StateDir: l.dir, Getenv: os.Getenv, Secrets: secrets})
}

// storeURL is where a store is, with its password: as its variable says, else where the stack has it.
func (l local) storeURL(name string) (string, error) {
	plan, err := l.plan(false)
	if err != nil {
		return "", err
	}
	part, _ := topology.Find(name)
	for _, e := range plan.Exports() {
		if e.Name == part.Variable("URL") && e.Value != "" {
			return e.Value, nil
		}
	}
	return "", fmt.Errorf("no %s is known here; set %s, or run this beside the state folder (LEAKY_STATE_DIR)", name, part.Variable("URL"))
}

// control talks to the running supervisor; it needs no configuration, so that a broken
// leaky.yaml does not keep anyone from stopping the stack.
func control() *supervisor.Client {
	return supervisor.NewClient(stack.RunDir(config.StateDir(os.Getenv)))
}
