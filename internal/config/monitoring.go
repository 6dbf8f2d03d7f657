package config

import (
	"net/url"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Monitoring is what `leaky up` starts to watch the other parts. Where the programs are not on the
// machine, the stack runs without them.
type Monitoring struct {
	Prometheus   string        `yaml:"prometheus"`   // host:port on loopback, default 127.0.0.1:9090; off: not started
	Alertmanager string        `yaml:"alertmanager"` // the same, default 127.0.0.1:9093
	Every        time.Duration `yaml:"every"`        // how often parts are scraped and rules evaluated, default 15s
	Retention    time.Duration `yaml:"retention"`    // how long samples are kept, default 360h
	Webhook      string        `yaml:"webhook"`      // where alerts are posted, http(s)://...; empty: they stand at Alertmanager's page only
}

// MonitorOff is the address of a monitor that is not started.
const MonitorOff = "off"

func defaultMonitoring() Monitoring {
	return Monitoring{Prometheus: "127.0.0.1:9090", Alertmanager: "127.0.0.1:9093", Every: 15 * time.Second, Retention: 360 * time.Hour}
}

// At is where a monitor listens; false: it is not started.
func (m Monitoring) At(part string) (string, bool) {
	address := m.Prometheus
	if part == topology.Alertmanager {
		address = m.Alertmanager
	}
	return address, address != MonitorOff
}

// validate wants loopback: neither asks for a credential.
func (m Monitoring) validate(v *validator, check func(key, value string)) {
	for _, part := range topology.Of(topology.Monitor) {
		key := "monitoring." + part.Key()
		address, on := m.At(part.Name)
		if !on {
			continue
		}
		check(key, address)
		if at, err := netaddr.Parse(address); err == nil && at.Host != "" && !Loopback(at.Host) {
			v.fail(key, "%s is not a loopback address; it asks nobody for a credential, so put a proxy that does before it", at.Host)
		}
	}
	between(v, "monitoring.every", m.Every, time.Second, time.Minute)
	between(v, "monitoring.retention", m.Retention, time.Hour, 10_000*time.Hour)
	if u, err := url.Parse(m.Webhook); m.Webhook != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
		v.fail("monitoring.webhook", "write http(s)://host[:port][/path]")
	}
}
