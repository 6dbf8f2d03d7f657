package config

import "time"

// TLSMode is how the parts talk to each other.
type TLSMode string

// TLS modes.
const (
	TLSOff    TLSMode = "off"    // plain; for parts that meet on loopback
	TLSMutual TLSMode = "mutual" // both sides show a certificate that xds issued
)

// TLS is how Envoy and the services, and services among each other, talk over TCP. Unix
// sockets are guarded by their file's mode in either case.
type TLS struct {
	Mode     TLSMode       `yaml:"mode"`     // default off; read at start only
	Lifetime time.Duration `yaml:"lifetime"` // of a certificate, 1m to 2160h, default 24h; renewed at half of it
}

func defaultTLS() TLS { return TLS{Mode: TLSOff, Lifetime: 24 * time.Hour} }

func (t TLS) validate(v *validator) {
	v.oneOf("tls.mode", string(t.Mode), string(TLSOff), string(TLSMutual))
	between(v, "tls.lifetime", t.Lifetime, time.Minute, 90*24*time.Hour)
}

// Mutual reports whether callers must show a certificate.
func (t TLS) Mutual() bool { return t.Mode == TLSMutual }
