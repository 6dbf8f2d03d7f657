package stack

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Unwanted are what a configuration says that is legal and surely not meant.
func (p *Plan) Unwanted() []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if pay := p.cfg.Purchases.Payment; ownMachine(pay.URL) && !p.included(topology.StubPayment) {
		say("purchases.payment.url is %s, but services.stub_payment.http is %s: the stub does not run, and purchases go to whoever listens there",
			pay.URL, p.cfg.Services.StubPayment.HTTP)
	}
	if p.cfg.Pools.Refill == config.RefillWindow {
		say("pools.refill is window: what somebody buys is full again after each %s, for nothing; never is what they paid for", p.cfg.Pools.Window)
	}
	defaults, err := config.Parse(nil)
	if err != nil {
		return found
	}
	served := map[string]bool{}
	for _, m := range p.cfg.Models {
		served[m.Provider] = true
	}
	for _, name := range slices.Sorted(maps.Keys(p.cfg.Providers)) {
		provider := p.cfg.Providers[name]
		for _, stub := range topology.Of(topology.Stub) {
			at := p.cfg.Services.Named(stub.Name).HTTP
			if usual := defaults.Services.Named(stub.Name).HTTP; at != usual && pointsAt(provider.URL, usual) && !pointsAt(provider.URL, at) {
				say("providers.%s.url is %s, but services.%s.http is %s: the stub is not where the calls go", name, provider.URL, stub.Key(), at)
			}
		}
		if !served[name] && !provider.Unlisted {
			say("providers.%s serves no model: nothing is routed to it", name)
		}
		found = append(found, p.unsetKeys(name, provider)...)
	}
	if !p.cfg.Flags.TokenService.QuotaEnforcement {
		for _, name := range slices.Sorted(maps.Keys(p.cfg.Tiers.Levels)) {
			if p.cfg.Tiers.Levels[name].Balance == config.BalanceRequired {
				say("tiers.levels.%s.balance is required, but flags.token_service.quota_enforcement is off: nobody's balance is asked", name)
			}
		}
	}
	for i, u := range p.cfg.Auth.Upstreams {
		if env := u.ClientSecretEnv; env != "" && p.getenv(env) == "" {
			say("auth.upstreams[%d].client_secret_env: %s is not set here: identity does not start without it", i, env)
		}
	}
	return found
}

// unsetKeys are a provider's keys whose variables are not set.
func (p *Plan) unsetKeys(name string, provider config.Provider) []string {
	var found []string
	for i, key := range provider.AllKeys() {
		switch env := key.APIKeyEnv; {
		case env == "" || p.getenv(env) != "":
		case len(provider.Keys) > 0:
			found = append(found, fmt.Sprintf("providers.%s.keys[%d].api_key_env: %s is not set here: the others are used", name, i, env))
		default:
			found = append(found, fmt.Sprintf("providers.%s.api_key_env: %s is not set here: calls of this provider are answered with 503", name, env))
		}
	}
	return found
}

// ownMachine reports whether a URL is on loopback.
func ownMachine(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}
