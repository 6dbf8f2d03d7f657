package xds

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// probeTimeout bounds one look at whether a service answers.
const probeTimeout = 500 * time.Millisecond

// Handler is the HTTP side: what is configured, what runs, and who took it.
func (x *XDS) Handler() *httpapi.Mux {
	mux := &httpapi.Mux{}
	handle := func(pattern string, f func(*http.Request) any) {
		mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) { httpapi.WriteJSON(w, http.StatusOK, f(r)) })
	}
	handle("/v1/config", func(*http.Request) any { return x.status() })
	handle("/v1/clients", func(*http.Request) any { return map[string]any{"clients": x.server.Clients()} })
	handle("/v1/services", func(r *http.Request) any { return map[string]any{"services": x.services(r.Context())} })
	x.serveConfig(mux)
	return mux
}

// Ready is an error until the first configuration is published.
func (x *XDS) Ready(context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.live.snapshot == nil {
		return errors.New("no configuration is published yet")
	}
	return nil
}

// Status is the live configuration.
type Status struct {
	Path      string            `json:"path,omitempty"`    // of leaky.yaml; empty: the built-in one
	Version   string            `json:"version"`           // hash of all that Envoys run
	Content   string            `json:"content,omitempty"` // hash of the files it was made from
	Since     time.Time         `json:"since"`
	Versions  map[string]string `json:"versions"`           // hash by type
	Resources map[string]int    `json:"resources"`          // how many by type
	Refused   *Failure          `json:"refused,omitempty"`  // the files' present content, if it was not taken
	Problems  []string          `json:"problems,omitempty"` // what does not work of the live one, while the rest does
}

func (x *XDS) status() Status {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := Status{Since: x.since, Versions: map[string]string{}, Resources: map[string]int{}, Refused: x.failed}
	if x.live.snapshot == nil {
		return s
	}
	s.Problems = x.live.gateway.Problems
	s.Version, s.Path, s.Content = x.live.snapshot.Version, x.live.settings.Path(), x.live.settings.Hash
	for _, t := range snapshot.Types() {
		s.Versions[snapshot.ShortType(t)] = x.live.snapshot.TypeVersion(t)
		s.Resources[snapshot.ShortType(t)] = len(x.live.snapshot.Resources[t])
	}
	return s
}

// Service is one process that Envoy sends requests to, or a provider, or another process that
// registered. What it says of itself is there if it did.
type Service struct {
	Name    string          `json:"name"`
	Address string          `json:"address"`
	Healthy bool            `json:"healthy"` // it says so; where nobody registered: something accepts connections there
	Part    string          `json:"part,omitempty"`
	State   discovery.State `json:"state,omitempty"`
	Weight  uint32          `json:"weight,omitempty"`
	Zone    string          `json:"zone,omitempty"`
}

func (x *XDS) services(ctx context.Context) []Service {
	x.mu.Lock()
	gateway := x.live.gateway
	x.mu.Unlock()
	if gateway == nil {
		return []Service{}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	// A provider's second cluster, that of the egress listener, has the same address.
	clusters := slices.DeleteFunc(slices.Clone(gateway.Clusters), func(c model.Cluster) bool { return c.Bulkhead })
	var found []Service
	var at []netaddr.Addr
	for _, c := range clusters {
		for _, addr := range c.Addrs() {
			found, at = append(found, Service{Name: cmp.Or(c.Stat, c.Name), Address: addr.String()}), append(at, addr)
		}
	}
	found = x.withRegistered(found)
	var wg sync.WaitGroup
	for i, addr := range at {
		if found[i].State == "" {
			wg.Go(func() { found[i].Healthy = accepts(ctx, addr) })
		}
	}
	wg.Wait()
	return found
}

func accepts(ctx context.Context, addr netaddr.Addr) bool {
	address := addr.String()
	if addr.Network == "unix" {
		address = addr.Path
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, addr.Network, address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
