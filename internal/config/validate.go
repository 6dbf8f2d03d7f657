package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// Kinds of models.
const (
	KindChat       = operation.KindChat
	KindEmbedding  = operation.KindEmbedding
	KindModeration = operation.KindModeration
	KindImage      = operation.KindImage
	KindSpeech     = operation.KindSpeech
	KindAny        = operation.KindAny // of models that stand nowhere: what the path says
)

// What happens to a hold that nobody settled.
const (
	ExpiryCharge  = "charge"
	ExpiryRelease = "release"
)

const defaultConnectTimeout = 2 * time.Second

// providerName is what may stand in a NATS subject and an environment variable.
var providerName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// modelName is what may stand in a JSON string and a header without escaping: whatever providers
// call their models. pathModelName is what may stand in a path, where Gemini has it.
var (
	modelName     = regexp.MustCompile(`^[A-Za-z0-9@][A-Za-z0-9 ._:@/+~=,#()-]{0,254}$`)
	pathModelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$`)
)

// validator collects mistakes.
type validator struct{ mistakes []Mistake }

func (v *validator) fail(key, format string, args ...any) {
	v.mistakes = append(v.mistakes, Mistake{Key: key, Message: fmt.Sprintf(format, args...)})
}

func between[T cmp.Ordered](v *validator, key string, value, least, most T) {
	if value < least || value > most {
		v.fail(key, "%v is out of range; it must be %v to %v", value, least, most)
	}
}

func (v *validator) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	if near := wording.Nearest(value, allowed); near != "" {
		v.fail(key, "%q is not known; did you mean %q?", value, near)
		return
	}
	v.fail(key, "%q is not known; write one of %s", value, strings.Join(allowed, ", "))
}

// port refuses a port that is written in a URL and is none. Without one it is its scheme's.
func (v *validator) port(key string, u *url.URL) {
	port := u.Port()
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
		v.fail(key, "port %s is out of range; it must be 1 to 65535", port)
	}
}

func (v *validator) address(key, value string, mayBeUnix bool) netaddr.Addr {
	addr, err := netaddr.Parse(value)
	switch {
	case err != nil:
		v.fail(key, "%v", err)
	case addr.Network == "unix" && !mayBeUnix:
		v.fail(key, "a Unix socket can't be used here; write host:port")
	}
	return addr
}

// validate checks ranges and references; the order is that of the file.
func (c *Config) validate() []Mistake {
	v := &validator{}
	between(v, "gateway.trusted_hops", c.Gateway.TrustedHops, 0, 10)
	c.validateBounds(v)
	c.validateGateway(v)
	between(v, "envoy.concurrency", c.Envoy.Concurrency, 0, 256)
	if c.Envoy.Spool == "" {
		v.fail("envoy.spool", "must not be empty; the spool is the write-ahead log of metering")
	}
	c.validateServices(v)
	c.validateSecrets(v)
	c.validateProviders(v)
	c.validateTiers(v)
	c.Limits.validateRules(v)
	c.Limits.Envoys.validate(v, c.TLS)
	c.Limits.validateExplain(v)
	c.Limits.MaxTokens.validate(v)
	between(v, "limits.timeout", c.Limits.Timeout, time.Millisecond, 10*time.Second)
	c.Limits.Outage.validate(v)
	c.Holds.validate(v)
	c.Charge.validate(v)
	c.Auth.validate(v)
	c.Auth.validateUpstreams(v, c.Tiers)
	c.TLS.validate(v)
	c.Purchases.validate(v, c.Providers)
	c.Pools.validate(v)
	c.Dimensions.validate(v)
	c.validateDiscovery(v)
	c.Analytics.validate(v)
	c.Tracing.validate(v)
	validateWebhooks(v, c.Webhooks)
	return v.mistakes
}

// Loopback reports whether a host, a name or an address, is this machine.
func Loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func (c *Config) validateServices(v *validator) {
	seen := map[string]string{}
	check := func(key, value string, mayBeUnix bool) netaddr.Addr {
		addr := v.address(key, value, mayBeUnix)
		if other, twice := seen[value]; twice && addr.Port != 0 {
			v.fail(key, "%s is taken by %s", value, other)
		}
		seen[value] = key
		return addr
	}
	check("gateway.listen", c.Gateway.Listen, false)
	check("envoy.metrics", c.Envoy.Metrics, false)
	if admin := check("envoy.admin", c.Envoy.Admin, true); admin.Host != "" && !Loopback(admin.Host) {
		v.fail("envoy.admin", "%s is not a loopback address; Envoy's admin can stop it and must not be reachable from outside", admin.Host)
	}
	if c.Limits.Envoys.Listen != "" {
		check("limits.envoys.listen", c.Limits.Envoys.Listen, true)
	}
	c.Logs.validate(v)
	c.Monitoring.validate(v, func(key, value string) { check(key, value, false) })
	for _, part := range topology.Having(topology.Part.Listens) {
		at := c.Services.Named(part.Name)
		if n := len(at.Replicas); n > 0 && !part.Replicas || n >= maxReplicas {
			v.fail("services."+part.Key()+".replicas", "this service runs once, and others at most %d times; remove entries", maxReplicas)
			continue
		}
		for i, addr := range at.All() {
			key := "services." + part.Key()
			if i > 0 {
				key += fmt.Sprintf(".replicas[%d]", i-1)
			}
			check(key+".http", addr.HTTP, false)
			c.validateInner(v, key+".inner", part, addr, check)
			if part.GRPC {
				check(key+".grpc", addr.GRPC, true)
			} else if addr.GRPC != "" {
				v.fail(key+".grpc", "this service speaks HTTP only; remove the key")
			}
		}
	}
}

// validateInner wants who is trusted for its address to be one whom nobody else can stand in for:
// any process of this machine may take a port that is free for a moment.
func (c *Config) validateInner(v *validator, key string, part topology.Part, at Endpoint, check func(string, string, bool) netaddr.Addr) {
	switch {
	case at.Inner == "":
	case !part.Inner:
		v.fail(key, "no other part calls this service there; remove the key")
	case check(key, at.Inner, true).Network == "tcp" && !c.TLS.Mutual():
		v.fail(key, "nothing proves who answers on a port: write unix:path, or set tls.mode: mutual")
	}
}

// keyMember is where a provider's file names its key.
func keyMember(p Provider) string {
	switch {
	case len(p.Keys) > 0:
		return "keys"
	case p.APIKeyEnv == "":
		return "api_key_file"
	}
	return "api_key_env"
}

// validateSecrets refuses to hand providers' keys to whoever connects to xds.
func (c *Config) validateSecrets(v *validator) {
	if at, err := netaddr.Parse(c.Services.XDS.GRPC); err != nil || at.Network == "unix" || c.TLS.Mutual() {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		if c.Providers[name].Keyed() {
			v.fail("providers."+name+"."+keyMember(c.Providers[name]), "services.xds.grpc is a port, and xds would give the key to every process that connects: write services.xds.grpc: \"unix:run/xds.sock\", or set tls.mode: mutual")
		}
	}
}

// closedAddress reports whether a host is one that is never called: link-local (RFC 3927, RFC
// 4291 2.5.6), where the metadata services of clouds are, multicast, or none at all.
func closedAddress(host string) bool {
	if strings.TrimSuffix(strings.ToLower(host), ".") == "metadata.google.internal" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	addr = addr.Unmap()
	return addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified()
}

func (c *Config) validateProviders(v *validator) {
	for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
		p, key := c.Providers[name], "providers."+name
		if !providerName.MatchString(name) {
			v.fail(key, "a provider's name is lower-case letters, digits and hyphens, at most 32")
		}
		v.oneOf(key+".protocol", string(p.Protocol), string(ProtocolOpenAI), string(ProtocolAnthropic), string(ProtocolGemini))
		if u, err := url.Parse(p.URL); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.RawQuery != "" ||
			u.Fragment != "" || u.User != nil {
			v.fail(key+".url", "write http(s)://host[:port][/prefix], without credentials, query or fragment (or set %s)", providerVariable(name))
		}
		if u, err := url.Parse(p.URL); err == nil && closedAddress(u.Hostname()) {
			v.fail(key+".url", "no provider is at %s: link-local addresses are where a cloud keeps its machines' credentials", u.Hostname())
		} else if err == nil {
			v.port(key+".url", u)
		}
		p.validatePreset(v, key)
		p.validateUpstream(v, key)
		between(v, key+".connect_timeout", p.ConnectTimeout, 10*time.Millisecond, time.Minute)
		between(v, key+".max_requests", p.MaxRequests, 1, 1_000_000)
		between(v, key+".max_pending", p.MaxPending, 1, 1_000_000)
		if !(p.TokensPerByte > 0 && p.TokensPerByte <= 1) {
			v.fail(key+".tokens_per_byte", "%v is out of range; it must be above 0 and at most 1", p.TokensPerByte)
		}
		between(v, key+".fill_max_tokens", p.OutputFill, 0, 1<<31-1)
		between(v, key+".bytes_per_token", p.BytesPerToken, 0.1, 100_000)
		p.validateEgress(v, key)
		p.validateRequests(v, key)
	}
	c.validateModels(v)
}

func (c *Config) validateModels(v *validator) {
	seen := map[string]bool{}
	for i, m := range c.Models {
		key := fmt.Sprintf("models[%d]", i)
		names := modelName
		if c.Providers[m.Provider].Protocol == ProtocolGemini {
			names = pathModelName
		}
		for _, stated := range []struct{ member, name string }{{".name", m.Name}, {".model", m.Model}} {
			if stated.member == ".model" && m.Model == "" {
				continue // it is called by its name
			}
			name := stated.name
			if _, wild := m.Wildcard(); wild && stated.member == ".name" {
				m.validateWildcard(v, key)
				name = strings.TrimSuffix(name, wildcard) + "x"
			}
			if !names.MatchString(name) || strings.HasSuffix(name, " ") {
				v.fail(key+stated.member, "%q: a model's name is at most 255 letters, digits and . _ : @ / + ~ = , # ( ) - or spaces; with Gemini, whose paths have it, 128 letters, digits and . _ : @ -", name)
			}
		}
		if seen[m.Name] {
			v.fail(key+".name", "%q stands here twice; a model has one provider", m.Name)
		}
		seen[m.Name] = true
		v.oneOf(key+".provider", m.Provider, slices.Sorted(maps.Keys(c.Providers))...)
		v.oneOf(key+".kind", m.Kind, KindChat, KindEmbedding, KindModeration, KindImage, KindSpeech)
		if (m.Kind == KindImage || m.Kind == KindSpeech) && m.MaxOutput == 0 && known(m.Upstream()).maxOutput == 0 {
			v.fail(key+".max_output", "is missing: say at how many tokens one item of a model of kind %s is held, and charged where its provider tells none", m.Kind)
		}
		between(v, key+".max_output", m.MaxOutput, 0, 1<<31-1)
		m.validateRequests(v, key)
	}
	c.validateFallbacks(v)
}

func (c *Config) validateTiers(v *validator) {
	if _, ok := c.Tiers.Levels[c.Tiers.Default]; !ok {
		v.fail("tiers.default", "%q is not among tiers.levels", c.Tiers.Default)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Tiers.Levels)) {
		t, key := c.Tiers.Levels[name], "tiers.levels."+name
		between(v, key+".priority", t.Priority, 0, 1_000_000)
		if !(t.Capacity > 0 && t.Capacity <= 1e9) {
			v.fail(key+".bucket_capacity_multiplier", "%v is out of range; it must be above 0", t.Capacity)
		}
		t.validateBalance(v, key)
		t.validateQuotaMax(v, key)
		if !(t.LeakRate > 0 && t.LeakRate <= 1e9) {
			v.fail(key+".bucket_leak_rate_multiplier", "%v is out of range; it must be above 0", t.LeakRate)
		}
	}
}
