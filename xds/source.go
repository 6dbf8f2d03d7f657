package xds

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/spoolfolder"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
	"github.com/leaky-tokens/leaky-tokens/xds/protos"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// source is the files that the configuration comes from.
type source struct {
	dir    string // state folder
	keys   *keys
	certs  *certificates
	trust  protos.Trust
	issuer *mtls.Authority // nil without TLS

	registry *discovery.Tracker // nil: the file alone says where services are
}

// loaded is one good configuration.
type loaded struct {
	settings *settings.Settings
	gateway  *model.Gateway
	snapshot *snapshot.Snapshot
	number   uint64 // the registry's change that it was made at

	limits map[string]types.Resource // for limiters, by domain
	unsaid error                     // why those of some domains are not among them
}

// outsideError is why a content cannot be loaded just now though nothing is wrong with it: what it names
// may be there at the next try. Any other error of load is the content's own and stays.
type outsideError struct{ err error }

func (e *outsideError) Error() string { return e.err.Error() }
func (e *outsideError) Unwrap() error { return e.err }

// load translates and checks; nothing of a bad configuration takes effect. The error is an *outsideError
// where another try may help.
func (s source) load(set *settings.Settings) (loaded, error) {
	next, err := s.translate(set)
	if err != nil {
		return loaded{}, err
	}
	// Envoy makes no folders, and refuses a whole listener without them.
	folders := []string{filepath.Dir(next.gateway.Listener.Spool)}
	for _, inner := range []netaddr.Addr{next.gateway.Egress.Addr, next.gateway.Fallback.Addr} {
		if inner.Network == "unix" {
			folders = append(folders, filepath.Dir(inner.Path))
		}
	}
	for _, folder := range folders {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return loaded{}, &outsideError{fmt.Errorf("make a folder for envoy: %w", err)}
		}
	}
	// Envoy writes there as soon as it hears of it.
	if err := spoolfolder.Check(folders[0], spoolfolder.Of(s.dir)); err != nil {
		return loaded{}, &outsideError{err}
	}
	return next, nil
}

func (s source) translate(set *settings.Settings) (loaded, error) {
	asked := *set.Config
	asked.TLS.Mode = config.TLSOff // as at start: each part reads the mode once
	in := model.Input{Config: &asked, StateDir: s.dir, Limits: set.Limits.Paths(),
		Key: func(name string, k config.ProviderKey) (string, error) { return s.keys.read(set.Path(), name, k) }}
	number := uint64(0)
	if s.registry != nil {
		number, in.Registered, in.Placed = s.registry.Number(), s.registered, s.placed
	}
	if s.issuer != nil {
		asked.TLS.Mode = config.TLSMutual
		in.Identity, in.Roots = s.issuer.Pair(topology.Gateway), s.issuer.Roots()
	}
	certs := s.certs
	if certs == nil {
		certs = newCertificates()
	}
	var stale string
	var err error
	if in.TLS, stale, err = certs.read(set.Path(), asked.Gateway.TLS); err != nil {
		return loaded{}, &outsideError{err}
	}
	g, secrets, err := model.Build(in)
	if err != nil {
		return loaded{}, err
	}
	if stale != "" {
		g.Problems = append(g.Problems, stale)
	}
	snap, err := snapshot.Build(g, secrets, s.trust)
	made := loaded{settings: set, gateway: g, snapshot: snap, number: number, limits: map[string]types.Resource{}}
	for _, text := range set.LimitTexts() {
		rules, unsaid := protos.RateLimits(text)
		if made.unsaid = errors.Join(made.unsaid, unsaid); unsaid == nil {
			made.limits[rules.GetDomain()] = rules
		}
	}
	return made, err
}

// Preview is what a configuration would be for an Envoy, for people to look at: without
// certificates and providers' keys.
func Preview(set *settings.Settings, stateDir string) (*model.Gateway, *snapshot.Snapshot, error) {
	made, err := source{dir: stateDir}.translate(set)
	return made.gateway, made.snapshot, err
}

// systemTrust finds the machine's root certificates: SSL_CERT_FILE, else where the
// distributions keep them.
func systemTrust(getenv func(string) string) protos.Trust {
	for _, file := range []string{getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/cert.pem"} {
		if info, err := os.Stat(file); file != "" && err == nil && info.Mode().IsRegular() {
			return protos.Trust{File: file}
		}
	}
	return protos.Trust{}
}
