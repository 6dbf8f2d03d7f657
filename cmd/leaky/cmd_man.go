package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
)

type manCommand struct {
	Dir string `arg:"" optional:"" help:"Folder to write a page for each command into; standard output gets that of leaky when not given."`
}

// Help shows how it is used.
func (manCommand) Help() string {
	return `The pages are made from what --help says.

Examples:

    leaky man | man -l -
    leaky man ~/.local/share/man/man1 && man leaky-limits`
}

// Run writes the pages.
func (m manCommand) Run(k *kong.Context) error {
	if m.Dir == "" {
		return manPage(os.Stdout, k.Model.Node)
	}
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		var at *kong.Node
		switch n := node.(type) {
		case *kong.Application:
			at = n.Node
		case *kong.Command:
			at = n
		default:
			return next(nil)
		}
		if at.Hidden {
			return nil
		}
		var text strings.Builder
		if err := manPage(&text, at); err != nil {
			return err
		}
		path := filepath.Join(m.Dir, strings.ReplaceAll(at.FullPath(), " ", "-")+".1")
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			return fmt.Errorf("write page: %w", err)
		}
		return next(nil)
	})
}

// manPage writes a command's page in the macros of man(7).
func manPage(w io.Writer, node *kong.Node) error {
	var b strings.Builder
	name := strings.ReplaceAll(node.FullPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"leaky %s\"\n", roff(strings.ToUpper(name)), roff(version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n.SH SYNOPSIS\n.B %s\n", roff(name), roff(node.Help), roff(node.FullPath()))
	for _, arg := range node.Positional {
		fmt.Fprintf(&b, ".I %s\n", roff(arg.Summary()))
	}
	if len(node.Children) > 0 {
		b.WriteString(".I command\n")
	}
	b.WriteString("[flags]\n")
	if node.Detail != "" {
		b.WriteString(".SH DESCRIPTION\n")
		described(&b, node.Detail)
	}
	for _, arg := range node.Positional {
		fmt.Fprintf(&b, ".TP\n.I %s\n%s\n", roff(arg.Summary()), roff(arg.Help))
	}
	flags := []*kong.Flag{}
	for _, group := range node.AllFlags(true) {
		flags = append(flags, group...)
	}
	if len(flags) > 0 {
		b.WriteString(".SH OPTIONS\n")
	}
	for _, flag := range flags {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(flag.String()), roff(flag.Help))
	}
	if len(node.Children) > 0 {
		b.WriteString(".SH COMMANDS\n")
	}
	for _, child := range node.Children {
		if !child.Hidden {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(child.Name), roff(child.Help))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// described writes paragraphs; indented ones are examples.
func described(b *strings.Builder, text string) {
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(paragraph, "    ") {
			fmt.Fprintf(b, ".PP\n.nf\n%s\n.fi\n", roff(paragraph))
			continue
		}
		fmt.Fprintf(b, ".PP\n%s\n", roff(paragraph))
	}
}

// roff writes text so that nothing in it is a macro or an escape.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
