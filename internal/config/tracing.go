package config

import (
	"net/url"
	"time"
)

// Tracing is where spans of calls go, and of which calls. Envoy follows it while it runs; the other
// parts have it from their start.
type Tracing struct {
	OTLP   string        `yaml:"otlp"`   // a collector that takes OTLP over gRPC, http(s)://host:port; empty: nothing is traced
	Sample float64       `yaml:"sample"` // share of the calls whose every span is kept, 0 to 1, default 0.01
	Slow   time.Duration `yaml:"slow"`   // a call whose answer began later is kept like a refused and a failed one, default 10s
}

func defaultTracing() Tracing { return Tracing{Sample: 0.01, Slow: 10 * time.Second} }

func (t Tracing) validate(v *validator) {
	u, err := url.Parse(t.OTLP)
	switch {
	case t.OTLP == "":
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" ||
		u.Fragment != "" || u.User != nil:
		v.fail("tracing.otlp", "write http(s)://host[:port] of a collector that takes OTLP over gRPC, without path, credentials or query")
	case closedAddress(u.Hostname()):
		v.fail("tracing.otlp", "no collector is at %s: link-local addresses are where a cloud keeps its machines' credentials", u.Hostname())
	default:
		v.port("tracing.otlp", u)
	}
	if !(t.Sample >= 0 && t.Sample <= 1) {
		v.fail("tracing.sample", "%v is out of range; it must be 0 to 1: 0.01 is one call in a hundred", t.Sample)
	}
	between(v, "tracing.slow", t.Slow, time.Millisecond, time.Hour)
}
