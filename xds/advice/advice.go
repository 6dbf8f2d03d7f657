// Package advice is beside the request path: it finds in a configuration that is valid what is
// likely a mistake — a limit that matches nothing, a bound that another hides, a breaker that
// never opens — for `leaky check` to say before anybody waits for it to work.
package advice

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/wording"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// Input is what is looked at.
type Input struct {
	Config  *config.Config
	Gateway *model.Gateway // made of Config
	Limits  *limits.Set
}

// Doubt is one thing that is legal and does not do what it says.
type Doubt struct {
	Key     string `json:"key,omitempty"`  // path of the key in leaky.yaml
	Line    int    `json:"line,omitempty"` // or the line in the limits file
	Message string `json:"message"`
}

func (d Doubt) String() string {
	if d.Line > 0 {
		return fmt.Sprintf("limits, line %d: %s", d.Line, d.Message)
	}
	return d.Key + ": " + d.Message
}

// Look gives the doubts in the order of the file.
func Look(in Input) []Doubt {
	l := &look{Input: in}
	l.timeouts()
	l.whitelist()
	l.routeNames()
	l.providers()
	l.rules()
	return l.doubts
}

type look struct {
	Input
	doubts []Doubt
}

func (l *look) say(key, format string, args ...any) {
	l.doubts = append(l.doubts, Doubt{Key: key, Message: fmt.Sprintf(format, args...)})
}

// timeouts finds bounds that another one hides.
func (l *look) timeouts() {
	g := l.Config.Gateway
	if g.FirstByteTimeout > g.MaxStreamDuration {
		l.say("gateway.first_byte_timeout", "%v is never reached: gateway.max_stream_duration ends every call after %v", g.FirstByteTimeout,
			g.MaxStreamDuration)
	}
	if g.StreamIdleTimeout > g.MaxStreamDuration {
		l.say("gateway.stream_idle_timeout", "%v is never reached: gateway.max_stream_duration ends every call after %v", g.StreamIdleTimeout,
			g.MaxStreamDuration)
	}
	if most := l.Config.Limits.Outage.Timeout + l.Config.Limits.Outage.DialTimeout; l.Config.Limits.Timeout < most {
		l.say("limits.timeout", "%v ends the question before ratelimit has waited for Redis (limits.outage.dial_timeout and .timeout, %v together): what limits.outage says never happens",
			l.Config.Limits.Timeout, most)
	}
}

// whitelist finds entries that another one hides.
func (l *look) whitelist() {
	all := l.Config.Gateway.RateLimit.Whitelist
	for i, entry := range all {
		for j, other := range all {
			prefix, wide := strings.CutSuffix(other, "/**")
			if i != j && wide && (entry != other || j < i) && strings.HasPrefix(strings.TrimSuffix(entry, "/**")+"/", prefix+"/") {
				l.say(fmt.Sprintf("gateway.rate_limit.whitelist[%d]", i), "%s is in %s already", entry, other)
				break
			}
		}
	}
}

// names are those by which limits and leaky.yaml know the routes: the gateway's, and those that
// services ask for themselves, each of which has a rule in the built-in limits.
func (l *look) names() []string {
	found := map[string]bool{}
	if builtin, err := limits.Load(""); err == nil {
		for _, rule := range builtin.Rules() {
			if asked, ok := rule.Asks("route"); ok {
				found[asked] = true
			}
		}
	}
	for _, r := range l.Gateway.Routes {
		found[r.LimitName()] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// routeNames finds settings for routes that there are not.
func (l *look) routeNames() {
	known := l.names()
	check := func(key string, names []string) {
		for _, name := range slices.Sorted(slices.Values(names)) {
			if !slices.Contains(known, name) {
				l.say(key+"."+name, "there is no route of this name%s", wording.DidYouMean(name, known))
			}
		}
	}
	check("limits.outage.routes", slices.Collect(maps.Keys(l.Config.Limits.Outage.Routes)))
	check("limits.max_tokens.routes", slices.Collect(maps.Keys(l.Config.Limits.MaxTokens.Routes)))
	check("charge.routes", slices.Collect(maps.Keys(l.Config.Charge.Routes)))
}

func (l *look) providers() {
	for _, name := range slices.Sorted(maps.Keys(l.Config.Providers)) {
		p, key := l.Config.Providers[name], "providers."+name
		if p.MaxRequests >= l.Config.Envoy.Connections {
			l.say(key+".max_requests", "the breaker never opens: %d calls at once are allowed, and envoy.connections lets %d clients in",
				p.MaxRequests, l.Config.Envoy.Connections)
		}
		if p.Egress.MaxConcurrent > p.MaxRequests {
			l.say(key+".egress.max_concurrent", "%d is never reached: max_requests is %d", p.Egress.MaxConcurrent, p.MaxRequests)
		}
		if pauses := p.Egress.Backoff * time.Duration(p.Egress.Attempts-1); pauses >= p.Egress.Timeout {
			l.say(key+".egress.timeout", "%v is over before the last of %d attempts: the pauses between them take about %v", p.Egress.Timeout,
				p.Egress.Attempts, pauses)
		}
		if p.ConnectTimeout >= l.Config.Gateway.FirstByteTimeout {
			l.say(key+".connect_timeout", "%v is never reached: gateway.first_byte_timeout is %v", p.ConnectTimeout,
				l.Config.Gateway.FirstByteTimeout)
		}
	}
}

// rules finds limits that no request can fall under.
func (l *look) rules() {
	var models []string
	for _, m := range l.Config.Models {
		models = append(models, m.Name, m.Provider+"/"+m.Name)
	}
	known := map[string][]string{
		"provider": slices.Sorted(maps.Keys(l.Config.Providers)), "model": models,
		"tier":  slices.Sorted(maps.Keys(l.Config.Tiers.Levels)),
		"route": l.names(),
	}
	for _, rule := range l.Limits.Rules() {
		for _, key := range slices.Sorted(maps.Keys(known)) {
			asked, ok := rule.Asks(key)
			if ok && !slices.ContainsFunc(known[key], func(value string) bool { return limits.Takes(asked, value) }) {
				l.doubts = append(l.doubts, Doubt{Line: rule.Line, Message: fmt.Sprintf("%s matches nothing: there is no %s %q%s", rule.Name, key,
					asked,
					wording.DidYouMean(asked, known[key]))})
			}
		}
	}
}
