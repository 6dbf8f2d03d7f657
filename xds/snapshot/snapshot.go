// Package snapshot is the complete configuration of an Envoy at one moment: every
// resource, a version that is the hash of its content, and the checks that it hangs
// together. Envoy would accept a route to a cluster that does not exist.
package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
	"github.com/leaky-tokens/leaky-tokens/xds/protos"
)

// Resources are one type's resources by name.
type Resources map[string]types.Resource

// Snapshot is what one Envoy is to run.
type Snapshot struct {
	Version   string                       // hash over everything
	Resources map[string]Resources         // by type URL
	versions  map[string]string            // hash of each type
	each      map[string]map[string]string // hash of each resource, by type URL and name
	cache     func() *cachev3.Snapshot
}

// Types are the type URLs of a snapshot, in the order in which they are pushed.
func Types() []string {
	return []string{resourcev3.SecretType, resourcev3.ClusterType, resourcev3.EndpointType, resourcev3.ListenerType, resourcev3.RouteType}
}

// ShortType is the message's name of a type URL without its package: Cluster, RouteConfiguration.
func ShortType(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

// Build translates a gateway and checks it.
func Build(g *model.Gateway, secrets []model.Secret, trust protos.Trust) (*Snapshot, error) {
	if err := checkModel(g, secrets); err != nil {
		return nil, fmt.Errorf("check snapshot: %w", err)
	}
	r := map[string]Resources{}
	for _, t := range Types() {
		r[t] = Resources{}
	}
	for _, s := range secrets {
		r[resourcev3.SecretType][s.Name] = protos.Secret(s)
	}
	for _, c := range g.Clusters {
		r[resourcev3.ClusterType][c.Name] = protos.Cluster(c, trust)
		if protos.Discovered(c) {
			r[resourcev3.EndpointType][c.Name] = protos.Endpoints(c)
		}
	}
	r[resourcev3.ListenerType][protos.ListenerName] = protos.Listener(g.Listener)
	r[resourcev3.RouteType][protos.RoutesName] = protos.Routes(g)
	r[resourcev3.ListenerType][protos.EgressName] = protos.EgressListener(g.Egress)
	r[resourcev3.RouteType][protos.EgressName] = protos.EgressRoutes(g.Egress)
	if len(g.Fallback.Routes) > 0 {
		r[resourcev3.ListenerType][protos.FallbackName] = protos.FallbackListener(g.Fallback.Listener)
		r[resourcev3.RouteType][protos.FallbackName] = protos.FallbackRoutes(g)
	}
	s, err := New(r)
	if err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("check snapshot: %w", err)
	}
	return s, nil
}

// New hashes a set of resources. What known has already (the same message, not an equal
// one) is not hashed again, so that a change of one resource among thousands stays cheap.
func New(r map[string]Resources, known ...*Snapshot) (*Snapshot, error) {
	s := &Snapshot{Resources: r, versions: map[string]string{}, each: map[string]map[string]string{}}
	all := sha256.New()
	for _, t := range Types() {
		h := sha256.New()
		s.each[t] = make(map[string]string, len(r[t]))
		for _, name := range slices.Sorted(maps.Keys(r[t])) {
			hash, err := hashOf(t, name, r[t][name], known)
			if err != nil {
				return nil, fmt.Errorf("hash %s: %w", name, err)
			}
			s.each[t][name] = hash
			fmt.Fprintf(h, "%s %s\n", name, hash)
		}
		sum := h.Sum(nil)
		s.versions[t] = hex.EncodeToString(sum[:8])
		all.Write(sum)
	}
	s.Version = hex.EncodeToString(all.Sum(nil)[:8])
	s.cache = sync.OnceValue(s.forCache)
	return s, nil
}

func hashOf(typeURL, name string, r types.Resource, known []*Snapshot) (string, error) {
	for _, k := range known {
		if same, ok := k.Resources[typeURL][name]; ok && same == r {
			return k.each[typeURL][name], nil
		}
	}
	text, err := cachev3.MarshalResource(r)
	if err != nil {
		return "", err
	}
	return cachev3.HashResource(text), nil // as the delta server states it in each resource
}

// TypeVersion is the hash of one type's resources.
func (s *Snapshot) TypeVersion(typeURL string) string { return s.versions[typeURL] }

// ResourceVersions are the hashes of one type's resources by name.
func (s *Snapshot) ResourceVersions(typeURL string) map[string]string { return s.each[typeURL] }

