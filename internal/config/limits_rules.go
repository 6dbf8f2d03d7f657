package config

import (
	"slices"
	"strconv"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// defaultIdle is limits.idle_after.
const defaultIdle = time.Hour

// OtherEnvoys is where Envoys that are not ours ask about requests in limits.domains, and
// nothing else. The first process of ratelimit listens there.
type OtherEnvoys struct {
	Listen  string   `yaml:"listen"`  // host:port or unix:path (relative to the state folder); empty: nowhere
	Headers bool     `yaml:"headers"` // their clients get x-ratelimit-* and retry-after, and a body of refusals; default true
	Local   bool     `yaml:"local"`   // callers above the limit of a window are refused without Redis until it ends; default true
	Names   []string `yaml:"names"`   // in TLS mode mutual xds issues a certificate for each, secrets/tls/envoy-NAME.pem
}

func (o OtherEnvoys) validate(v *validator, t TLS) {
	if o.Listen == "" {
		if len(o.Names) > 0 {
			v.fail("limits.envoys.names", "names Envoys that have nowhere to ask; set limits.envoys.listen, or remove it")
		}
		return
	}
	at, err := netaddr.Parse(o.Listen) // which validateServices checks
	if t.Mutual() && err == nil && at.Network == "tcp" && len(o.Names) == 0 {
		v.fail("limits.envoys.names", "in tls.mode mutual only Envoys with a certificate may ask on a port; name them, each gets secrets/tls/envoy-NAME.pem")
	}
	for i, name := range o.Names {
		key := "limits.envoys.names." + strconv.Itoa(i)
		switch {
		case !providerName.MatchString(name):
			v.fail(key, "%q: a name is lower-case letters, digits and hyphens, at most 32", name)
		case slices.Index(o.Names, name) != i:
			v.fail(key, "%q is there already; name each once", name)
		}
	}
}

func (l Limits) validateRules(v *validator) {
	between(v, "limits.idle_after", l.Idle, time.Minute, 366*24*time.Hour)
	for i, file := range l.Domains {
		key := "limits.domains." + strconv.Itoa(i)
		switch {
		case file == "":
			v.fail(key, "is empty; name a file of limits")
		case slices.Index(l.Domains, file) != i:
			v.fail(key, "names a file that is there already; name each once")
		}
	}
}
