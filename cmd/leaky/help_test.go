package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// acts are the commands that do something and have nothing to show, or show a log.
func acts() []string {
	return []string{"up", "down", "logs", "start", "stop", "restart", "kill", "accept", "schema", "push", "rollback", "parts fetch", "ratelimit", "serve", "bootstrap envoy", "bootstrap lua", "bootstrap postgres", "bootstrap nats", "probe", "drain", "migrate", "man", "completion",
		"supervise"}
}

// TestEveryCommandIsExplained: --help of each command shows how it is used, and whatever prints
// data prints it as JSON too.
func TestEveryCommandIsExplained(t *testing.T) {
	t.Parallel()
	k, err := kong.New(&cli{}, kong.Name("leaky"), served())
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		command, ok := node.(*kong.Command)
		if !ok {
			return next(nil)
		}
		seen++
		name := strings.TrimPrefix(command.FullPath(), "leaky ")
		_, examples, found := strings.Cut(command.Detail, "Examples:\n\n")
		if !found || !strings.Contains(examples, "leaky ") || command.Help == "" {
			t.Errorf("leaky %s --help has no example", name)
		}
		format := slices.ContainsFunc(command.Flags, func(f *kong.Flag) bool { return f.Short == 'o' && f.EnumMap()["json"] })
		if len(command.Children) == 0 && format == slices.Contains(acts(), name) {
			t.Errorf("leaky %s: has -o json %v", name, format)
		}
		return next(nil)
	})
	if err != nil || seen < 30 {
		t.Errorf("looked at %d commands, %v", seen, err)
	}
}

// TestWhatIsNoCommandIsRefusedInTwoLines: what is wrong, and where to read on.
func TestWhatIsNoCommandIsRefusedInTwoLines(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	for args, want := range map[string]string{
		"limts":             `did you mean "limits"`,
		"limits lst":        `did you mean one of "list"`,
		"clients":           "expected one of",
		"limits list extra": "unexpected argument extra",
		"ps --outptu json":  `did you mean "--output"`,
		"sagas show":        "expected",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			out, errs, ok := leaky(t, dir, nil, strings.Fields(args)...)
			if ok || out != "" || strings.Count(errs, "\n") != 2 || !strings.Contains(errs, want) || !strings.Contains(errs, `--help"`) {
				t.Errorf("want two lines with %q, got %v\n%s%s", want, ok, out, errs)
			}
		})
	}
}
