// Package endpointslices is beside the request path: it follows the EndpointSlices of a Kubernetes
// API server, so that xds knows the pods behind a Service as soon as they are ready, and before they
// end. The reading, the watching and the beginning anew after an outage are client-go's.
package endpointslices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
)

// most is how many pods of one Service are taken: Envoy checks and balances each of them.
const most = 1000

// Config is what a Follower needs.
type Config struct {
	Kubeconfig string // path; empty: the API server of the cluster that this process runs in
	Services   map[string]config.KubernetesService
	// Placed is told where a service is, by its name in Services, whenever that changed. It must not
	// block.
	Placed func(service string, at []discovery.Instance)
	Log    *slog.Logger
}

// Follower follows the slices of some Services.
type Follower struct {
	c       Config
	client  *rest.RESTClient
	unheard atomic.Bool // the API server is, and that was said
}

// New finds the API server; it starts nothing and asks it nothing.
func New(c Config) (*Follower, error) {
	find := rest.InClusterConfig
	if c.Kubeconfig != "" {
		find = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", c.Kubeconfig) }
	}
	to, err := find()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("find the API server of Kubernetes: this process runs in no cluster, or its pod mounts no token of its " +
			"service account; name a file in discovery.kubernetes.kubeconfig")
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server of Kubernetes: %w", err)
	}
	known := runtime.NewScheme()
	if err := discoveryv1.AddToScheme(known); err != nil {
		return nil, fmt.Errorf("know EndpointSlices: %w", err)
	}
	metav1.AddToGroupVersion(known, metav1.SchemeGroupVersion)
	to.GroupVersion, to.APIPath = &discoveryv1.SchemeGroupVersion, "/apis"
	to.NegotiatedSerializer = serializer.NewCodecFactory(known).WithoutConversion()
	to.UserAgent = "leaky-tokens"
	client, err := rest.RESTClientFor(to)
	if err != nil {
		return nil, fmt.Errorf("reach the API server of Kubernetes: %w", err)
	}
	return &Follower{c: c, client: client}, nil
}

// Run follows until ctx ends. While the API server is away what it said last holds.
func (f *Follower) Run(ctx context.Context) error {
	// What client-go says beside what failed reports is of use to who looks for a fault in it.
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(f.c.Log.Handler()).V(1))
	g, ctx := errgroup.WithContext(ctx)
	for name, of := range f.c.Services {
		g.Go(func() error { return f.follow(ctx, name, of) })
	}
	return g.Wait()
}

func (f *Follower) follow(ctx context.Context, name string, of config.KubernetesService) error {
	informer := cache.NewSharedInformer(cache.NewFilteredListWatchFromClient(f.client, "endpointslices", of.Namespace,
		func(o *metav1.ListOptions) {
			o.LabelSelector = labels.Set{discoveryv1.LabelServiceName: of.Name}.String()
		}), &discoveryv1.EndpointSlice{}, 0)
	if err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		f.failed(ctx, name, err)
	}); err != nil {
		return fmt.Errorf("follow %s: %w", name, err)
	}
	var mu sync.Mutex
	var told []discovery.Instance
	changed := func(any) {
		mu.Lock()
		defer mu.Unlock()
		f.unheard.Store(false)
		if at := f.pods(name, of, informer.GetStore().List()); !slices.Equal(at, told) {
			told = at
			f.c.Placed(name, at)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, after any) { changed(after) }, DeleteFunc: changed}); err != nil {
		return fmt.Errorf("follow %s: %w", name, err)
	}
	informer.RunWithContext(ctx)
	return nil
}

// failed says once that the API server does not answer, until it does again. client-go asks again,
// after longer and longer waits.
func (f *Follower) failed(ctx context.Context, name string, err error) {
	if ctx.Err() == nil && f.unheard.CompareAndSwap(false, true) {
		f.c.Log.Warn("where pods are is not heard, what was said last holds", slog.String("service", name), slog.Any("error", err))
	}
}

// pods are the endpoints of a Service's slices, sorted by address: those of one family of addresses,
// as a pod of two has an endpoint in each, and each once, as a pod may be in two slices for a moment
// (Kubernetes, EndpointSlices, "Duplicate endpoints").
func (f *Follower) pods(name string, of config.KubernetesService, all []any) []discovery.Instance {
	found := map[discoveryv1.AddressType]map[string]discovery.Instance{discoveryv1.AddressTypeIPv4: {}, discoveryv1.AddressTypeIPv6: {}}
	for _, one := range all {
		slice, ok := one.(*discoveryv1.EndpointSlice)
		if !ok || found[slice.AddressType] == nil {
			continue
		}
		for _, e := range slice.Endpoints {
			for _, i := range instances(name, of.Port, slice.Ports, e) {
				if before, twice := found[slice.AddressType][i.Address]; !twice || before.State != discovery.Serving {
					found[slice.AddressType][i.Address] = i
				}
			}
		}
	}
	at := found[discoveryv1.AddressTypeIPv4]
	if len(at) == 0 {
		at = found[discoveryv1.AddressTypeIPv6]
	}
	sorted := slices.SortedFunc(maps.Values(at), func(x, y discovery.Instance) int { return cmp.Compare(x.Address, y.Address) })
	if len(sorted) > most {
		f.c.Log.Warn("a Service has more pods than are called", slog.String("service", name), slog.Int("pods", len(sorted)),
			slog.Int("called", most))
		sorted = sorted[:most]
	}
	return sorted
}

// instances is an endpoint as the registry has processes: none, if it has no such port or an address
// that no pod can have.
func instances(name, port string, ports []discoveryv1.EndpointPort, e discoveryv1.Endpoint) []discovery.Instance {
	at := slices.IndexFunc(ports, func(p discoveryv1.EndpointPort) bool {
		return p.Port != nil && (p.Name != nil && *p.Name == port || strconv.Itoa(int(*p.Port)) == port) &&
			(p.Protocol == nil || *p.Protocol == "TCP")
	})
	if at < 0 || len(e.Addresses) == 0 {
		return nil
	}
	ip, err := netip.ParseAddr(e.Addresses[0]) // further ones mean nothing (API reference)
	if err != nil || !ip.IsGlobalUnicast() || ip.Zone() != "" {
		return nil
	}
	i := discovery.Instance{Service: name, Site: discovery.Kubernetes, Part: ip.String(), Weight: 1, State: state(e.Conditions),
		Address: net.JoinHostPort(ip.String(), strconv.Itoa(int(*ports[at].Port)))}
	if e.TargetRef != nil && e.TargetRef.Name != "" {
		i.Part = e.TargetRef.Name
	}
	if e.Zone != nil {
		i.Zone = *e.Zone
	}
	return []discovery.Instance{i}
}

// state reads the conditions, of which one that is not stated means ready (API reference,
// EndpointConditions).
func state(c discoveryv1.EndpointConditions) discovery.State {
	switch {
	case c.Terminating != nil && *c.Terminating:
		return discovery.Leaving
	case c.Ready == nil || *c.Ready:
		return discovery.Serving
	}
	return discovery.Unready
}
