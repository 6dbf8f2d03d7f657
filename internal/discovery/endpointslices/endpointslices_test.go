package endpointslices

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// slice has pods as ADDRESS or ADDRESS-ready, -unready or -ending, below two ports.
func slice(family discoveryv1.AddressType, pods ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: family, Ports: []discoveryv1.EndpointPort{
		{Name: new("dns"), Port: new(int32(53)), Protocol: new(corev1.ProtocolUDP)},
		{Name: new("http"), Port: new(int32(8000))}, {Name: new("metrics"), Port: new(int32(9000))}}}
	for _, pod := range pods {
		address, state, _ := strings.Cut(pod, "-")
		e := discoveryv1.Endpoint{Addresses: []string{address}}
		if state != "" {
			e.Conditions.Ready = new(state == "ready")
			e.Conditions.Terminating = new(state == "ending")
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func TestPods(t *testing.T) {
	t.Parallel()
	v4, v6 := discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	for name, c := range map[string]struct {
		port string
		all  []any
		want string
	}{
		"none":                           {"http", nil, ""},
		"conditions":                     {"http", []any{slice(v4, "10.0.0.1", "10.0.0.2-ready", "10.0.0.3-unready", "10.0.0.4-ending")}, "10.0.0.1:8000=serving 10.0.0.2:8000=serving 10.0.0.3:8000=unready 10.0.0.4:8000=leaving"},
		"sorted, of two slices":          {"http", []any{slice(v4, "10.0.0.2"), slice(v4, "10.0.0.1")}, "10.0.0.1:8000=serving 10.0.0.2:8000=serving"},
		"in two slices, ready in one":    {"http", []any{slice(v4, "10.0.0.1-ready"), slice(v4, "10.0.0.1-unready")}, "10.0.0.1:8000=serving"},
		"the other way round":            {"http", []any{slice(v4, "10.0.0.1-unready"), slice(v4, "10.0.0.1-ready")}, "10.0.0.1:8000=serving"},
		"a port by number":               {"9000", []any{slice(v4, "10.0.0.1")}, "10.0.0.1:9000=serving"},
		"no such port":                   {"grpc", []any{slice(v4, "10.0.0.1")}, ""},
		"a port of UDP":                  {"dns", []any{slice(v4, "10.0.0.1")}, ""},
		"both families":                  {"http", []any{slice(v6, "fd00::1"), slice(v4, "10.0.0.1")}, "10.0.0.1:8000=serving"},
		"the newer family alone":         {"http", []any{slice(v6, "fd00::1")}, "[fd00::1]:8000=serving"},
		"names":                          {"http", []any{slice(discoveryv1.AddressTypeFQDN, "a.example")}, ""},
		"addresses that no pod can have": {"http", []any{slice(v4, "127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "nonsense", "")}, ""},
		"what is no slice":               {"http", []any{"nonsense", nil}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &Follower{c: Config{Log: slog.New(slog.DiscardHandler)}}
			var got []string
			for _, i := range f.pods("ratelimit", config.KubernetesService{Port: c.port}, c.all) {
				got = append(got, i.Address+"="+string(i.State))
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("want %q, got %q", c.want, text)
			}
		})
	}
}

// TestMorePodsThanAreCalled: Envoy gets no endless list.
func TestMorePodsThanAreCalled(t *testing.T) {
	t.Parallel()
	var many []any
	for i := range 8 {
		var pods []string
		for j := range 200 {
			pods = append(pods, fmt.Sprintf("10.0.%d.%d", i, j))
		}
		many = append(many, slice(discoveryv1.AddressTypeIPv4, pods...))
	}
	f := &Follower{c: Config{Log: slog.New(slog.DiscardHandler)}}
	got := f.pods("ratelimit", config.KubernetesService{Port: "http"}, many)
	if len(got) != most || !slices.Equal(got, f.pods("ratelimit", config.KubernetesService{Port: "http"}, many)) {
		t.Errorf("want the same %d, got %d", most, len(got))
	}
}

func TestAFollowerNeedsACluster(t *testing.T) {
	t.Parallel()
	for kubeconfig, want := range map[string]string{"": "discovery.kubernetes.kubeconfig", "none": "none"} {
		if _, err := New(Config{Kubeconfig: kubeconfig}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want an error with %q, got %v", kubeconfig, want, err)
		}
	}
}
