package config_test

import (
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// TestPresetIsThreeLines: the name of a preset and of a key is a whole provider, and what the file
// says wins.
func TestPresetIsThreeLines(t *testing.T) {
	t.Parallel()
	const socket = "services: {xds: {grpc: \"unix:run/xds.sock\"}}\n"
	for _, name := range config.PresetNames() {
		text := socket + "providers: {own: {preset: " + name + ", api_key_env: KEY}}\n"
		if name == "azure" {
			text = socket + "providers: {own: {preset: azure, api_key_env: KEY, url: \"https://x.openai.azure.com/openai/v1\"}}\n"
		}
		c, err := config.Parse([]byte(text + "models: [{name: m, provider: own}]\n"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p := c.Providers["own"]; p.URL == "" || p.Protocol == "" || !p.Keyed() {
			t.Errorf("%s: want an address, a protocol and a key, got %+v", name, p)
		}
	}
	c, err := config.Parse([]byte(socket + "providers: {own: {preset: mistral, url: \"http://127.0.0.1:1/v1\", stream_options: true}}\nmodels: [{name: m, provider: own}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p := c.Providers["own"]; p.URL != "http://127.0.0.1:1/v1" || !p.AsksUsage() || p.MaxTokensName != config.MaxTokensMember {
		t.Errorf("want what the file says, and the preset's rest, got %+v", p)
	}
}

// TestMistakesInUpstreams are told by their key, with what would be right.
func TestMistakesInUpstreams(t *testing.T) {
	t.Parallel()
	const two = "providers:\n  one: {url: \"http://127.0.0.1:1\"}\n  two: {url: \"http://127.0.0.1:2\"}\n  g: {url: \"http://127.0.0.1:3\", protocol: gemini}\n"
	for name, c := range map[string]struct{ text, want string }{
		"preset":               {"providers: {x: {preset: grok}}\n", "providers.x.preset: \"grok\" is not known; did you mean \"groq\"?"},
		"azure without a url":  {"providers: {x: {preset: azure}}\n", "providers.x.url: write http(s)://host"},
		"two places":           {"providers: {x: {preset: openai, keys: [{api_key_env: A, api_key_file: b}]}}\n", "providers.x.keys[0]: write api_key_env or api_key_file"},
		"a key beside keys":    {"providers: {x: {preset: openai, api_key_env: A, keys: [{api_key_env: B}]}}\n", "providers.x.keys: there is a key beside them"},
		"weight":               {"providers: {x: {preset: openai, keys: [{api_key_env: B, weight: -1}]}}\n", "providers.x.keys[0].weight: -1 is out of range"},
		"retries":              {"providers: {x: {preset: openai, retries: 9}}\n", "providers.x.retries: 9 is out of range; it must be 0 to 5"},
		"every name":           {two + "models: [{name: \"*\", provider: one}]\n", "models[0].name: * alone would take every name"},
		"wildcard with alias":  {two + "models: [{name: \"a*\", provider: one, model: b}]\n", "models[0].model: a wildcard stands for many"},
		"wildcard within":      {two + "models: [{name: \"a*b\", provider: one}]\n", "models[0].name: \"a*b\""},
		"fallback unknown":     {two + "models: [{name: first, provider: one, fallback: [secnd]}, {name: second, provider: two}]\n", "models[0].fallback[0]: \"secnd\" is not known; did you mean \"second\"?"},
		"fallback to itself":   {two + "models: [{name: a, provider: one, fallback: [a]}]\n", "models[0].fallback[0]: a is tried already"},
		"fallback twice":       {two + "models: [{name: a, provider: one, fallback: [b, b]}, {name: b, provider: two}]\n", "models[0].fallback[1]: b is tried already"},
		"fallback to a kind":   {two + "models: [{name: a, provider: one, fallback: [b]}, {name: b, provider: two, kind: embedding}]\n", "a is of kind chat and b of kind embedding"},
		"fallback to many":     {two + "models: [{name: a, provider: one, fallback: [\"b*\"]}, {name: \"b*\", provider: two}]\n", "b* stands for many models"},
		"fallback, protocol":   {two + "models: [{name: a, provider: one, fallback: [b]}, {name: b, provider: g}]\n", "a speaks openai and b speaks gemini"},
		"certificate, no key":  {"gateway: {tls: {certificate: a.crt}}\n", "gateway.tls: a certificate goes with its key"},
		"clients, no roots":    {"gateway: {tls: {certificate: a, key: b, clients: required}}\n", "gateway.tls.client_roots: name the file"},
		"clients, unknown":     {"gateway: {tls: {certificate: a, key: b, clients: maybe}}\n", "gateway.tls.clients: \"maybe\" is not known"},
		"fallback on a port":   {"gateway: {fallback: \"127.0.0.1:1\"}\n", "gateway.fallback: who reaches it calls providers in anybody's name"},
		"outlier out of range": {"providers: {x: {preset: openai, outlier: {ejection: 1h}}}\n", "providers.x.outlier.ejection: 1h0m0s is out of range"},
	} {
		if _, err := config.Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q, got %v", name, c.want, err)
		}
	}
}
