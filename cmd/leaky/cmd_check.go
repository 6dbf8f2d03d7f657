package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/xds"
	"github.com/leaky-tokens/leaky-tokens/xds/advice"
)

type checkCommand struct {
	File   string `arg:"" optional:"" help:"leaky.yaml to check; --config or the built-in one when not given."`
	Output string `short:"o" enum:"text,json" default:"text" help:"Format of what is said of a valid file: ${enum}."`
}

// Help shows how it is used.
func (checkCommand) Help() string {
	return `Prints every mistake with line and column. Exit code 1 if there is one. What is legal and likely not meant is a warning.

Examples:

    leaky check leaky.yaml
    leaky check && leaky restart xds
    leaky check -o json leaky.yaml | jq .limits`
}

// Run validates the file and the limits it names.
func (k checkCommand) Run(c *cli) error {
	path := cmp.Or(k.File, c.Config)
	l, set, err := readOnce(path)
	if err != nil {
		return err
	}
	rules, warnings := 0, l.files(slog.New(slog.DiscardHandler)).Lost(set)
	for i, gone := range warnings {
		warnings[i] = "beside what runs: " + gone + "; running parts hold it until `leaky accept`"
	}
	for _, domain := range set.Sets() {
		rules += len(domain.Rules())
		for _, w := range domain.Warnings() {
			warnings = append(warnings, w.Error())
		}
	}
	plan, err := l.plan(false)
	if err != nil {
		return err
	}
	if _, err := plan.Ports(); err != nil {
		return err
	}
	if err := plan.SpoolFree(); err != nil {
		return err
	}
	warnings = append(warnings, plan.Unwanted()...)
	doubts, err := l.doubts(set)
	if err != nil {
		return err
	}
	warnings = append(warnings, doubts...)
	name := path
	if name == "" {
		name = "the built-in leaky.yaml"
	}
	if k.Output == "json" {
		return printJSON(os.Stdout, map[string]any{"file": path, "models": len(l.cfg.Models), "providers": len(l.cfg.Providers), "limits": rules,
			"warnings": append([]string{}, warnings...)})
	}
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	fmt.Printf("%s is valid: %d models, %d providers, %d limits\n", name, len(l.cfg.Models), len(l.cfg.Providers), rules)
	return nil
}

// readOnce reads leaky.yaml at path, which may be a pipe and has its text once, and the limits it names.
// Mistakes name it as the path does.
func readOnce(path string) (local, *settings.Settings, error) {
	l := local{dir: config.StateDir(os.Getenv)}
	if path == "" {
		set, err := settings.Load("", os.Getenv)
		if err == nil {
			l.cfg = set.Config
		}
		return l, set, err
	}
	text, err := config.ReadFile(path)
	if err != nil {
		return l, nil, fmt.Errorf("read configuration: %w", err)
	}
	if l.cfg, err = config.Read(path, text, os.Getenv); err != nil {
		return l, nil, err
	}
	if l.configPath, err = filepath.Abs(path); err != nil {
		return l, nil, err
	}
	set, err := settings.LoadText(l.configPath, text, os.Getenv)
	return l, set, err
}

// doubts are what is legal and does not do what it says.
func (l local) doubts(set *settings.Settings) ([]string, error) {
	gateway, _, err := xds.Preview(set, l.dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, d := range advice.Look(advice.Input{Config: set.Config, Gateway: gateway, Limits: set.Limits}) {
		found = append(found, d.String())
	}
	return found, nil
}

type versionCommand struct {
	Output string `short:"o" enum:"text,json" default:"text" help:"Format: ${enum}."`
}

// Help says what it prints.
func (versionCommand) Help() string {
	return "Prints the version, the commit it was built from, and the Envoy it is made for.\n\nExamples:\n\n    leaky version\n    leaky version -o json | jq -r .commit"
}

// Run prints it.
func (k versionCommand) Run() error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this binary has no build information")
	}
	commit := "unknown"
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			commit = s.Value
		}
	}
	if k.Output == "json" {
		return printJSON(os.Stdout, map[string]string{"version": version, "commit": commit, "go": runtime.Version(),
			"platform": runtime.GOOS + "/" + runtime.GOARCH, "envoy": envoy.Version})
	}
	fmt.Printf("leaky %s (commit %s, %s %s/%s, Envoy %s)\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, envoy.Version)
	return nil
}
