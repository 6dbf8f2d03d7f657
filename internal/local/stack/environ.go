package stack

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/storeuser"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Export is one variable of `leaky env`.
type Export struct{ Name, Value string }

// Exports are the URLs of the stack, the gateway first. A stub that is not
// part of the stack has none.
func (p *Plan) Exports() []Export {
	all := []Export{{"LEAKY_GATEWAY_URL", p.Gateway()}}
	for _, part := range topology.Having(func(part topology.Part) bool { return part.API }) {
		if address, on := p.cfg.Monitoring.At(part.Name); part.Kind == topology.Monitor {
			if on {
				all = append(all, Export{part.Variable("URL"), httpURL(address)})
			}
			continue
		}
		if e, ok := p.service(part.Name); ok && p.included(part.Name) {
			url := httpURL(e.HTTP)
			if p.mutual(part.Name) {
				url = "https" + strings.TrimPrefix(url, "http")
			}
			all = append(all, Export{part.Variable("URL"), url})
		}
	}
	for _, s := range p.stores {
		all = append(all, Export{s.Variable("URL"), s.url})
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
	for _, name := range []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
		"GOCOVERDIR"} { // the last is of a leaky that was built to count what its tests reach
		if value := p.getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// explainedBytes is what ratelimit takes to remember a decision for `leaky explain`, about.
const explainedBytes = 4 << 10

// memoryLimit is GOMEMLIMIT of a service, in bytes.
func (p *Plan) memoryLimit(name string) int {
	if name == topology.RateLimit {
		return topology.MemoryLimit + p.cfg.Limits.Explain*explainedBytes
	}
	return topology.MemoryLimit
}

// serviceEnv is the environment of `leaky serve NAME`: the stores it uses, as a user of its own, and, where it
// alone needs them, providers' keys (xds), the payment's (tokensvc) the first administrator and secrets at upstream providers (identity).
func (p *Plan) serviceEnv(part, configPath string) []string {
	name, _ := config.Instance(part)
	of, _ := topology.Find(name)
	env := append(p.baseEnv(), "LEAKY_STATE_DIR="+p.dir)
	if configPath != "" {
		env = append(env, "LEAKY_CONFIG="+configPath)
	}
	if of.Listens() {
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%d", p.memoryLimit(name)), fmt.Sprintf("GOGC=%d", of.GOGC))
	}
	pass := func(names ...string) {
		for _, name := range names {
			if value := p.getenv(name); value != "" {
				env = append(env, name+"="+value)
			}
		}
	}
	pass("LEAKY_LOG_LEVEL", "LEAKY_ZONE", "LEAKY_ADVERTISE")
	env = append(env, "LEAKY_CACHE_DIR="+config.CacheDir(p.getenv))
	if s := p.store(name); s.Name != "" {
		env = append(env, s.Variable("LISTEN")+"="+s.listen.String())
		pass("LEAKY_NATS_SYNC")
	}
	for _, s := range p.stores {
		if slices.Contains(of.Stores, s.Name) {
			env = append(env, s.Variable("URL")+"="+p.urlFor(s, of))
		}
	}
	for provider, settings := range p.cfg.Providers {
		pass("LEAKY_PROVIDER_" + strings.ToUpper(strings.ReplaceAll(provider, "-", "_")) + "_URL")
		for _, key := range settings.AllKeys() {
			if name == topology.XDS && key.APIKeyEnv != "" {
				pass(key.APIKeyEnv)
			}
		}
	}
	if key := p.cfg.Purchases.Payment.APIKeyEnv; key != "" && (name == topology.TokenSvc || name == topology.StubPayment) {
		pass(key)
	}
	if name == topology.Analytics {
		for _, w := range p.cfg.Webhooks {
			pass(w.KeyEnv)
		}
	}
	if name == topology.Identity {
		pass("LEAKY_ADMIN_USERNAME", "LEAKY_ADMIN_PASSWORD", "LEAKY_KEYS_SECRET")
		pass(p.upstreamSecrets()...)
	}
	slices.Sort(env)
	return slices.Compact(env)
}

// upstreamSecrets are the variables with secrets at upstream providers.
func (p *Plan) upstreamSecrets() []string {
	var names []string
	for _, u := range p.cfg.Auth.Upstreams {
		names = append(names, u.ClientSecretEnv)
	}
	return names
}

// urlFor is how a part reaches a store: as the user that is its own there, which of a store that
// runs elsewhere LEAKY_<PART>_<STORE>_URL says. Else all parts share the store's URL; the store
// itself has that of its owner.
func (p *Plan) urlFor(s store, part topology.Part) string {
	if s.external {
		return cmp.Or(p.getenv(part.Variable(strings.ToUpper(s.Name)+"_URL")), s.url)
	}
	if !s.Users || part.Name == s.Name {
		return s.url
	}
	url, err := storeuser.URL(s.url, s.Name, part.Name)
	if err != nil {
		return "" // there is no password yet: the part says that it has no URL
	}
	return url
}

// Gateway is the URL of the gateway.
func (p *Plan) Gateway() string {
	if p.cfg.Gateway.TLS.On() {
		return "https" + strings.TrimPrefix(httpURL(p.cfg.Gateway.Listen), "http")
	}
	return httpURL(p.cfg.Gateway.Listen)
}
