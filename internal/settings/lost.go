package settings

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// lost is what of weight the next content lacks, in words; empty: nothing. It is what a file that
// was cut, copied half-way or overwritten by another lacks, so that it is no harm to ask.
func lost(before, next *Settings) []string {
	var gone []string
	say := func(format string, args ...any) { gone = append(gone, fmt.Sprintf(format, args...)) }
	for _, path := range slices.Sorted(maps.Keys(before.text)) {
		if now, there := next.text[path]; there && Cut(now, before.text[path]) {
			say("%s ends after %d of its %d lines", path, lines(now), lines(before.text[path]))
		}
	}
	if sections := missing(sectionsOf(before), sectionsOf(next)); len(sections) > 0 {
		say("gone: %s", strings.Join(sections, ", "))
	}
	from, to := before.Config.Gateway, next.Config.Gateway
	for _, l := range []struct{ key, from, to string }{{"listen", from.Listen, to.Listen}, {"egress", from.Egress, to.Egress},
		{"fallback", from.Fallback, to.Fallback}} {
		if l.from != l.to {
			say("gateway.%s moves from %s to %s", l.key, l.from, l.to)
		}
	}
	switch {
	case from.TLS.On() && !to.TLS.On():
		say("gateway.tls is gone, and clients would be served in clear text")
	case from.TLS.Clients != config.ClientsOff && to.TLS.Clients == config.ClientsOff:
		say("gateway.tls.clients is %s no more, and no client would have to show a certificate", from.TLS.Clients)
	}
	if providers := missing(slices.Sorted(maps.Keys(before.Config.Providers)), slices.Sorted(maps.Keys(next.Config.Providers))); len(
		providers) > 0 {
		say("providers are gone: %s", strings.Join(providers, ", "))
	}
	var had, has []string
	for _, m := range before.Config.Models {
		had = append(had, m.Name)
	}
	for _, m := range next.Config.Models {
		has = append(has, m.Name)
	}
	if n, most := lostMost(had, has); most {
		say("%d of %d models are gone", n, len(had))
	}
	return append(gone, lostLimits(before, next)...)
}

// lostLimits compares rules, unless another file was named for them.
func lostLimits(before, next *Settings) []string {
	from, to := before.Config.Limits.File, next.Config.Limits.File
	if from != to && to == "" {
		return []string{fmt.Sprintf("limits.file %s is not named any more, and the built-in limits would bind", from)}
	}
	var gone []string
	if had := ruleNames(before.Limits); from == to {
		if n, most := lostMost(had, ruleNames(next.Limits)); most {
			gone = append(gone, fmt.Sprintf("%d of %d limits are gone", n, len(had)))
		}
	}
	has := map[string]*limits.Set{}
	for _, set := range next.Domains {
		has[set.Domain()] = set
	}
	var domains []string
	for _, set := range before.Domains {
		now, there := has[set.Domain()]
		if !there {
			domains = append(domains, set.Domain())
			continue
		}
		had := ruleNames(set)
		if n, most := lostMost(had, ruleNames(now)); most {
			gone = append(gone, fmt.Sprintf("%d of %d limits of domain %s are gone", n, len(had), set.Domain()))
		}
	}
	if len(domains) > 0 {
		gone = append(gone, "domains are gone: "+strings.Join(domains, ", "))
	}
	return gone
}

func ruleNames(set *limits.Set) []string {
	var names []string
	for _, r := range set.Rules() {
		names = append(names, r.Name)
	}
	return names
}

// Cut reports whether now looks like the beginning of a whole text: it is one, or its last line
// has no end and it is shorter.
func Cut(now, whole string) bool {
	return Begins(now, whole) || len(now) < len(whole) && strings.HasSuffix(whole, "\n") && !strings.HasSuffix(now, "\n")
}

// Begins reports whether now is the beginning of a whole text, and not all of it.
func Begins(now, whole string) bool {
	now, whole = strings.TrimRight(now, " \t\r\n"), strings.TrimRight(whole, " \t\r\n")
	return now != whole && strings.HasPrefix(whole, now)
}

func lines(text string) int { return strings.Count(strings.TrimRight(text, "\n"), "\n") + 1 }

// missing are the names that are not there any more.
func missing(had, has []string) []string {
	return slices.DeleteFunc(slices.Clone(had), func(name string) bool { return slices.Contains(has, name) })
}

// lostMost counts the names that are gone, and reports whether those are half of them or more. One that
// is gone is an edit, and so are two that others take the place of.
func lostMost(had, has []string) (n int, most bool) {
	n = len(missing(had, has))
	return n, n > 1 && 2*n >= len(had) && (len(had) > 2 || len(has) < len(had))
}

// sectionsOf are the top-level keys of leaky.yaml.
func sectionsOf(s *Settings) []string {
	var top map[string]any
	if err := yaml.Unmarshal([]byte(strings.TrimPrefix(s.text[s.path], "\ufeff")), &top); err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(top))
}
