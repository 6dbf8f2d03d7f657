package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Discovery is how processes of services are known.
type Discovery struct {
	Lease      time.Duration `yaml:"lease"` // a process that is not heard for so long is called no more, 1s to 1m, default 5s
	Kubernetes Kubernetes    `yaml:"kubernetes"`
}

// Kubernetes is what the EndpointSlices of an API server tell.
type Kubernetes struct {
	Kubeconfig string                       `yaml:"kubeconfig"` // absolute path of a file that says where the API server is; empty: that of the cluster that xds runs in
	Providers  map[string]KubernetesService `yaml:"providers"`  // by provider: the Service whose pods are called, in place of its url's address
	Services   map[string]KubernetesService `yaml:"services"`   // by service of ours: the Service whose pods serve, in TLS mode mutual
}

// KubernetesService is a Service of Kubernetes, as NAMESPACE/NAME:PORT. PORT is the port's name in the
// Service, or the number at the pods.
type KubernetesService struct{ Namespace, Name, Port string }

// kubernetesName is a label of DNS (RFC 1123), as namespaces, Services and ports are named.
var kubernetesName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// UnmarshalYAML reads NAMESPACE/NAME:PORT.
func (s *KubernetesService) UnmarshalYAML(read func(any) error) error {
	var all string
	if err := read(&all); err != nil {
		return err
	}
	namespace, rest, _ := strings.Cut(all, "/")
	name, port, _ := strings.Cut(rest, ":")
	*s = KubernetesService{namespace, name, port}
	return nil
}

// String is the form that UnmarshalYAML reads.
func (s KubernetesService) String() string {
	return fmt.Sprintf("%s/%s:%s", s.Namespace, s.Name, s.Port)
}

// Any reports whether something is looked up there.
func (k Kubernetes) Any() bool { return len(k.Providers)+len(k.Services) > 0 }

func defaultDiscovery() Discovery { return Discovery{Lease: 5 * time.Second} }

func (c *Config) validateDiscovery(v *validator) {
	between(v, "discovery.lease", c.Discovery.Lease, time.Second, time.Minute)
	k := c.Discovery.Kubernetes
	if k.Kubeconfig != "" && !filepath.IsAbs(k.Kubeconfig) {
		v.fail("discovery.kubernetes.kubeconfig", "%q: write an absolute path", k.Kubeconfig)
	}
	named := func(key string, s KubernetesService) {
		for _, word := range []string{s.Namespace, s.Name, s.Port} {
			if !kubernetesName.MatchString(word) {
				v.fail(key, "%q: write NAMESPACE/NAME:PORT, as in models/vllm:http", s)
				return
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.Providers)) {
		key := "discovery.kubernetes.providers." + name
		if _, ok := c.Providers[name]; !ok {
			v.fail(key, "there is no such provider; add providers.%s, or remove the line", name)
		}
		named(key, k.Providers[name])
	}
	for _, name := range slices.Sorted(maps.Keys(k.Services)) {
		key := "discovery.kubernetes.services." + name
		named(key, k.Services[name])
		part, ok := topology.Find(name)
		if !ok || !part.Cluster || !part.Replicas {
			v.fail(key, "Envoy calls no service of this name that may have several processes; it may be %s",
				strings.Join(topology.Names(topology.Having(func(p topology.Part) bool { return p.Cluster && p.Replicas })), ", "))
			continue
		}
		if !c.TLS.Mutual() {
			v.fail(key, "nothing proves who answers at a pod: set tls.mode: mutual, or remove the line")
			continue
		}
		called := c.Services.Named(name).Called()
		if part.GRPC {
			called = c.Services.Named(name).GRPC
		}
		if at, err := netaddr.Parse(called); err == nil && (at.Network != "tcp" || at.Named()) {
			v.fail(key, "pods stand beside an address as 127.0.0.1:8084, and services.%s is at %s", part.Key(), called)
		}
	}
}
