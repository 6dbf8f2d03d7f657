package advice_test

import (
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/xds/advice"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

const providers = `
providers:
  openai: {url: "http://127.0.0.1:8093"}
  gemini: {protocol: gemini, url: "http://127.0.0.1:8092"}
models:
  - {name: a, provider: openai}
  - {name: b, provider: gemini}
`

func rules(path string) string {
	return "domain: leaky\ndescriptors:\n  - {key: count, value: tokens, descriptors: [{" + path +
		", rate_limit: {name: r, unit: minute, requests_per_unit: 5}}]}\n"
}

// TestDoubts: each is valid, and does not do what it says. Empty text: nothing to say.
func TestDoubts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ more, limits, want string }{
		"built in":              {},
		"first byte":            {more: "gateway: {first_byte_timeout: 20m}", want: "gateway.first_byte_timeout: 20m0s is never reached"},
		"silence":               {more: "gateway: {stream_idle_timeout: 50m}", want: "gateway.stream_idle_timeout: 50m0s is never reached"},
		"question too short":    {more: "limits: {timeout: 100ms}", want: "limits.timeout: 100ms ends the question"},
		"hidden prefix":         {more: "gateway: {rate_limit: {whitelist: ['/a/**', '/a/b/**']}}", want: "whitelist[1]: /a/b/** is in /a/** already"},
		"hidden path":           {more: "gateway: {rate_limit: {whitelist: ['/a/b', '/a/**']}}", want: "whitelist[0]: /a/b is in /a/** already"},
		"no hidden path":        {more: "gateway: {rate_limit: {whitelist: ['/ab/c', '/a/**', '/a']}}", want: "whitelist[2]"},
		"twice":                 {more: "gateway: {rate_limit: {whitelist: ['/a/**', '/a/**']}}", want: "whitelist[1]: /a/** is in /a/** already"},
		"outage of no route":    {more: "limits: {outage: {routes: {openai-chatt: open}}}", want: `limits.outage.routes.openai-chatt: there is no route of this name; did you mean "openai-chat"?`},
		"charge of no route":    {more: "charge: {routes: {nowhere: hold}}", want: "charge.routes.nowhere: there is no route"},
		"maximum of no route":   {more: "limits: {max_tokens: {routes: {gemini: reject}}}", want: "limits.max_tokens.routes.gemini: there is no route"},
		"a breaker that can't":  {more: providers + "  - {name: c, provider: big}\n", want: "providers.big.max_requests: the breaker never opens"},
		"a hidden breaker":      {more: providers + "  - {name: c, provider: hidden}\n", want: "providers.hidden.egress.max_concurrent: 20 is never reached"},
		"pauses beyond the end": {more: providers + "  - {name: c, provider: slow}\n", want: "providers.slow.egress.timeout: 1s is over before the last of 5 attempts"},
		"no such model":         {limits: rules("key: model, value: gpt-4O"), want: `limits, line 3: r matches nothing: there is no model "gpt-4O"; did you mean "gpt-4o"?`},
		"no such provider":      {limits: rules("key: provider, value: nobody"), want: `there is no provider "nobody"`},
		"no such tier":          {limits: rules("key: tier, value: PLATINUM"), want: `there is no tier "PLATINUM"`},
		"no such route":         {limits: rules("key: route, value: chat"), want: `there is no route "chat"`},
		"a wildcard of nothing": {limits: rules("key: model, value: 'grok-*'"), want: `there is no model "grok-*"`},
		"a wildcard":            {limits: rules("key: model, value: 'gpt-*'")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for provider, keys := range map[string]string{"big": "max_requests: 20000", "hidden": "max_requests: 10", "slow": "egress: {timeout: 1s, attempts: 5}"} {
				if strings.Contains(c.more, "provider: "+provider) {
					c.more = strings.Replace(c.more, "models:", "  "+provider+": {url: 'http://10.0.0.1', "+keys+"}\nmodels:", 1)
				}
			}
			cfg, err := config.Parse([]byte(c.more))
			if err != nil {
				t.Fatal(err)
			}
			set, err := limits.Load("")
			if c.limits != "" {
				set, err = limits.Parse([]byte(c.limits))
			}
			if err != nil {
				t.Fatal(err)
			}
			g, _, err := model.Build(model.Input{Config: cfg, StateDir: "/s", Limits: set.Paths(), Key: func(string, config.ProviderKey) (string, error) { return "k", nil }})
			if err != nil {
				t.Fatal(err)
			}
			doubts := advice.Look(advice.Input{Config: cfg, Gateway: g, Limits: set})
			if c.want == "" && len(doubts) > 0 || c.want != "" && (len(doubts) != 1 || !strings.Contains(doubts[0].String(), c.want)) {
				t.Errorf("want %q, got %v", c.want, doubts)
			}
		})
	}
}
