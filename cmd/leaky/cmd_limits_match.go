package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

type limitsTest struct {
	Descriptor []string `arg:"" help:"key=value[,key=value...], in the order of the file's path. Several are one request."`
	File       string   `help:"Limits file to test; else the one of leaky.yaml." placeholder:"FILE" type:"path"`
	Domain     string   `help:"Domain that is asked in, of limits.domains or of --file." default:"leaky"`
	Output     string   `short:"o" enum:"table,json" default:"table" help:"Format: ${enum}."`
}

// Help shows how it is used.
func (limitsTest) Help() string {
	return `Reads the file and asks nothing that runs. Exit code 1 if a descriptor falls under no rule; the message says how far it got. Write \, for a comma in a value.

Examples:

    leaky limits test count=tokens,user=ann,provider=openai
    leaky limits test count=requests,user=ann count=requests,remote_address=192.0.2.7
    leaky limits test --file docs/limits/per-model.yaml count=tokens,user=ann,model=gpt-4o -o json
    leaky limits test --file mine.yaml --domain shop path=/checkout`
}

// limitMatch is what one descriptor comes to.
type limitMatch struct {
	Descriptor string     `json:"descriptor"`
	Rule       *limitLine `json:"rule"` // null: none
	Bucket     string     `json:"bucket,omitempty"`
	ReplacedBy string     `json:"replacedBy,omitempty"` // the rule of this request that stands in for it
	Why        string     `json:"why,omitempty"`        // there is no rule
}

// Run prints the rules.
func (k limitsTest) Run(c *cli) error {
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	set, err := k.set(l)
	if err != nil {
		return err
	}
	var matches []limitMatch
	for _, text := range k.Descriptor {
		m, err := matchOf(l, set, text)
		if err != nil {
			return err
		}
		matches = append(matches, m)
	}
	replace(matches)
	if k.Output == "json" {
		err = printJSON(os.Stdout, matches)
	} else {
		err = printMatches(os.Stdout, matches, l.cfg.Tiers.Default)
	}
	for _, m := range matches {
		if m.Rule == nil {
			err = errors.Join(err, fmt.Errorf("%s falls under no rule: %s", m.Descriptor, m.Why))
		}
	}
	return err
}

// set is the rules of the domain.
func (k limitsTest) set(l local) (*limits.Set, error) {
	if k.File != "" {
		if k.Domain == limits.Domain {
			return limits.Load(k.File)
		}
		sets, err := limits.LoadDomains([]string{k.File})
		if err != nil {
			return nil, err
		}
		if got := sets[0].Domain(); got != k.Domain {
			return nil, fmt.Errorf("%s is of domain %q; write --domain %s", k.File, got, got)
		}
		return sets[0], nil
	}
	sets, err := l.limitSets()
	if err != nil {
		return nil, err
	}
	var known []string
	for _, set := range sets {
		if set.Domain() == k.Domain {
			return set, nil
		}
		known = append(known, set.Domain())
	}
	return nil, fmt.Errorf("no file is of domain %q; there is %s", k.Domain, strings.Join(known, ", "))
}

func matchOf(l local, set *limits.Set, text string) (limitMatch, error) {
	entries, err := entriesOf(text)
	if err != nil {
		return limitMatch{}, err
	}
	m := limitMatch{Descriptor: text}
	rule, ok := set.Match(entries)
	if !ok {
		m.Why = set.Why(entries)
		return m, nil
	}
	line := describeRule(l, set, rule)
	m.Rule, m.Bucket = &line, string(rule.AppendKey(nil, entries))
	return m, nil
}

// replace says which rules of the request stand in for others.
func replace(matches []limitMatch) {
	for _, by := range matches {
		if by.Rule == nil {
			continue
		}
		for i := range matches {
			if m := &matches[i]; m.Rule != nil && slices.Contains(by.Rule.Replaces, m.Rule.Name) {
				m.ReplacedBy = by.Rule.Name
			}
		}
	}
}

func printMatches(out io.Writer, matches []limitMatch, tier string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, m := range matches {
		if m.Rule == nil {
			fmt.Fprintf(w, "%s\tno rule\n", m.Descriptor)
			continue
		}
		r := m.Rule
		fmt.Fprintf(w, "%s\trule %s, line %d\n", m.Descriptor, r.Name, r.Line)
		fmt.Fprintf(w, "\tpath\t%s\n\tbucket\t%s\n\tmode\t%s\n", r.Path, m.Bucket, cmp.Or(replaced(m), r.Mode))
		for _, name := range slices.Sorted(maps.Keys(r.Tiers)) {
			title := cmp.Or(name, "every tier")
			if name == tier {
				title += " (default)"
			}
			fmt.Fprintf(w, "\t%s\t%s\n", title, numbers(r, r.Tiers[name]))
		}
	}
	return w.Flush()
}

func replaced(m limitMatch) string {
	if m.ReplacedBy == "" {
		return ""
	}
	return "replaced by " + m.ReplacedBy
}

func numbers(r *limitLine, n match.Numbers) string {
	if n.Window > 0 {
		return fmt.Sprintf("%.0f %s in each window of a %s", n.Capacity, r.Counts, limits.PeriodName(n.Window))
	}
	full := ""
	if n.PerSecond > 0 {
		full = fmt.Sprintf("; a full one is empty after %s", time.Duration(n.Capacity/n.PerSecond*float64(time.Second)).Round(time.Millisecond))
	}
	return fmt.Sprintf("%s of %.0f %s, draining %.6g a second%s", strings.ReplaceAll(r.Algorithm, "_", " "), n.Capacity, r.Counts,
		n.PerSecond, full)
}
