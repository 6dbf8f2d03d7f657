package limits

import (
	"cmp"
	"math"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

func (p *reader) rule(m map[string]field, at *node, way trail) {
	f, ok := m["rate_limit"]
	if !ok || f.null() {
		if meta, ok := m["metadata"]; ok && p.options.AnyKeys {
			p.metadata(m) // upstream's files may describe a level so
		} else if ok {
			p.fail(meta.at(), "metadata without rate_limit does nothing")
		}
		return
	}
	r := &Rule{Path: way.name(), Shared: !way.owned, Shadow: p.flag(m["shadow_mode"]), Quota: p.flag(m["quota_mode"]),
		Detailed: p.flag(m["detailed_metric"]), Line: f.key.Position.Line, steps: way.steps}
	switch {
	case p.options.AnyKeys:
		r.domain, r.Shared, r.CountsAll, r.Metadata = p.set.domain, true, true, p.metadata(m)
	case way.path[0] == (PathKey{Key: keyCount, Value: Tokens.String()}):
		r.Unit = Tokens
	}
	if !p.rateLimit(f, r) || !p.policy(m, r) {
		return
	}
	if p.options.CalendarMonths && r.Algorithm == FixedWindow && r.Period == period("month") && r.Calendar == nil {
		r.Calendar = time.UTC
	}
	r.Given, r.Name = r.Name, cmp.Or(r.Name, r.Path)
	at.rule = r
	p.set.rules = append(p.set.rules, r)
	p.set.addPath(way.path)
}

func (p *reader) rateLimit(f field, r *Rule) bool {
	m, ok := p.mapping(f.value, "rate_limit", "name", "unit", "requests_per_unit", "unlimited", "replaces")
	if !ok {
		return false
	}
	r.Name = p.text(m["name"])
	p.uniqueName(m["name"], r.Name)
	r.Unlimited = p.flag(m["unlimited"])
	r.Replaces = p.replaces(m["replaces"], r.Name)
	unit, stated := m["unit"]
	switch {
	case r.Unlimited && stated && (!p.options.AnyKeys || period(strings.ToLower(p.text(unit))) > 0):
		p.fail(unit.at(), "an unlimited rule has no unit")
		return false
	case r.Unlimited:
		return true
	case !stated:
		p.fail(f.at(), "rate_limit needs a unit: %s", strings.Join(periodNames(), ", "))
		return false
	}
	name := strings.ToLower(p.text(unit))
	if r.Period = period(name); r.Period == 0 {
		p.fail(unit.at(), "unknown unit %q%s; one of %s", name, wording.DidYouMean(name, periodNames()), strings.Join(periodNames(), ", "))
		return false
	}
	if f, ok := m["requests_per_unit"]; (!ok || f.null()) && !p.options.AnyKeys {
		p.fail(cmp.Or(f.at(), unit.at()), "rate_limit needs requests_per_unit; 0 refuses everything")
		return false
	}
	n, ok := p.number(m["requests_per_unit"], 0, math.MaxUint32)
	r.PerPeriod, r.Capacity = uint32(n), n
	return ok
}

func (p *reader) uniqueName(f field, name string) {
	if name == "" {
		return
	}
	if !p.options.AnyKeys && (strings.ContainsAny(name, "\"\\") || !ascii(name) || len(name) > 128) {
		p.fail(f.at(), "the name goes into headers: at most 128 printable ASCII characters without quotes and backslashes")
		return
	}
	if taken := p.names[name]; taken != nil && !p.options.AnyKeys {
		p.fail(f.at(), "the name %q is taken by the rule on line %d", name, taken.Position.Line)
		return
	}
	p.names[name] = f.at()
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func (p *reader) replaces(f field, own string) []string {
	if f.null() {
		return nil
	}
	list, ok := f.value.(*ast.SequenceNode)
	if !ok {
		p.fail(f.at(), "replaces must be a list of {name: ...}")
		return nil
	}
	var names []string
	for _, item := range list.Values {
		m, ok := p.mapping(p.value(item), "an entry of replaces", "name")
		if !ok {
			continue
		}
		switch name := p.text(m["name"]); name {
		case "":
			p.fail(item.GetToken(), "an entry of replaces needs a name")
		case own:
			p.fail(m["name"].at(), "a rule cannot replace itself")
		default:
			names = append(names, name)
		}
	}
	return names
}

// period is the length of upstream's unit, 0 for an unknown one.
func period(name string) time.Duration {
	const day = 24 * time.Hour
	switch name {
	case "second":
		return time.Second
	case "minute":
		return time.Minute
	case "hour":
		return time.Hour
	case "day":
		return day
	case "week":
		return 7 * day
	case "month":
		return 30 * day
	case "year":
		return 365 * day
	}
	return 0
}

// PeriodName is the unit of a period in the file.
func PeriodName(d time.Duration) string {
	for _, name := range periodNames() {
		if period(name) == d {
			return name
		}
	}
	return d.String()
}

func periodNames() []string {
	return []string{"second", "minute", "hour", "day", "week", "month", "year"}
}
