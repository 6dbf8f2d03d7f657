package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
)

type openCommand struct {
	Name string `arg:"" optional:"" help:"Page, as the list names it."`
	output
}

// Help shows how it is used.
func (openCommand) Help() string {
	return `Without a name it lists the pages. With one it opens the page in a browser; where there is no desktop it prints the address.

Examples:

    leaky open
    leaky open prometheus
    leaky open -o json | jq -r '.[] | select(.name == "alertmanager").url'`
}

// pageLine is a page as JSON.
type pageLine struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	What string `json:"what"`
}

// Run lists the pages or opens one.
func (k openCommand) Run(ctx context.Context, c *cli) error {
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	plan, err := l.plan(false)
	if err != nil {
		return err
	}
	if err := leaveOut(plan); err != nil {
		return err
	}
	pages := plan.Pages()
	if k.Name != "" {
		return openPage(ctx, pages, k.Name)
	}
	rows, lines := make([][]string, len(pages)), make([]pageLine, len(pages))
	for i, p := range pages {
		rows[i], lines[i] = []string{p.Name, p.URL, p.What}, pageLine(p)
	}
	return k.print(os.Stdout, lines, []string{"PAGE", "URL", "WHAT"}, rows)
}

func openPage(ctx context.Context, pages []stack.Page, name string) error {
	var known []string
	for _, p := range pages {
		known = append(known, p.Name)
		if p.Name != name {
			continue
		}
		fmt.Println(p.URL)
		bin, err := exec.LookPath("xdg-open")
		if err != nil || os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
			return nil // the address is what there is to say
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := exec.CommandContext(ctx, bin, p.URL).Run(); err != nil {
			return fmt.Errorf("open %s in a browser: %w", p.URL, err)
		}
		return nil
	}
	return supervisor.UnknownPart(name, known)
}
