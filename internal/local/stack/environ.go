package stack

import (
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// Export is one variable of `leaky env`.
type Export struct{ Name, Value string }

// Exports are the URLs of the stack, in the order people look for them. A stub that is not
// part of the stack has none.
func (p *Plan) Exports() []Export {
	all := []Export{{"LEAKY_GATEWAY_URL", httpURL(p.cfg.Gateway.Listen)}}
	for _, name := range []string{"identity", "tokensvc", "analytics", "xds", "stub-openai", "stub-gemini", "stub-qwen", "stub-payment"} {
		if e, ok := p.service(name); ok && p.included(name) {
			url := httpURL(e.HTTP)
			if p.mutual(name) {
				url = "https" + strings.TrimPrefix(url, "http")
			}
			all = append(all, Export{"LEAKY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_URL", url})
		}
	}
	for _, s := range p.stores {
		all = append(all, Export{s.urlVar, s.url})
	}
	return all
}

// httpURL is how a client on this machine reaches an address that may be a wildcard.
func httpURL(listen string) string {
	a, err := netaddr.Parse(listen)
	if err != nil {
		return "http://" + listen
	}
	if a.Host == "" || a.Host == "0.0.0.0" || a.Host == "::" {
		a.Host = "127.0.0.1"
	}
	return "http://" + a.String()
}

// ShellQuote makes one word of any text for a POSIX shell.
func ShellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// baseEnv is the environment of a program that is not ours: what any program may need and
// what holds no secret.
func (p *Plan) baseEnv() []string {
	env := []string{}
	for _, name := range []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if value := p.getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// serviceEnv is the environment of `leaky serve NAME`: the stores it uses and, where it
// alone needs them, providers' keys (xds), the payment's (tokensvc) and the first administrator (identity).
func (p *Plan) serviceEnv(part, configPath string) []string {
	name, _ := config.Instance(part)
	env := append(p.baseEnv(), "LEAKY_STATE_DIR="+p.dir)
	if configPath != "" {
		env = append(env, "LEAKY_CONFIG="+configPath)
	}
	if name != "nats" && name != "clickhouse" {
		// Together under 250 MB resident: they allocate little, so collecting early costs less than the memory,
		// but for the five that every request passes.
		gogc := "50"
		if slices.Contains([]string{"extauthz", "ratelimit", "meter", "tokensvc", "analytics"}, name) {
			gogc = "400"
		}
		env = append(env, "GOMEMLIMIT=64MiB", "GOGC="+gogc)
	}
	pass := func(names ...string) {
		for _, name := range names {
			if value := p.getenv(name); value != "" {
				env = append(env, name+"="+value)
			}
		}
	}
	pass("LEAKY_CACHE_DIR", "LEAKY_LOG_LEVEL")
	if s := p.store(name); s.name != "" {
		env = append(env, storeVar(name, "LISTEN")+"="+s.listen.String())
		pass("LEAKY_NATS_SYNC")
	}
	for _, s := range p.stores {
		if slices.Contains(uses(name), s.name) {
			env = append(env, s.urlVar+"="+s.url)
		}
	}
	for provider, settings := range p.cfg.Providers {
		pass("LEAKY_PROVIDER_" + strings.ToUpper(strings.ReplaceAll(provider, "-", "_")) + "_URL")
		if name == "xds" && settings.APIKeyEnv != "" {
			pass(settings.APIKeyEnv)
		}
	}
	if key := p.cfg.Purchases.Payment.APIKeyEnv; key != "" && (name == "tokensvc" || name == "stub-payment") {
		pass(key)
	}
	if name == "identity" {
		pass("LEAKY_ADMIN_USERNAME", "LEAKY_ADMIN_PASSWORD", "LEAKY_KEYS_SECRET")
	}
	slices.Sort(env)
	return slices.Compact(env)
}

// uses are the stores whose URL a service gets.
func uses(name string) []string {
	switch name {
	case "nats", "clickhouse":
		return []string{name}
	case "xds", "extauthz", "meter":
		return []string{"nats"}
	case "identity":
		return []string{"postgres", "redis", "nats"}
	case "tokensvc":
		return []string{"postgres", "nats"}
	case "ratelimit":
		return []string{"redis", "nats"}
	case "analytics":
		return []string{"nats", "clickhouse"}
	}
	return nil
}

// Gateway is the URL of the gateway.
func (p *Plan) Gateway() string { return httpURL(p.cfg.Gateway.Listen) }