// Cache is the snapshot as the delta server's cache takes it: one for all Envoys, not to be changed.
func (s *Snapshot) Cache() *cachev3.Snapshot { return s.cache() }

func (s *Snapshot) forCache() *cachev3.Snapshot {
	out := &cachev3.Snapshot{VersionMap: s.each}
	for _, t := range Types() {
		kind := cachev3.GetResponseType(t)
		out.Resources[kind] = cachev3.NewResources(s.versions[t], slices.Collect(maps.Values(s.Resources[t])))
	}
	return out
}

// Adding is s with the resources of some types in other's form, beside those that other lacks:
// the step that brings what is new before anything uses it.
func (s *Snapshot) Adding(other *Snapshot, typeURLs ...string) (*Snapshot, error) {
	r := maps.Clone(s.Resources)
	for _, t := range typeURLs {
		r[t] = over(s.Resources[t], other.Resources[t])
	}
	return New(r, s, other)
}

// over lays one set of resources over another.
func over(below, above Resources) Resources {
	all := make(Resources, max(len(below), len(above)))
	maps.Copy(all, below)
	maps.Copy(all, above)
	return all
}

// With is s with more resources of some types: those of other that s does not have.
func (s *Snapshot) With(other *Snapshot, typeURLs ...string) (*Snapshot, error) {
	r := maps.Clone(s.Resources)
	for _, t := range typeURLs {
		r[t] = over(other.Resources[t], s.Resources[t])
	}
	return New(r, s, other)
}

// WithSecret is s with one secret in the place of that of the same name.
func (s *Snapshot) WithSecret(secret model.Secret) (*Snapshot, error) {
	r := maps.Clone(s.Resources)
	r[resourcev3.SecretType] = maps.Clone(r[resourcev3.SecretType])
	r[resourcev3.SecretType][secret.Name] = protos.Secret(secret)
	return New(r, s)
}

// Lost reports whether some resource of the types is in old and not in s.
func (s *Snapshot) Lost(old *Snapshot, typeURLs ...string) bool {
	for _, t := range typeURLs {
		for name := range old.Resources[t] {
			if _, ok := s.Resources[t][name]; !ok {
				return true
			}
		}
	}
	return false
}

// checkModel finds what Envoy would accept and then fail on.
func checkModel(g *model.Gateway, secrets []model.Secret) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	cluster := func(name string) bool {
		return slices.ContainsFunc(g.Clusters, func(c model.Cluster) bool { return c.Name == name })
	}
	need := func(who, name string) {
		if !cluster(name) {
			fail("%s: no cluster %s", who, name)
		}
	}
	for _, r := range slices.Concat(g.Routes, g.Fallback.Routes) {
		switch {
		case r.Rule == "":
			fail("route %s: no authorisation rule", r.Name)
		case (r.Forward == nil) == (r.Reply == nil):
			fail("route %s: must either forward or reply", r.Name)
		case r.Forward != nil && !cluster(r.Forward.Cluster):
			fail("route %s: no cluster %s", r.Name, r.Forward.Cluster)
		case r.Forward != nil:
			for _, share := range slices.Concat(r.Forward.Tries...) {
				need("route "+r.Name, share.Cluster)
			}
		}
	}
	for _, c := range g.Egress.Calls {
		need("egress "+c.Provider, c.Cluster)
	}
	for _, c := range g.Clusters {
		for _, of := range c.Of {
			need("cluster "+c.Name, of)
		}
		if c.Credential != "" && !slices.ContainsFunc(secrets, func(x model.Secret) bool { return x.Name == c.Credential }) {
			fail("cluster %s: no secret %s", c.Name, c.Credential)
		}
	}
	for _, name := range []string{topology.ExtAuthz, topology.RateLimit} {
		if !cluster(name) {
			fail("no cluster %s", name)
		}
	}
	return errors.Join(errs...)
}

// check holds every message to the constraints Envoy states for it. The same mistakes give the same text.
func (s *Snapshot) check() error {
	var errs []error
	for _, t := range Types() {
		for _, name := range slices.Sorted(maps.Keys(s.Resources[t])) {
			if v, ok := s.Resources[t][name].(interface{ ValidateAll() error }); ok {
				if err := v.ValidateAll(); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", name, err))
				}
			}
		}
	}
	return errors.Join(errs...)
}
