package config

import "time"

// Discovery is how processes of services are known.
type Discovery struct {
	Lease time.Duration `yaml:"lease"` // a process that is not heard for so long is called no more, 1s to 1m, default 5s
}

func defaultDiscovery() Discovery { return Discovery{Lease: 5 * time.Second} }

func (d Discovery) validate(v *validator) {
	between(v, "discovery.lease", d.Lease, time.Second, time.Minute)
}
