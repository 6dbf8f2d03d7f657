package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

type limitsCommand struct {
	List limitsList `cmd:"" help:"List the rules, and when each last matched."`
	Test limitsTest `cmd:"" help:"Say which rule a descriptor falls under."`

	Replay limitsReplay `cmd:"" help:"Decide recorded calls by another file: who would have been refused."`
}

type limitsList struct {
	Output string `short:"o" enum:"table,json" default:"table" help:"Format: ${enum}."`
}

// Help shows how it is used.
func (limitsList) Help() string {
	return `The rules come from the files; when each last matched comes from the running ratelimit, if it answers. A rule that never matches most often names a key or a value that nobody sends.

Examples:

    leaky limits list
    leaky limits list -o json | jq '.[] | select(.idle) | .name'`
}

// limitLine is one rule of limits list and test.
type limitLine struct {
	Domain    string                   `json:"domain"`
	Name      string                   `json:"name"`
	Path      string                   `json:"path"`
	Line      int                      `json:"line"` // of the file
	Counts    string                   `json:"counts"`
	Algorithm string                   `json:"algorithm"`
	Limit     string                   `json:"limit"`
	Mode      string                   `json:"mode"`            // enforced, shadow, quota or unlimited
	Tiers     map[string]match.Numbers `json:"tiers,omitempty"` // "" for a rule that no tier scales
	Replaces  []string                 `json:"replaces,omitempty"`
	LastMatch *time.Time               `json:"lastMatch,omitempty"`
	Idle      bool                     `json:"idle,omitempty"`
	Running   bool                     `json:"-"` // the service said when it last matched
}

// Run prints the rules.
func (k limitsList) Run(ctx context.Context, c *cli) error {
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	sets, err := l.limitSets()
	if err != nil {
		return err
	}
	seen := ruleStates(ctx, l)
	var lines []limitLine
	for _, set := range sets {
		for _, rule := range set.Rules() {
			line := describeRule(l, set, rule)
			if state, ok := seen[[2]string{line.Domain, line.Name}]; ok {
				line.LastMatch, line.Idle, line.Running = state.LastMatch, state.Idle, true
			}
			lines = append(lines, line)
		}
	}
	if k.Output == "json" {
		return printJSON(os.Stdout, lines)
	}
	return printLimits(os.Stdout, lines, time.Now())
}

func printJSON(out io.Writer, what any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(what)
}

func printLimits(out io.Writer, lines []limitLine, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RULE\tDOMAIN\tPATH\tCOUNTS\tLIMIT\tALGORITHM\tMODE\tLAST MATCH")
	for _, l := range lines {
		last := "-"
		switch {
		case l.LastMatch != nil:
			last = age(now.Sub(*l.LastMatch)) + " ago"
		case l.Running && l.Idle:
			last = "never, idle"
		case l.Running:
			last = "never"
		}
		if l.LastMatch != nil && l.Idle {
			last += ", idle"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Domain, l.Path, l.Counts, l.Limit, l.Algorithm, l.Mode, last)
	}
	return w.Flush()
}

func describeRule(l local, set *limits.Set, rule *limits.Rule) limitLine {
	line := limitLine{Domain: set.Domain(), Name: rule.Name, Path: rule.Path, Line: rule.Line, Counts: rule.Unit.String(),
		Algorithm: rule.Algorithm.String(),
		Mode:      "enforced", Replaces: rule.Replaces, Tiers: map[string]match.Numbers{}}
	switch {
	case rule.Unlimited:
		line.Mode, line.Limit, line.Algorithm, line.Tiers = "unlimited", "-", "-", nil
		return line
	case rule.Shadow:
		line.Mode = "shadow"
	case rule.Quota:
		line.Mode = "quota"
	}
	line.Limit = fmt.Sprintf("%d/%s", rule.PerPeriod, limits.PeriodName(rule.Period))
	if rule.Calendar != nil {
		line.Limit += " of the calendar, " + rule.Calendar.String()
	}
	if rule.Capacity != float64(rule.PerPeriod) {
		line.Limit += fmt.Sprintf(" burst %.0f", rule.Capacity)
	}
	if !rule.Scaled {
		line.Tiers[""] = match.NumbersOf(rule, l.cfg.Tiers.Levels[l.cfg.Tiers.Default])
		return line
	}
	line.Limit += " x tier"
	for name, tier := range l.cfg.Tiers.Levels {
		line.Tiers[name] = match.NumbersOf(rule, tier)
	}
	return line
}

// ruleStates asks the running service what it knows of its rules; empty when it does not run.
func ruleStates(ctx context.Context, l local) map[[2]string]match.RuleUsage {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	base, transport, err := l.peers().API(topology.RateLimit, l.cfg.Services.RateLimit)
	if err != nil {
		return nil
	}
	var states []match.RuleUsage
	if httpapi.Get(ctx, &http.Client{Transport: transport}, base+ratelimit.RulesPath, &states) != nil {
		return nil
	}
	found := make(map[[2]string]match.RuleUsage, len(states))
	for _, s := range states {
		found[[2]string{s.Domain, s.Name}] = s
	}
	return found
}

// entriesOf reads key=value[,key=value...]; a comma in a value is written \, and a
// backslash \\.
func entriesOf(text string) ([]limits.Entry, error) {
	var (
		entries []limits.Entry
		part    strings.Builder
	)
	end := func() error {
		key, value, ok := strings.Cut(part.String(), "=")
		if !ok || key == "" {
			return fmt.Errorf("%q: write a descriptor as key=value[,key=value...]", text)
		}
		entries = append(entries, limits.Entry{Key: key, Value: value})
		part.Reset()
		return nil
	}
	escaped := false
	for _, r := range text {
		switch {
		case !escaped && r == '\\':
			escaped = true
			continue
		case !escaped && r == ',':
			if err := end(); err != nil {
				return nil, err
			}
		default:
			part.WriteRune(r)
		}
		escaped = false
	}
	return entries, end()
}
