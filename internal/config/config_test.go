package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/deploy"
)

func TestBuiltInConfigurationIsValid(t *testing.T) {
	t.Parallel()
	c, err := Load("", func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if c.Gateway.Listen != "127.0.0.1:8080" || len(c.Models) == 0 || c.Providers["openai"].MaxRequests != 1024 {
		t.Fatalf("defaults are missing: %+v", c)
	}
	if _, err := Parse(nil); err != nil {
		t.Fatalf("an empty file must be valid: %v", err)
	}
}

func TestMistakesNameLineColumnKeyAndFix(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"unknown key":        {"gateway:\n  listn: 127.0.0.1:1\n", `leaky.yaml:2:3: listn: unknown key; did you mean "listen"?`},
		"wrong type":         {"gateway:\n  trusted_hops: many\n", `leaky.yaml:2:17: a whole number is expected here, not "many"`},
		"a list for a text":  {"gateway:\n  listen: [1]\n", "leaky.yaml:2:11: a text is expected here"},
		"swapped letters":    {"tires: {}\n", `leaky.yaml:1:1: tires: unknown key; did you mean "tiers"?`},
		"out of range":       {"gateway:\n  trusted_hops: 11\n", "leaky.yaml:2:17: gateway.trusted_hops: 11 is out of range; it must be 0 to 10"},
		"bad duration":       {"auth:\n  token_ttl: 5 minutes\n", "leaky.yaml:2:14: "},
		"bad address":        {"gateway: {listen: 8080}\n", "gateway.listen: address \"8080\": write host:port or unix:/path"},
		"admin not loopback": {"envoy: {admin: 0.0.0.0:9901}\n", "leaky.yaml:1:16: envoy.admin: 0.0.0.0 is not a loopback address"},
		"same address twice": {"services:\n  meter: {http: 127.0.0.1:8084}\n",
			"services.meter.http: 127.0.0.1:8084 is taken by services.ratelimit.http"},
		"model's provider": {"models:\n  - {name: gpt-x, provider: opena1}\n",
			`leaky.yaml:2:29: models[0].provider: "opena1" is not known; did you mean "openai"?`},
		"model twice": {"models:\n  - {name: a, provider: qwen}\n  - {name: a, provider: openai}\n",
			`leaky.yaml:3:12: models[1].name: "a" stands here twice`},
		"expiry":                      {"holds: {expiry: relase}\n", `did you mean "release"?`},
		"provider without url":        {"providers:\n  openai: {protocol: openai}\n", "providers.openai.url: write http(s)://host[:port][/prefix]"},
		"provider credentials":        {"providers:\n  openai: {url: 'https://user:secret@host'}\n", "without credentials"},
		"a cloud's credentials":       {"providers:\n  openai: {url: 'http://169.254.169.254/latest'}\n", "leaky.yaml:2:17: providers.openai.url: no provider is at 169.254.169.254"},
		"a cloud's credentials, 6":    {"providers:\n  openai: {url: 'http://[::ffff:169.254.169.254]/'}\n", "no provider is at"},
		"a cloud's credentials' name": {"providers:\n  openai: {url: 'http://metadata.google.internal'}\n", "no provider is at"},
		"provider's port":             {"providers:\n  openai: {url: 'https://one.example:70000'}\n", "leaky.yaml:2:17: providers.openai.url: port 70000 is out of range; it must be 1 to 65535"},
		"provider's port, 0":          {"providers:\n  openai: {url: 'https://one.example:0/v1'}\n", "leaky.yaml:2:17: providers.openai.url: port 0 is out of range"},
		"provider's port, huge":       {"providers:\n  openai: {url: 'https://[::1]:99999999999999999999'}\n", "providers.openai.url: port 99999999999999999999 is out of range"},
		"ratio": {"providers:\n  openai: {url: 'https://host', tokens_per_byte: 1.5}\n",
			"providers.openai.tokens_per_byte: 1.5 is out of range"},
		"webhook without key":        {"webhooks:\n  - url: https://host/x\n", "leaky.yaml:2:10: webhooks[0].url: key_env or key_file is needed"},
		"webhook with two keys":      {"webhooks:\n  - {url: 'https://host/x', key_env: A, key_file: b}\n", "and not both"},
		"webhook without encryption": {"webhooks:\n  - {url: 'http://host/x', key_env: A}\n", "webhooks[0].url: host is not on this machine: write https"},
		"webhook credentials":        {"webhooks:\n  - {url: 'https://u:p@host/x', key_env: A}\n", "webhooks[0].url: write https://host[:port]/path"},
		"webhook event":              {"webhooks:\n  - {url: 'https://host/x', key_env: A, events: [anomally]}\n", `did you mean "anomaly"?`},
		"webhook event twice":        {"webhooks:\n  - {url: 'https://host/x', key_env: A, events: [anomaly, anomaly]}\n", "webhooks[0].events[1]: anomaly stands there twice"},
		"webhook twice":              {"webhooks:\n  - {url: 'https://host/x', key_env: A}\n  - {url: 'https://host/x', key_env: B}\n", "webhooks[1].url: the same address"},
		"sums gone before calls":     {"analytics: {keep_days: 90, rollup_days: 30}\n", "analytics.rollup_days: sums of 30 days would be gone before their calls"},
		"reconciled all the time":    {"analytics: {reconcile_every: 1s}\n", "analytics.reconcile_every: 1s is out of range"},
		"default tier":               {"tiers: {default: NONE}\n", `tiers.default: "NONE" is not among tiers.levels`},
		"not yaml":                   {"gateway: [\n", "leaky.yaml:"},
		"duplicate key":              {"gateway: {trusted_hops: 1}\ngateway: {trusted_hops: 2}\n", "leaky.yaml:2:1: "},
		"not a mapping":              {"- 1\n", "leaky.yaml:1:"},
		"egress is public":           {"gateway: {egress: '0.0.0.0:9'}\n", "gateway.egress: 0.0.0.0 is not a loopback address"},
		"key strategy":               {"gateway: {rate_limit: {key_strategy: IPS}}\n", `did you mean "IP"?`},
		"whitelist":                  {"gateway: {rate_limit: {whitelist: [actuator]}}\n", `gateway.rate_limit.whitelist: "actuator"`},
		"flag":                       {"flags: {gateway: {rate_limitting: false}}\n", `did you mean "rate_limiting"?`},
		"tls mode":                   {"tls: {mode: on}\n", "tls.mode: \"on\" is not known"},
		"egress attempts": {"providers:\n  openai: {url: 'https://host', egress: {attempts: 11}}\n",
			"providers.openai.egress.attempts: 11 is out of range"},
		"provider's key with xds on a port": {"services: {xds: {grpc: '127.0.0.1:18000'}}\nproviders:\n  openai: {url: 'https://host', api_key_env: KEY}\n",
			"providers.openai.api_key_env: services.xds.grpc is a port, and xds would give the key to every process"},
		"inner port":           {"services: {identity: {inner: '127.0.0.1:1'}}\n", "services.identity.inner: nothing proves who answers on a port"},
		"inner of none":        {"services: {meter: {inner: 'unix:x'}}\n", "services.meter.inner: no other part calls this service"},
		"more than the bodies": {"gateway: {inflight_bytes: 1000}\n", "gateway.inflight_bytes: 1000 is out of range"},
		"an origin's path":     {"gateway: {cors: {origins: [\"https://app.example/\"]}}\n", "write an origin as browsers do"},
		"an origin's case":     {"gateway: {cors: {origins: [\"https://App.example\"]}}\n", "write an origin as browsers do"},
		"a star among others":  {"gateway: {cors: {origins: [\"https://app.example\", \"*\"]}}\n", "* stands alone"},
		"a header of two":      {"gateway: {cors: {headers: [\"a, b\"]}}\n", "write a header's name in lower case"},
		"heap":                 {"envoy: {max_heap: 1000}\n", "envoy.max_heap: 1000 is out of range"},
		"connections":          {"envoy: {connections: 1}\n", "envoy.connections: 1 is out of range"},
		"consume path":         {"providers:\n  openai: {url: 'https://host', consume_path: 'x?y'}\n", "providers.openai.consume_path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(tc.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("want %q in:\n%v", tc.want, err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Fatalf("the error shows a secret: %v", err)
			}
		})
	}
}

