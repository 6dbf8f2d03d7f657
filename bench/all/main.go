// Command all runs the benchmarks one after another and prints one report in Markdown:
// what they ran on, their tables, and how quiet the machine was meanwhile.
//
//	go run ./bench/all                             about thirteen minutes on two cores
//	go run ./bench/all -write docs/benchmarks.md   keep the report too, once it is whole
//	go run ./bench/all -quick                      a minute or two: do they run at all?
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// program is one of the benchmarks.
type program struct {
	name  string   // its folder
	full  []string // arguments of a run whose numbers are told
	quick []string
}

// The rounds are as few as give medians that two runs agree on, so that the whole stays
// under a quarter of an hour.
func programs() []program {
	return []program{
		{"./bench", []string{"-rounds", "6", "-seconds", "3"}, []string{"-rounds", "1", "-seconds", "0.5"}},
		{"./bench/authz", []string{"-rounds", "6", "-seconds", "2"}, []string{"-rounds", "1", "-seconds", "0.5", "-first", "500"}},
		{"./bench/limits", []string{"-rounds", "5", "-seconds", "3"}, []string{"-rounds", "1", "-seconds", "0.5", "-accounts", "20000"}},
		{"./bench/purchases", []string{"-rounds", "3", "-seconds", "8"}, []string{"-rounds", "1", "-seconds", "1", "-rows", "4000", "-events",
			"10000"}},
	}
}

func main() {
	quick := flag.Bool("quick", false, "one short round of each: the numbers mean nothing")
	keep := flag.String("write", "", "file that the report replaces once every program has ended well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var report bytes.Buffer
	err := run(ctx, io.MultiWriter(os.Stdout, &report), *quick)
	if err == nil && *keep != "" {
		err = os.WriteFile(*keep, []byte(fold(report.String())), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/all:", err)
		os.Exit(1)
	}
}

// run prints the report as it comes, so that what was measured is not lost when a later
// program fails.
func run(ctx context.Context, out io.Writer, quick bool) error {
	begin := time.Now()
	bin, err := os.MkdirTemp("", "bench-all")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	if err := build(ctx, bin); err != nil {
		return err
	}
	if err := describe(ctx, out); err != nil {
		return err
	}
	var watched []quiet
	for _, p := range programs() {
		args := p.full
		if quick {
			args = p.quick
		}
		command := strings.Join(append([]string{"go run", p.name}, args...), " ")
		fmt.Fprintf(os.Stderr, "\n%s\n", command)
		before, err := probe(ctx)
		if err != nil {
			return err
		}
		text, err := start(ctx, filepath.Join(bin, filepath.Base(p.name)), args)
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		got, err := before.until(ctx, p.name)
		if err != nil {
			return err
		}
		watched = append(watched, got)
		fmt.Fprintf(out, "\n## `%s`\n%s", command, text)
	}
	quietness(out, watched)
	fmt.Fprintf(out, "\nTogether %v.\n", time.Since(begin).Round(time.Second))
	return nil
}

// build makes the programs in bin, each under the name of its folder: `go run` would keep
// an interrupt from them.
func build(ctx context.Context, bin string) error {
	args := []string{"build", "-o", bin + "/"}
	for _, p := range programs() {
		args = append(args, p.name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

// start runs a program to its end and gives what it printed; its progress goes to our
// standard error. It is asked to end before it is killed: it has processes of its own.
func start(ctx context.Context, path string, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	err := cmd.Run()
	return out.String(), err
}
