package config

import (
	"regexp"
	"strings"
	"time"
)

// KeyStrategy is by what the gateway tells callers apart when it counts requests.
type KeyStrategy string

// Key strategies. The names are the predecessor's; headers that a client could invent are
// never read: a user or key is the one that extauthz found.
const (
	KeyAuto   KeyStrategy = "AUTO"           // the authenticated user, else the address
	KeyUser   KeyStrategy = "USER_HEADER"    // the authenticated user; an anonymous call is not counted
	KeyAPIKey KeyStrategy = "API_KEY_HEADER" // the API key, else as AUTO
	KeyIP     KeyStrategy = "IP"             // the trusted client address, for everyone
)

// GatewayRateLimit says which requests the gateway counts, and for whom. How many are
// allowed on which route is said in the limits file, by rules under "count: requests".
type GatewayRateLimit struct {
	KeyStrategy KeyStrategy `yaml:"key_strategy"` // default AUTO
	// Whitelist are paths on which nothing is counted and no header is sent: exact, or a
	// prefix that ends in /**. Default: /actuator/**.
	Whitelist []string `yaml:"whitelist"`
}

// ProviderEgress bounds a call that tokensvc makes to a provider through Envoy.
type ProviderEgress struct {
	Timeout       time.Duration `yaml:"timeout"`        // of all attempts together, then it is cancelled; 50ms to 5m, default 2s
	Attempts      int           `yaml:"attempts"`       // 1 to 10, default 3; a 4xx is never tried again
	Backoff       time.Duration `yaml:"backoff"`        // between attempts, on average; 1ms to 30s, default 250ms
	MaxConcurrent int           `yaml:"max_concurrent"` // calls at once; one more is refused without waiting; 1 to 10000, default 20
}

func defaultGateway() Gateway {
	return Gateway{Egress: "unix:run/egress.sock", Fallback: "unix:run/fallback.sock", CORS: defaultCORS(), TLS: GatewayTLS{Clients: ClientsOff}, RateLimit: GatewayRateLimit{KeyStrategy: KeyAuto, Whitelist: []string{"/actuator/**"}}}
}

// fillEgress puts the defaults of provider name where the file says nothing.
func (p *Provider) fillEgress(name string) {
	setDefault(&p.ConsumePath, "/api/v1/"+name+"/chat")
	setDefault(&p.Egress.Timeout, 2*time.Second)
	setDefault(&p.Egress.Attempts, 3)
	setDefault(&p.Egress.Backoff, 250*time.Millisecond)
	setDefault(&p.Egress.MaxConcurrent, 20)
}

// plainPath is an absolute path without anything that two parsers could read differently.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9._~:@/-]*$`)

func (c *Config) validateGateway(v *validator) {
	c.Gateway.CORS.validate(v)
	c.Gateway.TLS.validate(v)
	if addr := v.address("gateway.egress", c.Gateway.Egress, true); addr.Host != "" && !Loopback(addr.Host) {
		v.fail("gateway.egress", "%s is not a loopback address; who reaches this listener calls providers with our keys", addr.Host)
	}
	if addr := v.address("gateway.fallback", c.Gateway.Fallback, true); addr.Network == "tcp" {
		v.fail("gateway.fallback", "who reaches it calls providers in anybody's name: write unix:path")
	}
	v.oneOf("gateway.rate_limit.key_strategy", string(c.Gateway.RateLimit.KeyStrategy), string(KeyAuto), string(KeyUser), string(KeyAPIKey),
		string(KeyIP))
	for _, path := range c.Gateway.RateLimit.Whitelist {
		if !plainPath.MatchString(strings.TrimSuffix(path, "/**") + "/") {
			v.fail("gateway.rate_limit.whitelist", "%q: write a path such as /actuator/info, or a prefix such as /actuator/**", path)
		}
	}
}

func (p Provider) validateEgress(v *validator, key string) {
	if !plainPath.MatchString(p.ConsumePath) {
		v.fail(key+".consume_path", "%q: write an absolute path, such as /api/v1/openai/chat", p.ConsumePath)
	}
	between(v, key+".egress.timeout", p.Egress.Timeout, 50*time.Millisecond, 5*time.Minute)
	between(v, key+".egress.attempts", p.Egress.Attempts, 1, 10)
	between(v, key+".egress.backoff", p.Egress.Backoff, time.Millisecond, 30*time.Second)
	between(v, key+".egress.max_concurrent", p.Egress.MaxConcurrent, 1, 10_000)
}