// TestSocketsAreTheDefault: each process has one of its own, and certificates need none.
func TestSocketsAreTheDefault(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, identity, second, analytics string }{
		"nothing said": {"", "unix:run/identity.sock", "", "unix:run/analytics.sock"},
		"replicas": {"services: {identity: {replicas: [{http: '127.0.0.1:9'}]}}\n", "unix:run/identity.sock", "unix:run/identity-2.sock",
			"unix:run/analytics.sock"},
		"stated":       {"services: {identity: {inner: 'unix:/x.sock'}}\n", "unix:/x.sock", "", "unix:run/analytics.sock"},
		"certificates": {"tls: {mode: mutual}\n", "127.0.0.1:8081", "", "127.0.0.1:8083"},
	} {
		cfg, err := Parse([]byte(c.text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all := cfg.Services.Identity.All()
		if all[0].Called() != c.identity || len(all) > 1 && all[1].Called() != c.second || cfg.Services.Analytics.Called() != c.analytics {
			t.Errorf("%s: want %s, %s and %s, got %+v and %s", name, c.identity, c.second, c.analytics, all, cfg.Services.Analytics.Called())
		}
	}
}

func TestEveryMistakeIsListed(t *testing.T) {
	t.Parallel()
	_, err := Parse([]byte("gateway: {trusted_hops: 11, max_body_bytes: 1}\nholds: {expiry: never}\n"))
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Fatalf("want three lines, got:\n%v", err)
	}
}

func TestEnvironmentWins(t *testing.T) {
	t.Parallel()
	env := map[string]string{"LEAKY_REDIS_URL": "redis://elsewhere:6379/3", "LEAKY_PROVIDER_OPENAI_URL": "https://api.example.com/v9"}
	c, err := Load("", func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	if c.Stores.Redis != env["LEAKY_REDIS_URL"] || c.Providers["openai"].URL != env["LEAKY_PROVIDER_OPENAI_URL"] {
		t.Fatalf("got %+v, %+v", c.Stores, c.Providers["openai"])
	}
}

func TestProvidersOfAFileReplaceTheBuiltInOnes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "leaky.yaml")
	text := "providers:\n  openai: {url: 'https://api.example.com', api_key_env: KEY}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Providers["openai"].TokensPerByte; got != 1 {
		t.Errorf("a real provider must not inherit the stub's ratio: want 1, got %v", got)
	}
	if len(c.Providers) != 1 {
		t.Errorf("want one provider, got %v", c.Providers)
	}
	for _, m := range c.Models {
		if m.Provider != "openai" {
			t.Errorf("model %s of a provider that is gone", m.Name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(""))
	f.Add(deploy.DefaultConfig)
	f.Add([]byte("gateway: {listen: 1}\nmodels: [{name: x}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if (c == nil) == (err == nil) {
			t.Fatalf("want a configuration or an error, got %v and %v", c, err)
		}
	})
}
